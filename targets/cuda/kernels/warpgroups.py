"""The tile engine of `gemm` for Hopper's tensor cores: warpgroups multiply what lies in shared memory by themselves.

The first warps of a block multiply, the last four copy. A step of the reduction is 128 bytes along k. It lies in a
stage as rows of that length, one after the other, their chunks of 16 bytes swizzled, which is how the tensor cores read
both operands (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout"). Threads copy A, and a computed B,
chunk by chunk; constants are packed as they lie in a stage, and one thread asks for all of a tile's.

Each stage has two barriers: it is full when all copies to it have arrived, empty when all warps have multiplied it. So
nobody waits for the whole block, and products go on while others are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from targets.cuda.kernels.gemm import Gemm
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.operands import (
    CHUNK_BYTES,
    ROW_BYTES,
    Operand,
    WeightRows,
    Weights,
    pack_rows,
    pack_weights,
)
from targets.cuda.kernels.stages import Stage
from targets.cuda.kernels.units import TensorCores
from targets.cuda.schedules import PRODUCERS, GemmSchedule, gemm_resident
from targets.packing import Packing
from tensorc.lowering import tir
from tensorc.lowering.tir import Buffer, Expr, const

_WARP, _WARPS = 32, 4
#: Registers that threads have who copy, and who multiply, of tiles whose sums take most of what all have at first.
_MOST_SUMS, _FEWER, _MORE = 128, 56, 224
#: Rows after which the swizzled pattern begins anew; stages begin at multiples of it.
_PATTERN = 8 * ROW_BYTES
#: A product's operands are 32 bytes along k.
_PRODUCT_BYTES = 32
#: What descriptors have beside an address (PTX ISA, "Matrix Descriptor Format"): swizzled rows of 128 bytes, so many
#: bytes from 8 rows to the next 8, in units of 16; the offset along k is not used in this layout, and taken for 1.
_LAYOUT = 1 << 62 | (_PATTERN >> 4) << 32 | 1 << 16


def engine_of(schedule: GemmSchedule) -> tuple[type[Gemm], type[Weights | WeightRows], Callable[..., Packing]]:
    """What computes products by such a schedule, and how it has constant weights."""
    if schedule.unit == "warpgroups":
        return WarpgroupGemm, WeightRows, pack_rows
    return Gemm, Weights, pack_weights


class RowStage(Stage):
    """Rows that the copying warps take chunk by chunk."""

    def __init__(self, operand: Operand, schedule: GemmSchedule, extent: int):
        super().__init__(operand, schedule, extent)
        self.padding = 0
        self.bytes = extent * ROW_BYTES

    def _copiers(self, schedule: GemmSchedule) -> tuple[Expr, int]:
        return self.builder.thread - schedule.workers, PRODUCERS

    def address(self, stage: Expr, outer: Expr, inner: Expr, byte: int = 0) -> Expr:
        # As `pack_rows` has them.
        chunk = tir.bitwise("xor", tir.cast(outer, "int32"), tir.cast(tir.floor_mod(inner, 8), "int32"))
        at = inner * ROW_BYTES + chunk * CHUNK_BYTES
        return self.builder.address(self.memory, stage * self.stage_bytes + self.begin + at + byte)

    def rows(self, stage: Expr, row: Expr) -> Expr:
        """Where the rows from one on begin."""
        return self.builder.address(self.memory, stage * self.stage_bytes + self.begin + row * ROW_BYTES)


class PackedStage(RowStage):
    """Rows that are in memory as they are in the stage."""

    operand: WeightRows

    def begin_copies(self, batch: Expr, tile: Expr) -> None:
        self.first = self.operand.row(batch, self.builder.bind(tile * self.extent))
        self.chunks, self.waiting = [], []

    def copy_all(self, step: Expr, stage: Expr, barrier: Expr) -> None:
        """By one thread."""
        builder, operand = self.builder, self.operand
        place = builder.address(operand.buffer, operand.place(self.first, step))
        builder.call("tc_bulk_copy", self.rows(stage, 0), place, self.bytes, barrier)


class Warpgroups(TensorCores):
    """64 rows of a warpgroup, 16 of each of its warps: a row of fragments. More would be several sets of sums, which
    the assembler does not keep under way side by side."""

    def __init__(self, group: CudaGroup, schedule: GemmSchedule, warp: Expr, lane: Expr, dtype: str,
                 gathers: bool):  # fmt: skip
        warpgroup = tir.floor_div(warp, _WARPS)
        row, column = (part(warpgroup, schedule.warp_columns) for part in (tir.floor_div, tir.floor_mod))
        super().__init__(group, schedule, (row * _WARPS + tir.floor_mod(warp, _WARPS), column), lane, dtype, gathers)
        #: The warpgroup's first row.
        self.first = self.builder.bind(row * (_WARPS * self.rows))

    def multiply(self, acc: Buffer, a: Stage, b: Stage, stage: Expr) -> None:
        """Begins it: the sums are there when all is waited for."""
        assert isinstance(a, RowStage)
        assert isinstance(b, RowStage)
        builder = self.builder
        rows, columns = self._descriptor(a, stage, self.first), self._descriptor(b, stage, self.column)
        for k in range(ROW_BYTES // _PRODUCT_BYTES):
            ahead = const(k * _PRODUCT_BYTES // 16, "uint64")  # swizzling is of addresses: it stays as it is
            builder.call(f"tc_wgmma_{self.dtype}<{self.columns}>", builder.address(acc, 0), rows + ahead,
                         columns + ahead)  # fmt: skip

    def _descriptor(self, operand: RowStage, stage: Expr, row: Expr) -> Expr:
        return self.builder.value("uint64", "tc_descriptor", operand.rows(stage, row), const(_LAYOUT, "uint64"))


class WarpgroupGemm(Gemm):
    """Writes one kernel, of warps that multiply and store and others that copy."""

    def _stages(self, a: Operand, b: Operand) -> tuple[RowStage, RowStage]:
        schedule = self.schedule
        columns = PackedStage if isinstance(b, WeightRows) else RowStage
        return RowStage(a, schedule, schedule.rows), columns(b, schedule, schedule.columns)

    def lower(self) -> Kernel:
        builder, schedule = self.builder, self.schedule
        stage_bytes = self.a.bytes + self.b.bytes
        self.group.dynamic_bytes = schedule.stages * stage_bytes
        memory = builder.dynamic_shared(self.group.dynamic_bytes, _PATTERN)
        self.a.place_in(memory, 0, stage_bytes)
        self.b.place_in(memory, self.a.bytes, stage_bytes)
        self.barriers = builder.shared("uint64", 2 * schedule.stages, "barriers")
        self.warp, self.lane = (builder.bind(part(builder.thread, _WARP)) for part in (tir.floor_div, tir.floor_mod))
        self.a.operand.begin()
        builder.when(tir.compare("equal", builder.thread, 0), self._begin)
        builder.sync()
        tile = self._place_of(builder.block, self.high, self.wide)
        builder.when(builder.thread < schedule.workers, lambda: self._multiply(memory, tile),
                     lambda: self._copy(tile))  # fmt: skip
        resident = gemm_resident(schedule, self.a.operand.dtype, self.group.gpu)
        return self.group.launched(self.extents.batch * self.high * self.wide, schedule, resident)

    def _begin(self) -> None:
        """At a full stage arrive the warps that copy, and who asks for packed rows; at an empty one, those that have
        multiplied it."""
        builder, schedule = self.builder, self.schedule
        arrivals = PRODUCERS // _WARP + isinstance(self.b, PackedStage), schedule.workers // _WARP
        with builder.unrolled(schedule.stages) as stage:
            for barrier, count in zip((self._full(stage), self._empty(stage)), arrivals, strict=True):
                builder.call("tc_barrier_init", barrier, count)
        builder.call("tc_async_fence")

    def _is_tight(self) -> bool:
        """Whether two warpgroups have as many sums as instructions can have: copying takes fewer registers than they
        would leave to each other."""
        schedule = self.schedule
        return schedule.rows * schedule.columns == schedule.workers * _MOST_SUMS and schedule.workers == 2 * PRODUCERS

    def _stage(self, step: Expr) -> Expr:
        return self.builder.bind(tir.floor_mod(step, self.schedule.stages))

    def _turn(self, step: Expr) -> Expr:
        """Whether the stage is used for an even or an odd time."""
        return tir.floor_mod(tir.floor_div(step, self.schedule.stages), 2)

    def _full(self, stage: Expr) -> Expr:
        return self.builder.address(self.barriers, stage)

    def _empty(self, stage: Expr) -> Expr:
        return self.builder.address(self.barriers, self.schedule.stages + stage)

    # Those that copy ------------------------------------------------------------------------------------------

    def _copy(self, tile: tuple[Expr, Expr, Expr]) -> None:
        builder = self.builder
        batch, row_tile, column_tile = tile
        if self._is_tight():
            builder.call(f"tc_fewer_registers<{_FEWER}>")
        self.a.begin_copies(batch, row_tile)
        self.b.begin_copies(batch, column_tile)
        with builder.serial(self.steps, name="step") as step:
            stage = self._stage(step)
            builder.call("tc_barrier_wait", self._empty(stage), 1 - self._turn(step))
            if isinstance(self.b, PackedStage):
                first = tir.compare("equal", builder.thread, self.schedule.workers)
                builder.when(first, lambda: self._copy_rows(self.b, step, stage))
            for operand in (self.a, self.b):
                operand.fetch(step, stage)
                operand.put(stage)
            builder.call("tc_copies_commit")
            builder.when(step > 0, lambda: self._arrive(step - 1, 1))
        self._arrive(self.steps - 1, 0)

    def _copy_rows(self, rows: Stage, step: Expr, stage: Expr) -> None:
        assert isinstance(rows, PackedStage)
        self.builder.call("tc_barrier_expect", self._full(stage), rows.bytes)
        rows.copy_all(step, stage, self._full(stage))

    def _arrive(self, step: Expr, later: int) -> None:
        """Say that a step's copies are there, when those of `later` ones are under way."""
        builder = self.builder
        builder.call(f"tc_copies_wait<{later}>")
        builder.call("tc_async_fence")
        self._warp_arrives(self._full(self._stage(step)))

    def _warp_arrives(self, barrier: Expr) -> None:
        builder = self.builder
        builder.call("tc_warp_sync")
        builder.when(tir.compare("equal", self.lane, 0), lambda: builder.call("tc_barrier_arrive", barrier))

    # Those that multiply --------------------------------------------------------------------------------------

    def _multiply(self, memory: Buffer, tile: tuple[Expr, Expr, Expr]) -> None:
        builder, schedule = self.builder, self.schedule
        if self._is_tight():
            builder.call(f"tc_more_registers<{_MORE}>")
        dtype = self.a.operand.dtype
        unit = Warpgroups(self.group, schedule, self.warp, self.lane, dtype, self._has_narrow_rows())
        acc = builder.registers(self.dtype, unit.sums)
        with builder.unrolled(unit.sums) as i:
            builder.store(acc, const(0, self.dtype), i)
        self._begin_products(unit, acc, 0)
        if self.steps > 1:
            with builder.serial(self.steps - 1, name="before") as before:
                self._begin_products(unit, acc, before + 1)
                builder.call("tc_wgmma_wait<1>")
                self._warp_arrives(self._empty(self._stage(before)))
        builder.call(f"tc_wgmma_done<{unit.sums}>", builder.address(acc, 0))
        batch, row_tile, column_tile = tile
        first_row, first_column = builder.bind(row_tile * schedule.rows), builder.bind(column_tile * schedule.columns)
        self._store(unit, acc, memory, (batch, first_row, first_column))

    def _begin_products(self, unit: Warpgroups, acc: Buffer, step: Expr) -> None:
        """Of the first step outside the loop: the assembler finds no way to go on in a loop that begins without any."""
        builder, stage = self.builder, self._stage(step)
        builder.call("tc_barrier_wait", self._full(stage), self._turn(step))
        builder.call("tc_wgmma_fence")
        unit.multiply(acc, self.a, self.b, stage)
        builder.call("tc_wgmma_commit")

    def _meet(self) -> None:
        self.builder.call(f"tc_sync_first<{self.schedule.workers}>")
