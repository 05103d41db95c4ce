"""The analytic model of tiles on a GPU."""

from __future__ import annotations

from dataclasses import replace

from cost_models.tiles import Throughput, TileWork, grid_cycles, tile_cycles

UNIT = Throughput(products=128, shared_bytes=128, cache_bytes=32, memory_bytes=15)
WORK = TileWork(warps=8, products=128 * 128 * 16, instructions=9000, copied_bytes=16384, read_bytes=65536,
                written_bytes=65536)  # fmt: skip


def grid(blocks, steps=100, resident=2, memory_bytes=0.0):
    return grid_cycles(WORK, steps, 2, blocks, resident, 132, UNIT, memory_bytes)


def test_blocks_come_in_rounds():
    assert grid(1) == grid(132) < grid(133) == grid(264) < grid(265)
    assert grid(528) == 2 * grid(264)


def test_what_is_busiest_decides():
    cycles = tile_cycles(WORK, 100, 2, 1, UNIT)
    assert tile_cycles(replace(WORK, products=2 * WORK.products), 100, 2, 1, UNIT) > 1.5 * cycles
    assert tile_cycles(replace(WORK, copied_bytes=2 * WORK.copied_bytes), 100, 2, 1, UNIT) < 1.2 * cycles


def test_few_warps_leave_units_idle():
    lonely = replace(WORK, warps=1)
    assert tile_cycles(lonely, 100, 2, 1, UNIT) > 4 * tile_cycles(WORK, 100, 2, 1, UNIT)


def test_copies_that_are_further_ahead_are_waited_for_less():
    small = replace(WORK, products=1024, instructions=64, copied_bytes=512, read_bytes=512)
    assert tile_cycles(small, 100, 3, 1, UNIT) < tile_cycles(small, 100, 1, 1, UNIT)


def test_memory_is_a_bound():
    assert grid(1, memory_bytes=1e9) > 1e9 / (15 * 132) > grid(1)
