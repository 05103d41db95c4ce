"""Softmax of rows in one pass: the sum of exponentials is rescaled whenever a greater number comes (Edge-MoE)."""

from __future__ import annotations

from collections.abc import Sequence

from targets.hls.expressions import Const, Counter, Element, Load, Register, clamp, greater, select, within
from targets.hls.layers.curves import Weights, halved, inverse, shifted
from targets.hls.layers.layer import Epilogue, Group, HeadLayer, Unroll
from targets.hls.layers.tensor import Tensor
from targets.hls.program import Channel, Kind, Let, Memory, Nest, Process, Read, Repeat, State, Store, Update
from tensorc.ir.graph import Node
from tensorc.ir.ops.curves import weight_bits
from tensorc.ir.ops.fixed import fixed_limits
from tensorc.ir.ops.fixed_rows import softmax_reciprocal

#: The sum meets a multiplication and an addition on its way from one number to the next.
_SUM_CYCLES = 2


class Softmax(HeadLayer):
    """A row is read and kept, a number at a time; then its weights are made of it."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor):
        super().__init__(name, group, head, inputs, output)
        self.title = f"{output.name}: softmax of {output.size // output.channels} rows of {output.channels}"

    def choices(self) -> list[Unroll]:
        return [Unroll()]

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:  # noqa: ARG002
        kind, count, width = inputs[0].kind, self.output.channels, self.head.attrs["width"]
        bits, zero, most = weight_bits(count, width + 1), Const.of(0), kind.high - kind.low
        weights = Weights(self.head.attrs["fraction"], bits, most)
        row, place = Counter.of("row", self.output.size // count), Counter.of("place", count)
        kept = Memory("row_kept", kind, 1, count)
        best, total = State("best", Kind(kind.low, kind.high), 1), State("total", Kind(0, count << bits), 1)
        best_now = Register(kind.low, kind.high, best.name, zero)

        # total * factor + term is total * e + 1 where a greater number comes, total + e else.
        x = Let("x", Element(kind.low, kind.high, "word_in", zero))
        before = Let("before", select(place.equals(0), kind.low, best_now))
        rises = Let("rises", before.local < x.local)
        distance = select(rises.local, x.local - before.local, before.local - x.local)
        weight = Let("weight", weights.of(within(distance, 0, most)))
        factor = Let("factor", select(rises.local, weight.local, weights.one))
        term = Let("term", (select(rises.local, weights.one, weight.local) << bits) + (weights.one >> 1))
        scaled = select(place.equals(0), 0, Register(0, total.kind.high, total.name, zero)) * factor.local
        take = Nest("sum", (place,), (
            Read(inputs[0], "word_in"), x, Store(kept, place, zero, x.local), before, rises, weight, factor, term,
            Update(best, zero, greater(before.local, x.local)),
            Update(total, zero, within((scaled + term.local) >> bits, 0, total.kind.high)),
        ), ii=_SUM_CYCLES)  # fmt: skip

        divisor = Let("divisor", Register(weights.one, total.kind.high, total.name, zero))
        reciprocal = softmax_reciprocal(width)
        found = inverse(reciprocal, divisor)
        distance = best_now - Load(kind.low, kind.high, kept.name, place, zero)
        product = weights.of(within(distance, 0, most)) * found.y
        share = halved(shifted(product, found.power - bits), reciprocal.fraction + bits - width)
        epilogue = Epilogue(self.group, self.head.output, self.output)
        written = epilogue.statements(1, clamp(share, *fixed_limits(width, 0)), place, row, inputs[1:], outputs)
        give = Nest("divide", (place,), (divisor, *found.lets, *written))
        memories = (kept, weights.table, *found.memories, *epilogue.memories)
        return Process(self.name, self.title, (Repeat(row, (take, give)),), tuple(inputs), tuple(outputs), memories,
                       (best, total))  # fmt: skip
