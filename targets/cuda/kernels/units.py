"""What multiplies a warp's part of a tile of `gemm`: tensor cores, or units for multiply-adds."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from targets.cuda.kernels.kernel import CudaGroup
from targets.cuda.kernels.operands import chunk_elements
from targets.cuda.kernels.stages import Stage
from targets.cuda.schedules import GemmSchedule
from tensorc.lowering import tir
from tensorc.lowering.tir import Buffer, Expr

#: Opens a loop of so many turns; gives its variable.
Loop = Callable[[int], contextlib.AbstractContextManager[Expr]]


@dataclass(frozen=True)
class Slot:
    """Neighbouring sums of a thread, from number `first` on in the order of slots: their row and first column in the
    tile."""

    first: Expr
    row: Expr
    column: Expr


class Unit(ABC):
    """A warp's part of the tile, and how it is multiplied."""

    #: Neighbouring columns of a slot; rows of fragments, or of single sums.
    width: int
    high: int

    def __init__(self, group: CudaGroup, schedule: GemmSchedule, warp: tuple[Expr, Expr], lane: Expr):
        self.builder = group.builder
        self.schedule = schedule
        self.rows = schedule.rows // schedule.warp_rows
        self.columns = schedule.columns // schedule.warp_columns
        self.row = self.builder.bind(warp[0] * self.rows)
        self.column = self.builder.bind(warp[1] * self.columns)
        self.lane = lane

    @property
    @abstractmethod
    def sums(self) -> int:
        """Of one thread."""

    @abstractmethod
    def slots(self, loop: Loop, begin: int, count: int) -> Iterator[Slot]:
        """Within loops over those of `count` rows of fragments, from one on."""

    def sums_of(self, acc: Buffer, first: Expr) -> tuple[Buffer, Expr]:
        """Where a slot's sums are side by side, and from which on. All lanes of the warp ask for the same slot."""
        return acc, first

    @abstractmethod
    def multiply(self, acc: Buffer, a: Stage, b: Stage, stage: Expr) -> None:
        """One step."""


