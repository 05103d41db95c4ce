"""Pooling: the greatest or the sum of each channel of a window."""

from __future__ import annotations

from collections.abc import Sequence

from targets.hls.expressions import TRUE, Const, Counter, Expr, Register, greater, select
from targets.hls.layers.layer import Epilogue, Group, HeadLayer, Unroll
from targets.hls.layers.tensor import Tensor
from targets.hls.layers.windows import RowBuffer, Window, used_loops
from targets.hls.program import Channel, Kind, Lanes, Nest, Process, State, Statement, Update, When
from tensorc.ir.graph import Node


class Pool(HeadLayer):
    """`outputs` channels of a window at a time, one place of it a cycle."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor, window: Window):
        super().__init__(name, group, head, inputs, output)
        self.window = window
        self.title = f"{output.name}: {head.op.replace('_', ' ')} of {window.kernel[0]}x{window.kernel[1]}"

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        lanes, window = unroll.outputs, self.window
        largest = self.head.op in ("max_pool", "reduce_max")
        kind = inputs[0].kind
        rows = RowBuffer(window, inputs[0])
        column, chunk = Counter.of("column", window.out[1]), Counter.of("chunk", window.channels // lanes)
        ky, kx = Counter.of("ky", window.kernel[0]), Counter.of("kx", window.kernel[1])
        row, lane = Counter.of("row", window.out[0]), Counter.of("lane", lanes, is_lane=True)
        names, (x,) = rows.elements(row, ky, column, kx, chunk, lane, kind.low if largest else 0)
        first = ky.equals(0) & kx.equals(0)
        last = ky.equals(ky.high) & kx.equals(kx.high)
        grid = self.group.grids[self.head.output]
        held = Kind(kind.low, kind.high) if largest else Kind(grid.low, grid.high)
        state = State("best" if largest else "sum", held, lanes)
        before: Expr = Register(held.low, held.high, state.name, lane)
        after = select(first, x, greater(before, x)) if largest else select(first, Const.of(0), before) + x
        epilogue = Epilogue(self.group, self.head.output, self.output)
        written = epilogue.statements(lanes, before, chunk, row * window.out[1] + column, inputs[1:], outputs)
        body: list[Statement] = [*names, Lanes(lane, (Update(state, lane, after),))]
        body += written if last == TRUE else [When(last, written)]
        body += rows.advance(column.equals(column.high) & chunk.equals(chunk.high) & last)
        compute = Nest("compute", used_loops((column, chunk, ky, kx)), tuple(body))
        memories = (*rows.memories, *epilogue.memories)
        return Process(self.name, self.title, rows.steps(compute), tuple(inputs), tuple(outputs), memories,
                       (state, *rows.registers))  # fmt: skip
