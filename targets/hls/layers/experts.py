"""Experts: rows by matrices that each row chose, expert by expert (Edge-MoE's reordering).

All rows are kept, and what they chose is sorted by its expert. Then the experts' matrices are walked once, each for all
of its rows one behind the other, and results go where their rows have them. However rows choose, there are rows times
choices to compute: as many iterations, so the cycles do not depend on data, and none for an expert that nobody chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from targets.hls.expressions import TRUE, Const, Counter, Element, Sum, clamp, select, within
from targets.hls.layers.kept import keep, kept, load, now
from targets.hls.layers.layer import Epilogue, Group, HeadLayer, Unroll, divisors
from targets.hls.layers.product import times
from targets.hls.layers.tensor import Tensor, kind_of
from targets.hls.layers.windows import used_loops
from targets.hls.program import Channel, Kind, Lanes, Let, Memory, Nest, Process, State, Statement, Store, Update, When
from tensorc.errors import UnsupportedError
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node


def evaluations(rows: int, each: int) -> int:
    """Products of a row by a matrix, however many experts there are."""
    return rows * each


class Experts(HeadLayer):
    """Each cycle `inputs` (SIMD) numbers of a row meet weights of `outputs` (PE) channels of an expert."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor):
        super().__init__(name, group, head, inputs, output)
        weights, bias = (group.constant(value) for value in head.inputs[2:4])
        if weights is None or bias is None:
            raise UnsupportedError(f"%{head.output.name}: experts that are computed have no hardware")
        #: [experts, outputs, inputs] and [experts, outputs].
        self.weights = group.grids[head.inputs[2]].raw(weights).transpose(0, 2, 1)
        self.bias = group.grids[head.output].raw(bias)  # as they are added to products
        self.rows, self.each = static_shape(head.inputs[1].shape)
        self.own = static_shape(head.inputs[0].shape)[1] > 1
        experts, width, depth = self.weights.shape
        self.title = f"{output.name}: {self.rows} rows by {self.each} of {experts} matrices {depth}x{width}"

    def choices(self) -> list[Unroll]:
        _, width, depth = self.weights.shape
        return [Unroll(pe, simd) for pe in divisors(width) for simd in divisors(depth)]

    def input_lanes(self, unroll: Unroll) -> tuple[int, ...]:
        return (unroll.inputs, 1, *(unroll.outputs for _ in self.inputs[2:]))

    def _words(self, unroll: Unroll) -> np.ndarray:
        pe, simd = unroll.outputs, unroll.inputs
        experts, width, depth = self.weights.shape
        words = self.weights.reshape(experts, width // pe, pe, depth // simd, simd)
        return words.transpose(0, 1, 3, 2, 4).reshape(-1, pe * simd)

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        pe, simd = unroll.outputs, unroll.inputs
        experts, width, depth = self.weights.shape
        chunks, parts, count = width // pe, depth // simd, self.rows * self.each
        grids, head = self.group.grids, self.head
        sources = self.rows * (self.each if self.own else 1)
        rows = Memory("rows", inputs[0].kind, simd, sources * parts)
        asked = Memory("asked", Kind(0, experts - 1), 1, count)
        #: Of what is computed first, second and so on: which expert, which row of the input, which result.
        order = Memory("order", asked.kind, 1, count)
        source = Memory("source", Kind(0, sources - 1), 1, count)
        target = Memory("target", Kind(0, count - 1), 1, count)
        weight_kind = kind_of(grids[head.inputs[2]])
        weights = Memory("weights", weight_kind, pe * simd, experts * chunks * parts, partial(self._words, unroll))
        grid = grids[head.output]
        summands = Kind(int(self.bias.min()), int(self.bias.max()), grid.fraction)
        bias = Memory("bias", summands, pe, experts * chunks, self.bias.reshape(-1, pe))
        result = Memory("results", kind_of(grid), pe, count * chunks)
        accumulator = State("sum", kind_of(grid), pe)
        nexts = State("next", Kind(0, count), experts)

        steps = (
            keep(rows, inputs[0]),
            self._count(inputs[1], asked, nexts),
            self._sort(asked, nexts, order, source, target),
            self._compute(rows, weights, bias, order, source, target, result, accumulator, chunks, parts),
        )
        row, slot = Counter.of("row", self.rows), Counter.of("slot", self.each)
        chunk, lane = Counter.of("chunk", chunks), Counter.of("lane", pe, is_lane=True)
        at = row * self.each + slot
        epilogue = Epilogue(self.group, head.output, self.output)
        body = epilogue.statements(pe, load(result, at * chunks + chunk, lane), chunk, at, inputs[2:], outputs)
        give = Nest("give", used_loops((row, slot, chunk)), body)
        memories = (rows, asked, order, source, target, weights, bias, result, *epilogue.memories)
        return Process(self.name, self.title, (*steps, give), tuple(inputs), tuple(outputs), memories,
                       (accumulator, nexts))  # fmt: skip

    def _count(self, channel: Channel, asked: Memory, nexts: State) -> Nest:
        """For each expert how many chose one before it: where in the order its own begin."""
        number, expert = Counter.of("number", asked.depth), Counter.of("expert", nexts.lanes, is_lane=True)
        element = Element(channel.kind.low, channel.kind.high, "asked_in", Const.of(0))
        which = Let("which", clamp(element, 0, asked.kind.high))
        read, _ = kept(asked, channel, number)
        before = select(number.equals(0), 0, now(nexts, expert))
        one = select(which.local < expert, 1, 0)
        return Nest("count", (number,), (
            read, which, Store(asked, number, Const.of(0), which.local),
            Lanes(expert, (Update(nexts, expert, within(before + one, 0, nexts.kind.high)),)),
        ))  # fmt: skip

    def _sort(self, asked: Memory, nexts: State, order: Memory, source: Memory, target: Memory) -> Nest:
        row, slot = Counter.of("row", self.rows), Counter.of("slot", self.each)
        expert = Counter.of("expert", nexts.lanes, is_lane=True)
        number = row * self.each + slot
        which = Let("which", load(asked, number))
        mine = select(which.local.equals(expert), now(nexts, expert), 0)
        place = Let("place", within(Sum(0, nexts.kind.high * nexts.lanes, expert, mine), 0, asked.depth - 1))
        more = now(nexts, expert) + select(which.local.equals(expert), 1, 0)
        zero = Const.of(0)
        return Nest("sort", used_loops((row, slot)), (
            which, place, Store(order, place.local, zero, which.local),
            Store(source, place.local, zero, number if self.own else row), Store(target, place.local, zero, number),
            Lanes(expert, (Update(nexts, expert, within(more, 0, nexts.kind.high)),)),
        ))  # fmt: skip

    def _compute(self, rows: Memory, weights: Memory, bias: Memory, order: Memory, source: Memory, target: Memory,
                 result: Memory, accumulator: State, chunks: int, parts: int) -> Nest:  # fmt: skip
        pe, simd = accumulator.lanes, rows.lanes
        entry, chunk, part = Counter.of("entry", order.depth), Counter.of("chunk", chunks), Counter.of("part", parts)
        lane, element = Counter.of("lane", pe, is_lane=True), Counter.of("element", simd, is_lane=True)
        which, row, to = (
            Let(name, load(memory, entry))
            for name, memory in (("which", order), ("row", source), ("to", target))
        )  # fmt: skip
        channel = Let("channel", which.local * chunks + chunk)
        at = Let("weight", channel.local * parts + part)
        from_row = Let("at", row.local * parts + part)
        x = load(rows, from_row.local, element if simd > 1 else 0)
        product = times(load(weights, at.local, lane * simd + element if simd > 1 else lane), x)
        if simd > 1:
            product = Sum(product.low * simd, product.high * simd, element, product)
        first, last = part.equals(0), part.equals(part.high)
        kind = accumulator.kind
        start = select(first, load(bias, channel.local, lane), now(accumulator, lane))
        update = Update(accumulator, lane, within(start + product, kind.low, kind.high))
        store = Store(result, to.local * chunks + chunk, lane, now(accumulator, lane))
        body: list[Statement] = [which, row, to, channel, at, from_row, Lanes(lane, (update,))]
        body.append(Lanes(lane, (store,)) if last == TRUE else When(last, (Lanes(lane, (store,)),)))
        return Nest("compute", used_loops((entry, chunk, part)), tuple(body))
