"""Time of tiled matrix products on a GPU, from first principles: cycles of its multiprocessors.

A multiprocessor holds a few blocks at once, which share its arithmetic units, its shared memory and its path to the
second-level cache. A step of the reduction takes as long as the busiest of these, and not less than a step's latency
(waiting for copies, a barrier, fragments, dependent products); the others still cost a little, since they get into each
other's way. Blocks come in rounds; the last round may be short.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Throughput:
    """Of one multiprocessor and cycle: multiply-adds of the unit in use, bytes of shared memory read, bytes that come
    from the second-level cache; its share of what comes from memory."""

    products: float
    shared_bytes: float
    cache_bytes: float
    memory_bytes: float


@dataclass(frozen=True)
class TileWork:
    """What the `warps` of a block do in a step of the reduction, and around all of them: multiply-adds, instructions (a
    warp's count once), bytes copied in, bytes read from shared memory, bytes that are written in the end."""

    warps: int
    products: float
    instructions: float
    copied_bytes: float
    read_bytes: float
    written_bytes: float


#: Cycles of a step that no other block's work hides: a barrier, loads from shared memory, dependent products.
_STEP_LATENCY = 60.0
#: Cycles from asking for a copy to its arrival; so many steps go by as copies are under way.
_COPY_LATENCY = 600.0
#: Cycles before the first step: a launch of the block, and the first copies from memory.
FIRST_LATENCY = 900.0
_LAST_LATENCY = 500.0
#: Of the units' throughput, what inner loops reach.
_EFFICIENCY = 0.8
#: Of the time of what is not the busiest.
_CONTENTION = 0.2
#: Instructions that a multiprocessor begins in a cycle; each of its quarters, those of its own warps.
_INSTRUCTIONS = 4.0
#: Warps that keep all quarters busy: of two, one computes while the other waits for its operands.
_BUSY_WARPS = 8


def tile_cycles(work: TileWork, steps: int, ahead: int, resident: int, unit: Throughput) -> float:
    """Cycles of `resident` blocks that a multiprocessor runs side by side, each of `steps` steps, the copies of `ahead`
    later ones under way."""
    used = min(1.0, resident * work.warps / _BUSY_WARPS)
    computed = work.products / (unit.products * _EFFICIENCY), work.instructions / _INSTRUCTIONS
    moved = work.read_bytes / unit.shared_bytes, work.copied_bytes / unit.cache_bytes
    waits = _STEP_LATENCY, _COPY_LATENCY / ahead
    parts = (*(resident * cycles / used for cycles in computed), *(resident * cycles for cycles in moved), *waits)
    step = max(parts) + _CONTENTION * sum(parts)
    written = resident * work.written_bytes / unit.cache_bytes
    return FIRST_LATENCY + steps * step + written + _LAST_LATENCY


def grid_cycles(work: TileWork, steps: int, ahead: int, blocks: int, resident: int, multiprocessors: int,
                unit: Throughput, memory_bytes: float) -> float:  # fmt: skip
    """Cycles of `blocks` blocks, of which a multiprocessor holds `resident`; all of them read and write so many bytes
    of memory at least."""
    whole, rest = divmod(blocks, resident * multiprocessors)
    cycles = whole * tile_cycles(work, steps, ahead, resident, unit)
    if rest:
        cycles += tile_cycles(work, steps, ahead, -(-rest // multiprocessors), unit)
    return max(cycles, memory_bytes / (unit.memory_bytes * multiprocessors) + FIRST_LATENCY)