class TensorCores(Unit):
    """Fragments of 16 rows by 8 columns, each step of them 32 bytes along k. Of a fragment's row a lane has 2 sums, of
    4 fragments 8; where it `gathers`, it exchanges those with the 3 lanes beside it for all 8 of one fragment."""

    def __init__(self, group: CudaGroup, schedule: GemmSchedule, warp: tuple[Expr, Expr], lane: Expr, dtype: str,
                 gathers: bool):  # fmt: skip
        super().__init__(group, schedule, warp, lane)
        self.dtype = dtype
        self.high, self.wide = self.rows // 16, self.columns // 8
        self.together = min(self.wide, 4) if gathers else 1
        self.width = 2 * self.together

    @property
    def sums(self) -> int:
        return self.high * self.wide * 4

    def slots(self, loop: Loop, begin: int, count: int) -> Iterator[Slot]:
        row = self.builder.bind(self.row + tir.floor_div(self.lane, 4))
        rank = tir.floor_mod(self.lane, 4)
        of_lane = {1: rank * 2, 2: tir.floor_mod(rank, 2) * 8 + tir.floor_div(rank, 2) * 4, 4: rank * 8}
        column = self.builder.bind(self.column + of_lane[self.together])
        several = self.wide // self.together
        with loop(count) as number, loop(2) as half, loop(several) as j:
            i = begin + number
            first = ((i * several + j) * 2 + half) * self.width
            yield Slot(first, row + i * 16 + half * 8, column + j * (8 * self.together))

    def sums_of(self, acc: Buffer, first: Expr) -> tuple[Buffer, Expr]:
        if self.together == 1:
            return super().sums_of(acc, first)
        # Of all fragments the first rows and those 8 below take turns, two sums at a time.
        rows = 2 * self.width
        first = tir.floor_div(first, rows) * rows + tir.floor_div(tir.floor_mod(first, rows), self.width) * 2
        found = self.builder.registers(acc.dtype, self.width, "gathered")
        self.builder.call(f"tc_gather_row<{self.together}>", self.builder.address(found, 0),
                          self.builder.address(acc, first))  # fmt: skip
        return found, 0

    def multiply(self, acc: Buffer, a: Stage, b: Stage, stage: Expr) -> None:
        builder = self.builder
        turns = self.schedule.depth // (2 * chunk_elements(self.dtype))
        fragments = self._fragments(a, b, stage, 0)
        for turn in range(turns):
            rows, columns = fragments
            if turn + 1 < turns:  # on their way while these are multiplied
                fragments = self._fragments(a, b, stage, turn + 1)
            with builder.unrolled(self.high) as i, builder.unrolled(self.wide) as j:
                builder.call(f"tc_mma_{self.dtype}", builder.address(acc, (i * self.wide + j) * 4),
                             builder.address(rows, i * 4), builder.address(columns, j * 2))  # fmt: skip

    def _fragments(self, a: Stage, b: Stage, stage: Expr, turn: int) -> tuple[Buffer, Buffer]:
        """Those of A and of B for 32 bytes along k. Four matrices of 8 rows are loaded at once: of A two below each
        other, twice along k; of B twice along k, then a neighbour along x."""
        builder = self.builder
        low, high = tir.floor_mod(self.lane, 16), tir.floor_div(self.lane, 16)
        eighth = tir.floor_mod(tir.floor_div(self.lane, 8), 2)
        beside = high * 8 + tir.floor_mod(self.lane, 8)
        rows = builder.registers("uint32", self.high * 4, "a")
        columns = builder.registers("uint32", self.wide * 2, "b")
        with builder.unrolled(self.high) as i:
            place = a.address(stage, turn * 2 + high, self.row + i * 16 + low)
            builder.call("tc_ldmatrix", builder.address(rows, i * 4), place)
        with builder.unrolled(self.wide // 2) as j:
            if b.operand.along_k:
                name, place = "tc_ldmatrix", b.address(stage, turn * 2 + eighth, self.column + j * 16 + beside)
            else:
                outer = tir.floor_div(self.column, 8) + j * 2 + high
                name, place = "tc_ldmatrix_transposed", b.address(stage, outer, turn * 16 + low)
            builder.call(name, builder.address(columns, j * 4), place)
        return rows, columns


class MultiplyAdds(Unit):
    """float32 without rounding of operands. Of a warp's lanes, 4 are below each other and 8 beside: each has every
    fourth row, and of every eighth chunk of columns its 4. Lanes that differ in the first bit have the same row, those
    that differ in the second bit the same columns: 16 lanes then get their 16 bytes at once, where it would be 8."""

    width = 4

    def __init__(self, group: CudaGroup, schedule: GemmSchedule, warp: tuple[Expr, Expr], lane: Expr):
        super().__init__(group, schedule, warp, lane)
        self.high, self.wide = self.rows // 4, self.columns // 32

        def bit(number: int) -> Expr:
            return tir.floor_mod(tir.floor_div(lane, 1 << number), 2)

        self.below = self.builder.bind(bit(1) + bit(4) * 2)
        self.beside = self.builder.bind(bit(0) + bit(2) * 2 + bit(3) * 4)

    @property
    def sums(self) -> int:
        return self.high * self.wide * 4

    def slots(self, loop: Loop, begin: int, count: int) -> Iterator[Slot]:
        row, column = self.row + self.below, self.column + self.beside * 4
        with loop(count) as number, loop(self.wide) as j:
            i = begin + number
            yield Slot((i * self.wide + j) * 4, row + i * 4, column + j * 32)

    def multiply(self, acc: Buffer, a: Stage, b: Stage, stage: Expr) -> None:
        builder = self.builder
        chunk = tir.floor_div(self.column, 4) + self.beside
        with builder.unrolled(self.schedule.depth // 4, "kk") as kk:
            rows = builder.registers("float32", self.high * 4, "a")
            with builder.unrolled(self.high) as i:
                builder.call("tc_load<4>", builder.address(rows, i * 4),
                             a.address(stage, kk, self.row + self.below + i * 4))  # fmt: skip
            if b.operand.along_k:
                # A column's chunk has 4 elements along k: those of the 4 columns of a chunk lie apart, see `Stage`.
                with builder.unrolled(self.wide) as j, builder.unrolled(4) as v:
                    column = builder.registers("float32", 4, "b")
                    place = b.address(stage, kk, (chunk + j * 8) * 4 + v)
                    builder.call("tc_load<4>", builder.address(column, 0), place)
                    with builder.unrolled(self.high) as i, builder.unrolled(4) as k:
                        self._add(acc, (i * self.wide + j) * 4 + v, rows, i * 4 + k, column, k)
                return
            with builder.unrolled(4) as k:
                columns = builder.registers("float32", self.wide * 4, "b")
                with builder.unrolled(self.wide) as j:
                    place = b.address(stage, chunk + j * 8, kk * 4 + k)
                    builder.call("tc_load<4>", builder.address(columns, j * 4), place)
                with builder.unrolled(self.high) as i, builder.unrolled(self.wide * 4) as v:
                    self._add(acc, i * (self.wide * 4) + v, rows, i * 4 + k, columns, v)

    def _add(self, acc: Buffer, at: Expr, a: Buffer, i: Expr, b: Buffer, j: Expr) -> None:
        load = self.builder.load
        self.builder.store(acc, load(acc, at) + load(a, i) * load(b, j), at)
