"""Schedules of the CPU's kernels, and the rules that pick one for any shape without tuning.

A schedule is a frozen value: what a kernel needs to know beyond its workload to write its loops. The rules take the
register tile with the fewest predicted cycles (see `cost_models.analytic`), tails counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from cost_models.analytic import Tile, best_tile, blocked_cycles
from targets.cpu.machine import Machine
from tensorc.ir.types import numpy_dtype


@dataclass(frozen=True)
class MatmulSchedule:
    """Rows and vectors of the register tile, and how many steps of the reduction are unrolled."""

    rows: int
    vectors: int
    unroll: int

    def __str__(self) -> str:
        return f"tile {self.rows}x{self.vectors} vectors, unroll {self.unroll}"


@dataclass(frozen=True)
class ConvSchedule:
    """Output columns and channel vectors of the register tile."""

    columns: int
    vectors: int

    def __str__(self) -> str:
        return f"tile {self.columns}x{self.vectors} vectors"


def lanes_of(machine: Machine, dtype: str) -> int:
    """Elements of `dtype` in one vector register; booleans and bytes go as many as 32-bit elements do."""
    return max(machine.vector_bits // 8 // max(numpy_dtype(dtype).itemsize, 4), 1)


def panel_width(rows: int, depth: int, columns: int, machine: Machine) -> int:
    """Columns that weights are packed by, for a product of [rows, depth] and [depth, columns]."""
    lanes = lanes_of(machine, "float32")
    return best_tile(machine.vector_registers, (rows,), -(-columns // lanes), depth).vectors * lanes


def matmul_schedule(rows: int, depth: int, vectors: int, machine: Machine) -> MatmulSchedule:
    """For packed weights: the best tile as wide as the panel."""
    limit = max((machine.vector_registers - vectors - 1) // vectors, 1)
    tile_rows = min(
        range(1, min(rows, limit) + 1),
        key=lambda r: (blocked_cycles(Tile(r, vectors), (rows,), vectors, depth), -r),
    )
    # Unrolled so far that a step prefetches about one cache line of the next panel.
    unroll = max(1, min(8, depth, round(-(-rows // tile_rows) / vectors)))
    return MatmulSchedule(tile_rows, vectors, unroll)


def product_schedule(rows: int, depth: int, columns: int, machine: Machine) -> MatmulSchedule:
    """For a product of two computed matrices."""
    tile = best_tile(machine.vector_registers, (rows,), -(-columns // lanes_of(machine, "float32")), depth)
    return MatmulSchedule(tile.rows, tile.vectors, 1)


def conv_schedule(columns: int, blocks: int, depth: int, machine: Machine) -> ConvSchedule:
    """For rows of `columns` results in `blocks` channel blocks (of one group), each a sum of `depth` products."""
    tile = best_tile(machine.vector_registers, (columns,), blocks, depth)
    return ConvSchedule(tile.rows, tile.vectors)


def depthwise_schedule(columns: int, machine: Machine) -> ConvSchedule:
    """Half the registers for results, so that the filter's taps stay in the other half."""
    return ConvSchedule(min(columns, machine.vector_registers // 2), 1)
