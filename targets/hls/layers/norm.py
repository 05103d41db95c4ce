"""Layer normalisation: a row's sums are made while it is read and kept, then it is given out normalised."""

from __future__ import annotations

import math
from collections.abc import Sequence

from targets.hls.expressions import Const, Counter, Element, Expr, Load, Register, Sum, clamp, select, within
from targets.hls.layers.curves import halved, inverse, shifted
from targets.hls.layers.layer import Epilogue, Group, HeadLayer, Unroll
from targets.hls.layers.tensor import Tensor
from targets.hls.layers.windows import used_loops
from targets.hls.program import Channel, Kind, Lanes, Let, Memory, Nest, Process, Read, Repeat, State, Store, Update
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node
from tensorc.ir.ops.fixed_rows import norm_epsilon, norm_limit, norm_root


class Norm(HeadLayer):
    """`outputs` numbers of a row a cycle."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor):
        super().__init__(name, group, head, inputs, output)
        self.count = math.prod(static_shape(head.output.shape)[head.attrs["axis"] :])
        self.title = f"{output.name}: {output.size // self.count} rows of {self.count} normalised"

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        lanes, kind, count, attrs = unroll.outputs, inputs[0].kind, self.count, self.head.attrs
        parts, words = count // self.output.channels, self.output.channels // lanes
        row, part = Counter.of("row", self.output.size // count), Counter.of("part", parts)
        chunk, lane = Counter.of("chunk", words), Counter.of("lane", lanes, is_lane=True)
        place, zero = part * words + chunk, Const.of(0)
        most = max(kind.low**2, kind.high**2)
        kept = Memory("row_kept", kind, lanes, parts * words)
        total = State("total", Kind(min(count * kind.low, 0), count * kind.high), 1)
        squares = State("squares", Kind(0, count * most), 1)

        def now(state: State) -> Expr:
            return Register(state.kind.low, state.kind.high, state.name, zero)

        def added(state: State, term: Expr) -> Update:
            each = Sum(term.low * lanes, term.high * lanes, lane, term) if lanes > 1 else term
            first = part.equals(0) & chunk.equals(0)
            return Update(state, zero, within(select(first, 0, now(state)) + each, state.kind.low, state.kind.high))

        states = (total, squares) if attrs["centred"] else (squares,)
        element = Element(kind.low, kind.high, "word_in", lane if lanes > 1 else zero)
        square = within(element * element, 0, most)
        loops = used_loops((part, chunk))
        take = Nest("sum", loops, (
            Read(inputs[0], "word_in"),
            Lanes(lane, (Store(kept, place, lane, Element(kind.low, kind.high, "word_in", lane)),)),
            *(added(state, term) for state, term in zip(states, (element, square)[-len(states) :], strict=True)),
        ))  # fmt: skip

        mean: Expr = now(total) if attrs["centred"] else zero
        epsilon = norm_epsilon(attrs["epsilon"], count, attrs["fraction"])
        spread = now(squares) * count - mean * mean + epsilon
        variance = Let("variance", within(spread, epsilon, most * count**2 + epsilon))
        root, limit = norm_root(count, attrs["result"]), norm_limit(count, attrs["result"])
        found = inverse(root, variance)
        x = Load(kind.low, kind.high, kept.name, place, lane)
        share = halved(shifted((x * count - mean) * found.y, found.power), root.fraction - attrs["result"])
        epilogue = Epilogue(self.group, self.head.output, self.output)
        normal = clamp(share, -limit, limit)
        written = epilogue.statements(lanes, normal, chunk, row * parts + part, inputs[1:], outputs)
        give = Nest("normalise", loops, (variance, *found.lets, *written))
        memories = (kept, *found.memories, *epilogue.memories)
        return Process(
            self.name, self.title, (Repeat(row, (take, give)),), tuple(inputs), tuple(outputs), memories, states
        )
