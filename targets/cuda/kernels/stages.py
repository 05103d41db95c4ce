"""An operand's tile in shared memory, and the copies of all threads to it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from targets.cuda.kernels.operands import CHUNK_BYTES, Operand
from targets.cuda.schedules import GemmSchedule
from tensorc.lowering import tir
from tensorc.lowering.tir import Buffer, Expr, const


class Stage:
    """An operand's part of a step in shared memory, and the threads' copies to it."""

    def __init__(self, operand: Operand, schedule: GemmSchedule, extent: int, spread: bool = False):
        self.operand = operand
        self.builder = operand.group.builder
        #: A thread's number among those that copy, and how many these are.
        self.thread, self.threads = self._copiers(schedule)
        chunk = operand.elements
        self.outer, self.inner = (
            (schedule.depth // chunk, extent) if operand.along_k else (extent // chunk, schedule.depth)
        )
        self.extent = extent
        self.neighbours = min(operand.neighbours, self.outer)
        #: Threads that store at once, 8, go to different banks.
        self.padding = 8 // self.neighbours % 8 if operand.along_k else 1
        #: Where columns of one chunk lie: a quarter of the tile apart from each other, those of neighbouring chunks
        #: side by side.
        self.spread = spread
        self.bytes = self.outer * (self.inner + self.padding) * CHUNK_BYTES
        self.count = -(-self.outer * self.inner // self.threads)
        self.memory: Buffer = None
        self.begin = 0
        self.stage_bytes = 0

    def _copiers(self, schedule: GemmSchedule) -> tuple[Expr, int]:
        return self.builder.thread, schedule.threads

    def place_in(self, memory: Buffer, begin: int, stage_bytes: int) -> None:
        self.memory, self.begin, self.stage_bytes = memory, begin, stage_bytes

    def address(self, stage: Expr, outer: Expr, inner: Expr, byte: int = 0) -> Expr:
        builder = self.builder
        if self.spread:
            quarter = self.inner // 4
            inner = tir.floor_mod(inner, 4) * quarter + tir.floor_div(inner, 4)
        at = (outer * (self.inner + self.padding) + inner) * CHUNK_BYTES
        return builder.address(self.memory, stage * self.stage_bytes + self.begin + at + byte)

    def begin_copies(self, batch: Expr, tile: Expr) -> None:
        """What does not change from step to step."""
        operand, builder = self.operand, self.builder
        self.chunks: list[tuple[Expr, Expr, Any]] = []
        for number in range(self.count):
            outer, inner = (builder.bind(i) for i in self._chunk(self.thread, number))
            x = tile * self.extent + inner if operand.along_k else tile * (self.extent // operand.elements) + outer
            self.chunks.append((outer, inner, operand.row(batch, builder.bind(x))))
        #: What waits in registers until the products of a step are done.
        self.waiting: list[Buffer] = []
        if not operand.copies:
            dtype, size = ("uint32", 4) if operand.narrows else (operand.dtype, operand.elements)
            self.waiting = [builder.registers(dtype, size, "waiting") for _ in range(self.count)]

    def _chunk(self, thread: Expr, number: int) -> tuple[Expr, Expr]:
        """(outer, inner) of a thread's chunk: neighbours first, then along inner."""
        if self.threads % self.neighbours:
            raise ValueError(f"{self.threads} threads do not share rows of {self.neighbours} chunks")
        near, rest = tir.floor_mod(thread, self.neighbours), tir.floor_div(thread, self.neighbours)
        rows = self.threads // self.neighbours
        if self.neighbours == 1:
            near, rest = 0, thread
        if rows % self.inner == 0:
            inner = tir.floor_mod(rest, self.inner)
            outer = tir.floor_div(rest, self.inner) + number * (rows // self.inner)
        else:
            assert self.inner % rows == 0, "extents of tiles are powers of two"
            inner = rest + number * rows % self.inner
            outer = number * rows // self.inner
        return outer * self.neighbours + near, inner

    def _each(self, write: Callable[[int, Expr, Expr, Any], None]) -> None:
        builder = self.builder
        total = self.outer * self.inner
        for number, (outer, inner, row) in enumerate(self.chunks):
            one = functools.partial(write, number, outer, inner, row)
            if total % self.threads:
                builder.when(self.thread + number * self.threads < total, one)
            else:
                one()

    def fetch(self, step: Expr, stage: Expr) -> None:
        """Begin to copy the operand's part of a step to a stage."""
        operand, builder = self.operand, self.builder
        first = step * (self.outer if operand.along_k else self.inner)

        def one(number: int, outer: Expr, inner: Expr, row: Any) -> None:
            k = builder.bind(first + (outer if operand.along_k else inner))
            if operand.copies:
                pieces = operand.elements // operand.together
                for piece in range(pieces):
                    at = k if pieces == 1 else builder.bind(k * pieces + piece)
                    size = CHUNK_BYTES // pieces
                    place = builder.address(operand.buffer, operand.place(row, at))
                    target = self.address(stage, outer, inner, piece * size)
                    builder.call(f"tc_copy_async<{size}>", target, place, operand.is_inside(row, at))
                return
            inside = operand.is_inside(row, k)
            if operand.narrows:
                place = builder.address(operand.buffer, operand.place(row, k))
                held = {"float16": "half", "bfloat16": "uint16_t"}[operand.dtype]
                builder.call(f"tc_narrow<{held}>", builder.address(self.waiting[number], 0), place, inside)
                return

            def fill(value: Callable[[Expr], Expr]) -> None:
                for lane in range(operand.elements):
                    builder.store(self.waiting[number], value(lane), lane)

            builder.when(
                inside, lambda: fill(lambda lane: operand.element(row, k, lane)),
                lambda: fill(lambda _: const(0.0, operand.dtype)),
            )  # fmt: skip

        self._each(one)

    def put(self, stage: Expr) -> None:
        """Store what waits in registers."""
        if not self.waiting:
            return
        builder = self.builder
        size = 4 if self.operand.narrows else self.operand.elements

        def one(number: int, outer: Expr, inner: Expr, _: Any) -> None:
            place = self.address(stage, outer, inner)
            builder.call(f"tc_store<{size}>", place, builder.address(self.waiting[number], 0))

        self._each(one)
