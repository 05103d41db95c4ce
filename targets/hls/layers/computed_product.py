"""Products of matrices that are computed, both of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from targets.hls.expressions import TRUE, Counter, Expr, select, within
from targets.hls.layers.kept import keep, load, now
from targets.hls.layers.layer import Epilogue, Group, HeadLayer, Unroll
from targets.hls.layers.tensor import Tensor, kind_of
from targets.hls.layers.windows import used_loops
from targets.hls.program import Channel, Lanes, Let, Memory, Nest, Process, Repeat, State, Statement, Update, When
from tensorc.errors import UnsupportedError
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node


class ComputedProduct(HeadLayer):
    """Matrices [M,K] by as many others [K,H] that are computed, too: `outputs` numbers of a row a cycle."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor):
        super().__init__(name, group, head, inputs, output)
        a, b = (static_shape(value.shape) for value in head.inputs)
        if a[:-2] != b[:-2] or head.attrs["transpose_b"]:
            raise UnsupportedError(f"%{head.output.name}: a product of computed {a} and {b} has no hardware")
        (self.rows, self.depth), self.count = a[-2:], math.prod(a[:-2])
        self.title = f"{output.name}: {self.count} matrices {self.rows}x{self.depth} by as many that are computed"

    def input_lanes(self, unroll: Unroll) -> tuple[int, ...]:
        return (1, unroll.outputs, *(unroll.outputs for _ in self.inputs[2:]))

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        lanes, chunks = unroll.outputs, self.output.channels // unroll.outputs
        left = Memory("left", inputs[0].kind, 1, self.rows * self.depth)
        right = Memory("right", inputs[1].kind, lanes, self.depth * chunks)
        accumulator = State("sum", kind_of(self.group.grids[self.head.output]), lanes)
        matrix, row = Counter.of("matrix", self.count), Counter.of("row", self.rows)
        chunk, part = Counter.of("chunk", chunks), Counter.of("part", self.depth)
        lane = Counter.of("lane", lanes, is_lane=True)
        a, b = Let("a", row * self.depth + part), Let("b", part * chunks + chunk)
        product = load(left, a.local) * load(right, b.local, lane)
        kind = accumulator.kind
        start = select(part.equals(0), 0, now(accumulator, lane))
        epilogue = Epilogue(self.group, self.head.output, self.output)
        written: tuple[Statement, ...] = epilogue.statements(
            lanes, now(accumulator, lane), chunk, matrix * self.rows + row, inputs[2:], outputs
        )
        last: Expr = part.equals(part.high)
        if last != TRUE:
            written = (When(last, written),)
        update = Update(accumulator, lane, within(start + product, kind.low, kind.high))
        compute = Nest("compute", used_loops((row, chunk, part)), (a, b, Lanes(lane, (update,)), *written))
        steps = (Repeat(matrix, (keep(left, inputs[0]), keep(right, inputs[1]), compute)),)
        return Process(self.name, self.title, steps, tuple(inputs), tuple(outputs),
                       (left, right, *epilogue.memories), (accumulator,))  # fmt: skip
