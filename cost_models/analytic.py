"""Cycles of register-blocked inner loops, from first principles.

The model of one step of the reduction, on a core that starts two fused multiply-adds and two loads a cycle (every
x86 server core since Haswell): a tile of `rows` x `vectors` accumulators needs rows*vectors multiply-adds, loads
`vectors` vectors of weights and broadcasts `rows` scalars, and cannot go round faster than one multiply-add's latency.
Loads that fit beside the multiply-adds still cost a little, since they contend for issue slots and miss caches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

#: One tile or, in arrays, many.
Number = TypeVar("Number", float, np.ndarray)

_FMA_A_CYCLE = 2
_LOADS_A_CYCLE = 2
FMA_LATENCY = 4
_LOAD_CONTENTION = 0.1
#: Cycles around each tile: address arithmetic, loop entry, and for each accumulator its clearing and storing.
_TILE_CYCLES = 20
_ACCUMULATOR_CYCLES = 2


@dataclass(frozen=True)
class Tile:
    """Accumulators held in registers: `rows` x `vectors` vector registers."""

    rows: int
    vectors: int


def step_cycles(rows: Number, vectors: Number) -> Number:
    """Cycles of one step of the reduction for a tile of rows x vectors."""
    loads = rows + vectors
    busy = np.maximum(rows * vectors / _FMA_A_CYCLE, loads / _LOADS_A_CYCLE)
    cycles: Number = np.maximum(busy, FMA_LATENCY) + _LOAD_CONTENTION * loads
    return cycles


def tile_cycles(rows: int, vectors: int, depth: int) -> float:
    """Cycles of one tile over a reduction of `depth` steps."""
    return step_cycles(rows, vectors) * depth + _TILE_CYCLES + _ACCUMULATOR_CYCLES * rows * vectors


def tiles(registers: int, most_rows: int, most_vectors: int) -> Iterator[Tile]:
    """Every tile that fits the register file with its weights' vectors and one broadcast beside it."""
    for vectors in range(1, most_vectors + 1):
        for rows in range(1, most_rows + 1):
            if rows * vectors + vectors + 1 <= registers:
                yield Tile(rows, vectors)


def blocked_cycles(tile: Tile, rows: Iterable[int], vectors: int, depth: int) -> float:
    """Cycles of a whole product: `rows` are the extents that tiles cut (each with its tail), `vectors` is the width in
    vectors, filled up to whole tiles, and `depth` the length of the reduction."""
    per_column = 0.0
    for extent in rows:
        whole, tail = divmod(extent, tile.rows)
        per_column += whole * tile_cycles(tile.rows, tile.vectors, depth)
        if tail:
            per_column += tile_cycles(tail, tile.vectors, depth)
    return per_column * -(-vectors // tile.vectors)


def best_tile(registers: int, rows: tuple[int, ...], vectors: int, depth: int, most_vectors: int = 4) -> Tile:
    """The tile with the fewest predicted cycles; the smaller register block among equals."""
    candidates = tiles(registers, min(max(rows), registers - 2), min(most_vectors, vectors))
    return min(candidates, key=lambda t: (blocked_cycles(t, rows, vectors, depth), t.rows * t.vectors))
