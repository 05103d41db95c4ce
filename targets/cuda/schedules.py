"""Schedules of the CUDA kernels, and the rules that pick one for any shape without tuning."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cost_models.tiles import FIRST_LATENCY, Throughput, TileWork, grid_cycles
from targets.cuda.flash import FlashSchedule
from targets.cuda.gpu import Gpu
from targets.cuda.occupancy import WARP, occupancy
from tensorc.ir.types import numpy_dtype
from tensorc.search.schedule import Schedule

# Products --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extents:
    """Of matrix products: so many, each of [rows, depth] by [depth, columns]."""

    batch: int
    rows: int
    columns: int
    depth: int
    #: Whether both operands lie in memory as tiles want them, in chunks of 16 bytes along the depth.
    in_chunks: bool = False


@dataclass(frozen=True)
class GemmSchedule(Schedule):
    """A block's tile of the result and how much of the reduction is a step, all powers of two; how many warps are below
    each other and beside each other in the tile; buffers of shared memory that steps pass through; into how many parts
    the reduction is split, or 0 where blocks share the tiles beyond whole waves evenly (`Stream`); and what multiplies:
    "tensor" cores, which round float32 to tf32, those of Hopper by "warpgroups", for which four more warps copy, or
    "fma"."""

    kind = "gemm"
    packing = ("unit",)
    rows: int
    columns: int
    depth: int
    warp_rows: int
    warp_columns: int
    stages: int
    split_k: int
    unit: str

    @property
    def workers(self) -> int:
        """Threads that multiply, the first ones of a block."""
        return self.warp_rows * self.warp_columns * 32

    @property
    def threads(self) -> int:
        return self.workers + (PRODUCERS if self.unit == "warpgroups" else 0)

    def wants_chunks_along_depth(self, dtype: str) -> bool:
        """Of the second operand: tensor cores read 16 bits transposed, and nothing else; what warpgroups multiply is
        never transposed here."""
        return self.unit == "warpgroups" or (self.unit == "tensor" and int(numpy_dtype(dtype).itemsize) != 2)

    def shared_bytes(self, dtype: str) -> int:
        """Of all stages, with the widest padding."""
        if self.unit == "warpgroups":
            return self.stages * (self.rows + self.columns) * self.depth * int(numpy_dtype(dtype).itemsize)
        chunk = _CHUNK_BYTES // int(numpy_dtype(dtype).itemsize)
        deep = self.depth // chunk
        beside = max(deep * (self.columns + 8), self.columns // chunk * (self.depth + 1))
        return self.stages * (deep * (self.rows + 8) + beside) * _CHUNK_BYTES

    def registers(self) -> int:
        """Of a thread, about: sums, fragments of a step, addresses."""
        rows, columns = self.rows // self.warp_rows, self.columns // self.warp_columns
        if self.unit == "warpgroups":
            return min(rows * columns // 32 + _WARPGROUP_REGISTERS, _MOST_WARPGROUP_REGISTERS)
        fragments = rows // 4 + columns // 4 if self.unit == "tensor" else rows + columns // 8
        return rows * columns // 32 + fragments + _OTHER_REGISTERS


#: Threads that copy what warpgroups multiply.
PRODUCERS = 128
#: Up to so many rows weights are met too seldom for tiles: reading them once is all that takes time.
GEMV_ROWS = 4
#: Warps that keep the memory of a multiprocessor busy.
_BUSY_WARPS = 32
_CHUNK_BYTES = 16
_OTHER_REGISTERS = 48
_WARPGROUP_REGISTERS, _MOST_WARPGROUP_REGISTERS = 60, 168
_MOST_REGISTERS = 240
#: Shared memory beside the stages, at most: a table of taps.
_OTHER_SHARED = 9 << 10
_MOST_THREADS = 512
_REGISTERS = 1 << 16
#: Of few rows by weights in few bits: shared memory of a block for what is multiplied, of which several fit on a
#: multiprocessor; numbers that 32 take there, so that those who read different ones go to different banks; bytes of a
#: row for a warp's turn.
CODED_SHARED = 36 << 10
CODED_PITCH = 36
_TURN_BYTES = 8 * CODED_PITCH * 4
#: What has to be gained by sharing a wave: blocks at different steps share less of what they read.
_SHARED_WAVE = 1.05
#: Of all tiles, which blocks count.
_MOST_STEPS = 1 << 31
#: Rows and columns of tiles, and of their warps, for tensor cores and for multiply-adds.
_TENSOR_TILES = (
    (128, 256, 2, 4), (256, 128, 4, 2), (128, 128, 2, 2), (128, 128, 4, 2), (128, 64, 2, 2), (128, 64, 4, 2),
    (64, 128, 2, 2), (64, 128, 2, 4), (256, 64, 4, 1), (256, 64, 4, 2), (64, 64, 2, 2), (64, 64, 4, 2), (128, 32, 4, 1),
    (64, 32, 2, 1), (64, 32, 2, 2), (32, 128, 1, 4), (32, 64, 1, 2), (32, 64, 2, 2), (32, 32, 1, 1), (32, 32, 2, 2),
    (64, 16, 4, 1), (32, 16, 2, 1), (16, 128, 1, 4), (16, 64, 1, 4), (16, 32, 1, 2),
)  # fmt: skip
_FMA_TILES = (
    (128, 128, 4, 2), (128, 64, 4, 1), (128, 64, 4, 2), (64, 128, 2, 2), (64, 128, 2, 4), (256, 64, 8, 1),
    (64, 64, 2, 2), (64, 64, 4, 1), (64, 64, 4, 2), (128, 32, 4, 1), (64, 32, 4, 1), (32, 128, 1, 4), (32, 64, 1, 2),
    (32, 64, 2, 2), (32, 32, 2, 1), (32, 32, 4, 1), (32, 32, 1, 1), (16, 128, 1, 4), (16, 64, 1, 2), (16, 64, 2, 2),
    (16, 32, 1, 1), (16, 32, 2, 1),
)  # fmt: skip
#: The same for warpgroups, four warps below each other.
_WARPGROUP_TILES = (
    (128, 256, 8, 1), (128, 128, 8, 1), (64, 256, 4, 2), (64, 256, 4, 1), (64, 128, 4, 1), (128, 64, 8, 1),
)  # fmt: skip
#: Bytes of a row along the depth, rows of a warp, and columns of an instruction.
_WARPGROUP_STEP, _WARPGROUP_ROWS, _WARPGROUP_COLUMNS = 128, 16, (64, 128, 256)
#: Of shorter reductions, blocks of warpgroups take longer to begin and to end than they gain.
_WARPGROUP_STEPS = 8
_STAGES = (2, 3, 4)
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
#: A part of a reduction has so many steps at least: below that, the parts take longer to add than to compute.
LEAST_STEPS = 4
#: Multiply-adds of a multiprocessor and cycle: float32; tensor cores, of float16 (CUDA C Programming Guide, "Arithmetic
#: Instructions"; NVIDIA's architecture white papers). From compute capability 9.0 on, mma.sync has half of what the
#: asynchronous instructions of one architecture only have.
_PRODUCTS = {75: (64, 512), 80: (64, 1024), 86: (128, 512), 89: (128, 512), 90: (128, 1024), 100: (128, 1024),
             120: (128, 512)}  # fmt: skip
#: Bytes from memory of a multiprocessor and cycle, of the parts that `gpu` names.
_MEMORY_BYTES = {75: 5, 80: 10, 86: 4, 89: 3, 90: 15, 100: 28, 120: 5}
_SHARED_BYTES = 128
#: What a multiprocessor gets from the second-level cache when all ask.
_CACHE_BYTES = 32
#: Bytes that a warp's load of 16 a lane takes of shared memory's throughput, some lanes having the same address.
_WARP_LOAD_BYTES = 256
#: Instructions around a chunk's copy: where it lies, whether it is inside.
_COPY_INSTRUCTIONS = 16
#: For a weight in few bits, up to where it lies in shared memory.
_DECODE_INSTRUCTIONS = 5
#: Products of an instruction: a warp's multiply-adds, or a step of 32 bytes of 16 by 8 sums.
_FMA_PRODUCTS, _FRAGMENT = 32, 16 * 8


def unit_of(dtype: str, gpu: Gpu) -> str:
    """float32 stays float32, unless the user has said that products may round it to tf32: else that is for schedules to
    ask for."""
    rounds = gpu.rounds_products and gpu.multiplies_bfloat16
    return "fma" if dtype == "float32" and not rounds else "tensor"


@functools.cache
def gemm_schedule(extents: Extents, dtype: str, gpu: Gpu, decodes: bool = False) -> GemmSchedule:
    """The tile, the stages and the parts with the fewest predicted cycles."""

    def cost(schedule: GemmSchedule) -> tuple[float, int]:
        cycles = gemm_cycles(schedule, extents, dtype, gpu, decodes)
        return cycles * (1 if schedule.split_k else _SHARED_WAVE), schedule.threads

    return min(gemm_candidates(extents, dtype, gpu), key=cost)


def gemm_candidates(extents: Extents, dtype: str, gpu: Gpu) -> Iterator[GemmSchedule]:
    unit = unit_of(dtype, gpu)
    chunk = _CHUNK_BYTES // int(numpy_dtype(dtype).itemsize)
    for rows, columns, high, wide in _TENSOR_TILES if unit == "tensor" else _FMA_TILES:
        for depth in (4 * chunk, 8 * chunk):
            for stages in _STAGES if gpu.has_async_copies else _STAGES[:1]:
                schedule = GemmSchedule(rows, columns, depth, high, wide, stages, 1, unit)
                if not gemm_fits(schedule, dtype, gpu):
                    continue
                steps = -(-extents.depth // depth)
                for split in _SPLITS:
                    if split == 1 or steps >= split * LEAST_STEPS:
                        yield replace(schedule, split_k=split)
                streamed = replace(schedule, split_k=0)
                if stream_of(streamed, extents, dtype, gpu) is not None:
                    yield streamed
    yield from _warpgroup_candidates(extents, dtype, gpu)


def _warpgroup_candidates(extents: Extents, dtype: str, gpu: Gpu) -> Iterator[GemmSchedule]:
    """Of products that fill the GPU with blocks of many steps, each of which is copied without threads' registers."""
    size = int(numpy_dtype(dtype).itemsize)
    depth = _WARPGROUP_STEP // size
    if not extents.in_chunks or extents.depth < _WARPGROUP_STEPS * depth:
        return
    for rows, columns, high, wide in _WARPGROUP_TILES:
        tiles = extents.batch * -(-extents.rows // rows) * -(-extents.columns // columns)
        if tiles < gpu.multiprocessors or rows >= 2 * extents.rows or columns >= 2 * extents.columns:
            continue
        for stages in _STAGES:
            schedule = GemmSchedule(rows, columns, depth, high, wide, stages, 1, "warpgroups")
            if gemm_fits(schedule, dtype, gpu):
                yield schedule


def gemm_fits(schedule: GemmSchedule, dtype: str, gpu: Gpu) -> bool:
    """Whether there is such a tile: parts of warps that units have, threads that share copies evenly, and room."""
    size = int(numpy_dtype(dtype).itemsize)
    extents = schedule.rows, schedule.columns, schedule.depth, schedule.warp_rows, schedule.warp_columns
    if any(extent < 1 or extent & (extent - 1) for extent in extents) or schedule.split_k < 0:
        return False
    rows, columns = schedule.rows // schedule.warp_rows, schedule.columns // schedule.warp_columns
    if schedule.unit == "warpgroups":
        # Stages: one is multiplied, one was until now, the next one arrives.
        known = bool(gpu.specific) and size < 4 and schedule.split_k == 1 and schedule.stages > _STAGES[0]
        shaped = (
            schedule.warp_rows % 4 == 0 and rows == _WARPGROUP_ROWS and columns in _WARPGROUP_COLUMNS
            and schedule.depth * size == _WARPGROUP_STEP
        )  # fmt: skip
    elif schedule.unit == "tensor":
        known = size < 4 or gpu.multiplies_bfloat16
        shaped = rows >= 16 and columns >= 16 and schedule.depth * size >= 2 * _CHUNK_BYTES
    else:
        known = schedule.unit == "fma" and dtype == "float32"
        shaped = rows >= 4 and columns >= 32 and schedule.depth * size >= 2 * _CHUNK_BYTES
    return (
        known and shaped and 2 <= schedule.stages <= _STAGES[-1] and schedule.threads <= _MOST_THREADS
        and schedule.shared_bytes(dtype) <= gpu.shared_block - _OTHER_SHARED and schedule.registers() <= _MOST_REGISTERS
    )  # fmt: skip


def gemm_resident(schedule: GemmSchedule, dtype: str, gpu: Gpu) -> int:
    """Blocks that a multiprocessor holds at once."""
    return max(1, occupancy(gpu, schedule.threads, schedule.registers(), schedule.shared_bytes(dtype)).blocks)


def tiles_of(schedule: GemmSchedule, extents: Extents) -> int:
    return extents.batch * -(-extents.rows // schedule.rows) * -(-extents.columns // schedule.columns)


@dataclass(frozen=True)
class Stream:
    """The first `whole` tiles have a block each; the steps of the other `tiles`, one after the other, are shared by
    `blocks` more (stream-K: Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-Matrix
    Multiplication on the GPU", 2023)."""

    whole: int
    tiles: int
    blocks: int


@functools.cache
def stream_of(schedule: GemmSchedule, extents: Extents, dtype: str, gpu: Gpu) -> Stream | None:
    """A wave is what all multiprocessors hold at once: what is left of the last one is shared by a whole one, together
    with the wave before it where it would be too little. None where nothing is shared."""
    if schedule.split_k:
        return None
    tiles, steps = tiles_of(schedule, extents), -(-extents.depth // schedule.depth)
    wave = gemm_resident(schedule, dtype, gpu) * gpu.multiprocessors
    rest = tiles % wave
    shared = rest + wave if rest * steps < wave * LEAST_STEPS and tiles > wave else rest
    blocks = min(wave, shared * steps // LEAST_STEPS)
    if not rest or blocks <= rest or tiles * steps >= _MOST_STEPS:
        return None
    return Stream(tiles - shared, shared, blocks)


def gemm_cycles(schedule: GemmSchedule, extents: Extents, dtype: str, gpu: Gpu, decodes: bool = False) -> float:
    """See `cost_models.tiles`. What is decoded is few bytes, which wait in registers for a step, and instructions."""
    size = int(numpy_dtype(dtype).itemsize)
    rows, columns, depth = schedule.rows, schedule.columns, schedule.depth
    fma, tensor = _PRODUCTS[gpu.capability]
    products_of = {"fma": fma, "tensor": tensor * 2 / size, "warpgroups": 2 * tensor * 2 / size}
    unit = Throughput(products_of[schedule.unit], _SHARED_BYTES, _CACHE_BYTES, _MEMORY_BYTES[gpu.capability])
    warp_rows, warp_columns = rows // schedule.warp_rows, columns // schedule.warp_columns
    warps = schedule.warp_rows * schedule.warp_columns
    chunks = (rows + columns) * depth * size / _CHUNK_BYTES
    products = rows * columns * depth
    if schedule.unit == "fma":
        loads = warps * depth * (warp_rows / 16 + warp_columns / 32)
        read, multiplied = loads * _WARP_LOAD_BYTES, products / _FMA_PRODUCTS
    elif schedule.unit == "warpgroups":
        # Each instruction reads its 64 rows and all its columns; of the second operand one thread asks for all.
        read = rows / 64 * schedule.warp_columns * (64 + warp_columns) * depth * size
        loads, multiplied, chunks = 0.0, 0.0, rows * depth * size / _CHUNK_BYTES
    else:
        read = warps * (warp_rows + warp_columns) * depth * size
        loads, multiplied = read / (32 * _CHUNK_BYTES), products / (_FRAGMENT * 32 / size)
    instructions = multiplied + loads + chunks * _COPY_INSTRUCTIONS / 32
    ahead, copied = schedule.stages - (2 if schedule.unit == "warpgroups" else 1), rows + columns
    if decodes:
        ahead, copied = 1, rows
        instructions += columns * depth * _DECODE_INSTRUCTIONS / 32
    steps = -(-extents.depth // depth)
    all_tiles = tiles_of(schedule, extents)
    resident = gemm_resident(schedule, dtype, gpu)
    each = (extents.rows * size + extents.columns * (1 if decodes else size)) * extents.depth
    memory = extents.batch * (each + extents.rows * extents.columns * 4)

    def cycles(tiles: int, blocks: int, parts: float) -> float:
        """Of tiles whose steps so many blocks share: of each part the sums are left, and one block reads all."""
        written = rows * columns * 4 * (1 if parts == 1 else 2 + parts)
        work = TileWork(warps, products, instructions, copied * depth * size, read, written)
        return grid_cycles(work, -(-tiles * steps // blocks), ahead, blocks, resident, gpu.multiprocessors, unit,
                           memory * tiles / all_tiles)  # fmt: skip

    stream = stream_of(schedule, extents, dtype, gpu)
    if stream is None:
        split = max(schedule.split_k, 1)
        return cycles(all_tiles, all_tiles * split, split)
    # A run goes on to another tile: it begins anew, and leaves sums twice.
    shared = cycles(stream.tiles, stream.blocks, stream.blocks / stream.tiles + 2) + FIRST_LATENCY
    return shared + (cycles(stream.whole, stream.whole, 1) if stream.whole else 0)


@dataclass(frozen=True)
class GemvSchedule(Schedule):
    """Of few rows by packed weights: a block's warps share the reduction, for so many `panels` of 8 columns; each lane
    asks for `unroll` steps at once."""

    kind = "gemv"
    warps: int
    panels: int
    unroll: int

    def registers(self, rows: int) -> int:
        """Of a thread, about: sums, weights that are under way, addresses."""
        return self.panels * 8 * (rows + self.unroll) + _OTHER_REGISTERS // 2


@dataclass(frozen=True)
class CodedSchedule(Schedule):
    """Of few rows by weights in few bits: of a block's warps so many share the reduction, for each of so many `panels`
    of 16 columns; each lane asks for `unroll` blocks of codes at once."""

    kind = "coded"
    warps: int
    panels: int
    unroll: int

    @property
    def threads(self) -> int:
        return 32 * self.warps * self.panels

    def fits(self, rows: int, width: int) -> bool:
        """Sums, their parts and what is multiplied are in registers, and so are the codes of so many bits that are
        under way; what a turn of all warps multiplies is in shared memory."""
        registers = 12 * rows + 4 * width * self.unroll + _OTHER_REGISTERS
        few = self.threads <= _MOST_THREADS and registers <= min(_MOST_REGISTERS, _REGISTERS // self.threads)
        return few and rows * self.warps * self.unroll * _TURN_BYTES <= CODED_SHARED


KINDS: Mapping[str, type[Schedule]] = {
    kind.kind: kind for kind in (CodedSchedule, FlashSchedule, GemmSchedule, GemvSchedule)
}  # fmt: skip


def parse_schedule(row: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_json` wrote. Raises ValueError."""
    if row.get("kind") not in KINDS:
        raise ValueError(f"no kernel has a schedule of kind {row.get('kind')!r}: {', '.join(KINDS)}")
    return KINDS[row["kind"]].from_json(row)


def gemv_schedule(extents: Extents, gpu: Gpu) -> GemvSchedule:
    """As many warps as keep all multiprocessors busy, if each has something to do."""
    panels = 1 if extents.rows == 1 or extents.columns <= 8 else 2
    unroll = 4 if extents.rows <= 2 else 2
    blocks = -(-extents.columns // (8 * panels))
    wanted = -(-gpu.multiprocessors * _BUSY_WARPS // blocks)
    most = max(1, extents.depth // (32 * unroll))
    warps = next((w for w in (2, 4, 8) if w >= min(wanted, most)), 16)
    return GemvSchedule(warps, panels, unroll)


def gemv_resident(schedule: GemvSchedule, rows: int, gpu: Gpu) -> int:
    """Blocks that a multiprocessor holds at once, no more than keep its memory busy: registers do that, too."""
    most = occupancy(gpu, schedule.warps * WARP, schedule.registers(rows), 0).blocks
    return max(1, min(most, _BUSY_WARPS // schedule.warps))


def is_few(extents: Extents, dtype: str, gpu: Gpu) -> bool:
    """Whether rows that meet weights in few bits are too few for tiles; multiply-adds of tiles are no faster than those
    of registers for some more."""
    return extents.rows <= GEMV_ROWS * (2 if unit_of(dtype, gpu) == "fma" else 1)


def coded_schedule(extents: Extents, width: int, gpu: Gpu) -> CodedSchedule:
    """As many warps as keep all multiprocessors busy, if each has something to do; panels beside each other, which
    share what they multiply, as far as there are blocks for all multiprocessors then."""
    panels, steps = -(-extents.columns // 16), -(-extents.depth // (8 * 32))
    unroll = 1 if width > 4 or extents.rows > 4 or steps < 2 else 2
    wanted = -(-gpu.multiprocessors * _BUSY_WARPS // panels)
    warps = next((w for w in (1, 2, 4, 8) if w >= min(wanted, -(-steps // unroll))), 8)
    for beside in (4, 2):
        schedule = CodedSchedule(warps, beside, unroll)
        if schedule.fits(extents.rows, width) and panels >= beside * gpu.multiprocessors * 7 // 8:
            return schedule
    halves = (CodedSchedule(max(warps >> n, 1), 1, max(unroll >> n, 1)) for n in range(4))
    return next(schedule for schedule in halves if schedule.fits(extents.rows, width))
