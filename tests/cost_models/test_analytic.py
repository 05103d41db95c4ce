"""The analytic model: its formula as documented, and that what it picks is what it ranks first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.analytic import Tile, best_tile, blocked_cycles, step_cycles, tile_cycles, tiles

registers = st.sampled_from([16, 32])
extents = st.integers(1, 300)
depths = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("rows", "vectors", "cycles"),
    [
        (1, 1, 4 + 0.2),  # the latency of one multiply-add
        (8, 2, 8 + 1.0),  # 16 multiply-adds, two a cycle
        (14, 2, 14 + 1.6),
        (24, 1, 12.5 + 2.5),  # 25 loads, two a cycle
    ],
)
def test_a_step_costs_what_its_scarcest_unit_needs(rows, vectors, cycles):
    assert step_cycles(rows, vectors) == pytest.approx(cycles)


def test_a_tile_costs_its_steps_and_its_frame():
    assert tile_cycles(8, 2, 100) == pytest.approx(9.0 * 100 + 20 + 2 * 16)


def test_a_product_is_its_tiles_with_their_tails():
    # 20 rows: two tiles of 8 and one of 4; 5 vectors: three tiles of 2, the last half empty.
    want = (2 * tile_cycles(8, 2, 100) + tile_cycles(4, 2, 100)) * 3
    assert blocked_cycles(Tile(8, 2), (20,), 5, 100) == pytest.approx(want)
    assert blocked_cycles(Tile(8, 2), (20, 8), 5, 100) == pytest.approx(want + 3 * tile_cycles(8, 2, 100))


@given(registers, extents, st.integers(1, 6))
def test_tiles_fit_the_registers_and_are_all_there_are(registers, rows, vectors):
    found = list(tiles(registers, rows, vectors))
    assert len(set(found)) == len(found)
    fitting = [
        (r, v) for v in range(1, vectors + 1) for r in range(1, rows + 1) if r * v + v + 1 <= registers
    ]  # fmt: skip
    assert {(tile.rows, tile.vectors) for tile in found} == set(fitting)


@given(registers, st.lists(extents, min_size=1, max_size=3), st.integers(1, 64), depths, st.integers(1, 4))
def test_the_best_tile_fits_and_none_is_better(registers, rows, vectors, depth, most_vectors):
    best = best_tile(registers, tuple(rows), vectors, depth, most_vectors)
    assert best.rows * best.vectors + best.vectors + 1 <= registers
    assert 1 <= best.vectors <= min(vectors, most_vectors)
    assert 1 <= best.rows <= max(rows)
    cycles = blocked_cycles(best, rows, vectors, depth)
    for tile in tiles(registers, max(rows), min(vectors, most_vectors)):
        other = blocked_cycles(tile, rows, vectors, depth)
        assert cycles <= other
        if cycles == other:
            assert best.rows * best.vectors <= tile.rows * tile.vectors


@given(registers, extents, st.integers(1, 64), depths)
def test_more_work_costs_more(registers, rows, vectors, depth):
    tile = best_tile(registers, (rows,), vectors, depth)
    cycles = blocked_cycles(tile, (rows,), vectors, depth)
    assert 0 < cycles < blocked_cycles(tile, (rows + 1,), vectors, depth)
    assert cycles < blocked_cycles(tile, (rows,), vectors, depth + 1)
    assert cycles < blocked_cycles(tile, (rows,), vectors + tile.vectors, depth)
    assert cycles < blocked_cycles(tile, (rows, 1), vectors, depth)


@given(st.integers(1, 30), st.integers(1, 6))
def test_a_larger_tile_takes_longer_but_does_more_a_cycle(rows, vectors):
    assert step_cycles(rows + 1, vectors) > step_cycles(rows, vectors)
    assert step_cycles(rows, vectors + 1) > step_cycles(rows, vectors)
    assert step_cycles(2 * rows, vectors) / 2 < step_cycles(rows, vectors)


def test_no_cycle_does_more_than_the_units_can():
    for tile in tiles(32, 30, 4):
        assert tile.rows * tile.vectors / step_cycles(tile.rows, tile.vectors) < 2


def test_large_products_use_most_of_the_registers():
    best = best_tile(32, (1024,), 64, 768)
    assert best.rows * best.vectors >= 24
    best = best_tile(16, (1024,), 64, 768)
    assert best.rows * best.vectors >= 10
