"""Products by weights in few bits whose left operand is prepared first, once for all columns of a call.

Two ways to prepare it, `lookup` and `dot`, of one frame: the sum is cut into its blocks, those into spans of at most
`SPAN` elements, which have a scale of their own where `x` is rounded, and those into chunks of 32 elements, of which
each bit of the codes is a word. What is prepared lies in scratch memory: a table for each chunk, a scale for each span
and the sum of x for each block, of which zero points are taken off.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

from targets.cpu.kernels.coded import WORD, Blocks, CodedShape, Words, check_constants, save_panel, scale_blocks
from targets.cpu.kernels.group import GroupKernel, Kernel
from targets.cpu.kernels.matmul import _Tile
from targets.cpu.machine import Machine
from targets.cpu.schedules import CodedDotSchedule, CodedLookupSchedule
from tensorc.ir import Graph, Node
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Buffer, Expr, const

CHUNK = WORD
#: Elements that share a scale where they are rounded.
SPAN = 128


class Prepared(abc.ABC):
    """The frame. Subclasses say what a chunk is prepared as, and how its words meet that."""

    #: The type of the scratch memory, and its elements for each chunk of a row and for a float32.
    dtype: str
    table: int
    number: int
    #: What is taken off zero points, because sums are already shifted by it.
    offset = 0.0

    def __init__(self, body: Graph, node: Node, machine: Machine, schedule: CodedDotSchedule | CodedLookupSchedule,
                 parts: Sequence[tuple[int, int]]):  # fmt: skip
        self.node = node
        self.machine = machine
        self.schedule = schedule
        self.shape = shape = CodedShape(node, machine)
        check_constants(body, shape)
        self.lanes = shape.lanes
        self.vectors = schedule.vectors
        self.width = self.vectors * self.lanes
        self.parts = tuple(parts)
        self.words = Words(shape, self.width, parts, CHUNK)
        self.blocks = Blocks(shape, self.width)
        #: Of each run: its first chunk and its first span among all.
        self.first_chunk, self.first_span = [], []
        self.chunks = self.spans = 0
        for run in shape.runs:
            self.first_chunk.append(self.chunks)
            self.first_span.append(self.spans)
            self.chunks += run.count * -(-run.size // CHUNK)
            self.spans += run.count * -(-run.size // SPAN)
        self.group = GroupKernel(body, machine, {**self.blocks.packings(), shape.codes: self.words.packing()})
        self.builder = self.group.builder
        #: Elements of scratch memory for a row: tables, scales, sums.
        self.row = self.chunks * self.table + (self.spans + shape.groups) * self.number
        self.scratch = self.group.scratch(self.dtype, max(shape.rows * self.row, 1))

    # What is prepared -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def prepare_span(self, row: Expr, element: Expr, chunk: Expr, span: Expr, count: int) -> Expr:
        """Prepare `count` elements of a row, which begin with `element`, as the tables from number `chunk` on. Gives
        the sum of the elements."""

    def x(self, row: Expr, element: Expr) -> Expr:
        return self.group.elements.evaluate(self.shape.x, [*unravel(row, self.shape.lead), element])

    def table_at(self, row: Expr, chunk: Expr) -> Expr:
        return row * self.row + chunk * self.table

    def scale_at(self, row: Expr, span: Expr) -> Expr:
        return row * self.row + self.chunks * self.table + span * self.number

    def sum_at(self, row: Expr, block: Expr) -> Expr:
        return self.scale_at(row, self.spans + block)

    def load_number(self, at: Expr) -> Expr:
        if self.number == 1:
            return self.builder.load(self.scratch, at)
        return tir.reinterpret(self.builder.word(self.scratch, at), "float32")

    def store_number(self, value: Expr, at: Expr) -> None:
        if self.number == 1:
            self.builder.store(self.scratch, value, at)
        else:
            self.builder.store_lanes(self.scratch, tir.reinterpret(value, f"{self.dtype}x4"), at, 4)

    def _prepare(self) -> None:
        builder, shape = self.builder, self.shape
        total = builder.registers("float32", 1, "total")
        with builder.serial(shape.rows, name="row") as row:
            for number, run in enumerate(shape.runs):
                with builder.serial(run.count, name="b") as at:
                    block = run.first + at
                    builder.store(total, const(0.0, "float32"), 0)
                    for first, spans, size in _spans(run.size):

                        def span(s: Expr, size: int, number: int = number, at: Expr = at, run_size: int = run.size,
                                 block: Expr = block) -> None:  # fmt: skip
                            chunk = self.first_chunk[number] + at * -(-run_size // CHUNK) + s * (SPAN // CHUNK)
                            index = self.first_span[number] + at * -(-run_size // SPAN) + s
                            element = block * shape.group + s * SPAN
                            value = self.prepare_span(row, element, chunk, index, size)
                            builder.store(total, builder.load(total, 0) + value, 0)

                        with builder.serial(spans, begin=first, name="s") as s:
                            span(s, size)
                    self.store_number(builder.load(total, 0), self.sum_at(row, block))

    # How it is multiplied ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def begin(self, rows: int) -> None:
        """Registers of a tile of `rows`."""

    @abc.abstractmethod
    def clear(self) -> None:
        """Before a span."""

    @abc.abstractmethod
    def step(self, words: Expr, row: Expr, chunk: Expr) -> None:
        """Multiply a chunk, whose words begin at `words`, with what was prepared of rows from `row` on."""

    @abc.abstractmethod
    def settle(self, part: Buffer, row: Expr, span: Expr) -> None:
        """Add the sums of a span to `part`."""

    def lower(self) -> Kernel:
        builder, shape = self.builder, self.shape
        self._prepare()
        full, tail = divmod(shape.rows, self.schedule.rows)
        row_tiles = full + bool(tail)
        with builder.tasks() as task:
            index = unravel(task, [self.words.panels, row_tiles])
            panel, row_tile = (i if isinstance(i, int) else builder.bind(i) for i in index)
            if not tail:
                self._tile(panel, row_tile, self.schedule.rows)
            elif not full:
                self._tile(panel, row_tile, tail)
            else:
                builder.when(
                    row_tile < full,
                    lambda: self._tile(panel, row_tile, self.schedule.rows),
                    lambda: self._tile(panel, row_tile, tail),
                )
        panels = self.words.panels
        return self.group.finish(panels * row_tiles, self.schedule, dict.fromkeys(shape.weights, panels))

    def _tile(self, panel: Expr, row_tile: Expr, rows: int) -> None:
        builder, shape, lanes = self.builder, self.shape, self.lanes
        tile = _Tile(self.group, self.node, lanes, rows, self.vectors)
        tile.clear()
        part = builder.registers("float32", rows * self.width, "part")
        sums = builder.registers("float32", rows * lanes, "sums")
        self.begin(rows)
        row = row_tile * self.schedule.rows
        base = builder.bind(panel * self.words.panel)
        size = self.words.per_chunk * self.width
        for number, run in enumerate(shape.runs):
            chunks = -(-run.size // CHUNK)
            with builder.serial(run.count, name="b") as at:
                block = run.first + at
                tile.each(lambda i, j, lane: builder.store(part, const(0.0, "float32"), tile.at(i, j, lane)))
                for first, spans, count in _spans(run.size):
                    with builder.serial(spans, begin=first, name="s") as s:
                        self.clear()
                        with builder.serial(-(-count // CHUNK), name="c") as c:
                            place = at * chunks + s * (SPAN // CHUNK) + c
                            words = builder.bind(base + self.words.starts[number] + place * size)
                            self.step(words, row, self.first_chunk[number] + place)
                        self.settle(part, row, self.first_span[number] + at * -(-run.size // SPAN) + s)
                with builder.unrolled(rows) as i:
                    total = builder.keep(self.load_number(self.sum_at(row + i, block)))
                    with builder.vector(lanes) as lane:
                        builder.store(sums, total, i * lanes + lane)
                scale_blocks(self.group, self.blocks, tile, part, sums, panel, block, self.offset)
        save_panel(builder, tile, shape, panel, self.width, self.words.panels, row)


def _spans(size: int) -> list[tuple[int, int, int]]:
    """Of a block of `size`: (first, how many, of so many elements) spans."""
    full, rest = divmod(size, SPAN)
    return [span for span in ((0, full, SPAN), (full, 1, rest)) if span[1] and span[2]]
