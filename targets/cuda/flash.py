"""Schedules of fused attention, and the rule that picks one for any shape without tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from targets.cuda.gpu import Gpu
from tensorc.search.schedule import Schedule


def padding(chunks: int) -> int:
    """Rows that are left free between chunks of 16 bytes, of which there are so many in a row: what 8 lanes copy at
    once, neighbouring chunks of as many rows as that takes, goes to different banks."""
    return 8 // chunks % 8 if chunks < 8 else 1


@dataclass(frozen=True)
class AttentionExtents:
    """`batch` times queries [rows, depth], keys [keys, depth] and values [keys, values], of `size` bytes an element in
    shared memory. The rows are the queries of all heads that share keys."""

    batch: int
    rows: int
    keys: int
    depth: int
    values: int
    size: int
    on_tensor_cores: bool

    @property
    def elements(self) -> int:
        """Of a chunk of 16 bytes, which is what a thread copies at once."""
        return 16 // self.size

    @property
    def depth_chunks(self) -> int:
        """What tensor cores multiply at once is two of them."""
        chunks = -(-self.depth // self.elements)
        return chunks + chunks % 2 if self.on_tensor_cores else chunks

    @property
    def value_chunks(self) -> int:
        """Without tensor cores, 8 threads take a chunk each of a row at once."""
        chunks, together = -(-self.values // self.elements), 2 if self.on_tensor_cores else 8
        return -(-chunks // together) * together

    @property
    def holds_queries(self) -> bool:
        """Whether the queries stay in registers, and are not read again for each tile of keys."""
        return self.on_tensor_cores and self.depth_chunks <= _MOST_HELD


@dataclass(frozen=True)
class FlashSchedule(Schedule):
    """Queries of a block, 16 to a warp; keys that pass through a warp's registers at once; buffers of shared memory
    that they pass through; into how many parts the keys are split, of which each is a block's; and how many warps have
    the same queries, with keys of their own in each tile. Of the last two, one is 1."""

    kind = "flash"
    rows: int
    keys: int
    stages: int
    splits: int
    warps: int

    @property
    def threads(self) -> int:
        return 2 * self.rows * self.warps

    @property
    def tile_keys(self) -> int:
        """Of a tile in shared memory."""
        return self.keys * self.warps

    def shared_bytes(self, extents: AttentionExtents) -> int:
        """Queries, then keys and values of all stages, then the weights of the values where they pass through memory.
        What warps find and results on their way out lie where queries and keys were."""
        depth, values = extents.depth_chunks, extents.value_chunks
        quads = values * extents.elements // 8 + (1 if extents.on_tensor_cores else 2)
        found = self.threads * quads if self.warps > 1 else 0
        if extents.on_tensor_cores:
            keys = depth * (self.tile_keys + padding(depth)) + values * (self.tile_keys + padding(values))
            tiles = depth * (self.rows + padding(depth)) + self.stages * keys
            return 16 * max(tiles, values * (self.rows + padding(values)), found)
        depth, values = depth | 1, values | 1
        tiles = self.rows * depth + self.stages * self.tile_keys * (depth + values)
        return max(16 * tiles + 4 * self.rows * self.warps * (self.keys + 4), 16 * found)

    def registers(self, extents: AttentionExtents) -> int:
        """Of a thread, about: weighted sums, scores, what of the queries is held, addresses."""
        per_chunk = extents.elements // 2
        scores = self.keys // 2 + self.keys // 4 if extents.on_tensor_cores else self.keys
        held = 2 * extents.depth_chunks if extents.holds_queries else 16
        return per_chunk * extents.value_chunks + scores + held + 40


#: Chunks of a query: beyond, weighted sums want the registers.
_MOST_HELD = 8
#: Keys of a part at least: below that, the parts take longer to join than to weigh.
_LEAST_KEYS = 128
_MOST_REGISTERS = 240
_STAGES = 2
_FEW_ROWS = 64


def flash_schedule(extents: AttentionExtents, gpu: Gpu) -> FlashSchedule | None:
    """The largest tile of queries with which every multiprocessor has a block, as keys are read once for each. Where
    none is small enough, the keys are split, so that each has two blocks. Of what is left, small tiles have several
    warps. None where no tile fits."""
    fitting = list(_candidates(extents, gpu))
    if not fitting:
        return None
    # Of float32, shared memory has twice as many bytes for a key, and is to have several blocks.
    wanted = 128 // extents.size
    keys = min((schedule.keys for schedule in fitting), key=lambda keys: abs(keys - wanted))
    fitting = [schedule for schedule in fitting if schedule.keys == keys]
    filling = [s for s in fitting if _blocks(s, extents) >= gpu.multiprocessors]
    if filling:
        return _shared_by_warps(max(filling, key=lambda s: s.rows), extents, gpu)
    least = min(fitting, key=lambda s: s.rows)
    splits = min(-(-2 * gpu.multiprocessors // _blocks(least, extents)), extents.keys // max(_LEAST_KEYS, least.keys))
    return replace(least, splits=splits) if splits > 1 else _shared_by_warps(least, extents, gpu)


def _shared_by_warps(schedule: FlashSchedule, extents: AttentionExtents, gpu: Gpu) -> FlashSchedule:
    """Small tiles of queries have several warps each, which take half as many keys."""
    keys = max(schedule.keys // 2, 16)
    warps = min(_FEW_ROWS // schedule.rows, -(-extents.keys // keys))
    shared = replace(schedule, keys=keys, warps=max(warps, 1))
    return shared if warps > 1 and flash_fits(shared, extents, gpu) else schedule


def _candidates(extents: AttentionExtents, gpu: Gpu) -> Iterator[FlashSchedule]:
    """Tiles that fit, with the keys in one part."""
    for rows in (128, 64, 32, 16):
        if rows > 16 and rows >= 2 * extents.rows:
            continue
        for keys in (64, 32, 16):
            if keys > 16 and keys >= 2 * extents.keys:
                continue
            schedule = FlashSchedule(rows, keys, _STAGES, 1, 1)
            if flash_fits(schedule, extents, gpu):
                yield schedule


def flash_fits(schedule: FlashSchedule, extents: AttentionExtents, gpu: Gpu) -> bool:
    if schedule.rows % 16 or schedule.keys % 16 or schedule.threads > 1024 or schedule.stages < 2:
        return False
    if not 1 <= schedule.splits <= -(-extents.keys // schedule.tile_keys):
        return False
    if schedule.warps < 1 or (schedule.warps > 1 and schedule.splits > 1):
        return False
    return schedule.shared_bytes(extents) <= gpu.shared_block and schedule.registers(extents) <= _MOST_REGISTERS


def _blocks(schedule: FlashSchedule, extents: AttentionExtents) -> int:
    return extents.batch * -(-extents.rows // schedule.rows) * schedule.splits
