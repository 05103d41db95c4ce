"""Schedules of the CPU's kernels, and the rules that pick one for any shape without tuning.

A schedule is a frozen value: what a kernel needs to know beyond its workload to write its loops. As JSON it stands in
tuning records and manifests. The rules take the register tile with the fewest predicted cycles (see
`cost_models.analytic`), tails counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cost_models.analytic import Tile, best_tile, blocked_cycles
from targets.cpu.machine import Machine
from tensorc.ir.types import numpy_dtype
from tensorc.search.schedule import Schedule


@dataclass(frozen=True)
class MatmulSchedule(Schedule):
    """Rows and vectors of the register tile, and how many steps of the reduction are unrolled.

    `outer` is what changes slowest from task to task: the panel of "weights", or the "rows" of the other operand.
    """

    kind = "matmul"
    packing = ("vectors",)
    rows: int
    vectors: int
    unroll: int
    outer: str = "weights"


@dataclass(frozen=True)
class BlockedMatmulSchedule(Schedule):
    """Rows and vectors of the register tile, steps unrolled (they divide `depth`); a task is `panels` of weights by all
    rows, `depth` steps of the reduction at a time."""

    kind = "blocked_matmul"
    packing = ("vectors", "depth", "panels")
    rows: int
    vectors: int
    unroll: int
    depth: int
    panels: int


@dataclass(frozen=True)
class ProductSchedule(Schedule):
    """Of two computed matrices: rows and vectors of the register tile."""

    kind = "product"
    rows: int
    vectors: int


@dataclass(frozen=True)
class AttentionSchedule(Schedule):
    """Queries and vectors of keys of the register tile of scores; vectors of the values' columns in that of the
    weighted sums, which has as many queries."""

    kind = "attention"
    rows: int
    vectors: int
    values: int


@dataclass(frozen=True)
class CodedSchedule(Schedule):
    """Of weights in few bits, decoded on the fly: rows and vectors of the register tile."""

    kind = "coded"
    packing = ("vectors",)
    rows: int
    vectors: int


@dataclass(frozen=True)
class CodedDotSchedule(Schedule):
    """Of weights in few bits by inputs rounded to bytes: rows and vectors of the register tile."""

    kind = "coded_dot"
    packing = ("vectors",)
    rows: int
    vectors: int


@dataclass(frozen=True)
class CodedLookupSchedule(Schedule):
    """Of weights in few bits, taken apart bit by bit and looked up in tables of sums of inputs, "float32" or "int8"."""

    kind = "coded_lookup"
    packing = ("vectors",)
    rows: int
    vectors: int
    tables: str


@dataclass(frozen=True)
class CodedPanelSchedule(Schedule):
    """Of weights in few bits, a panel decoded for all rows: rows and vectors of the register tile."""

    kind = "coded_panel"
    packing = ("vectors",)
    rows: int
    vectors: int


@dataclass(frozen=True)
class ConvSchedule(Schedule):
    """Output rows, columns and channel vectors of the register tile.

    `order` is what the innermost loops run over: the filter's "taps" inside those over channels, or the "channels"
    inside those over taps, `unroll` of them unrolled. `outer` is what changes slowest from task to task: the strip of
    "weights" or the "pixels".
    """

    kind = "conv"
    packing = ("vectors", "order")
    rows: int
    columns: int
    vectors: int
    order: str
    unroll: int
    outer: str


@dataclass(frozen=True)
class DepthwiseSchedule(Schedule):
    """Output columns in registers."""

    kind = "depthwise"
    columns: int


@dataclass(frozen=True)
class WinogradSchedule(Schedule):
    """Of a 3x3 convolution by minimal filtering (see `kernels.winograd`), output tiles of `tile` x `tile`.

    `rows` image tiles by `vectors` of output channels are in registers during the products. A task transforms a strip
    of `strip` times `rows` image tiles and multiplies it with one of `shares` of the output channels.
    """

    kind = "winograd"
    packing = ("tile", "vectors")
    tile: int
    rows: int
    vectors: int
    strip: int
    shares: int


KINDS: Mapping[str, type[Schedule]] = {
    kind.kind: kind
    for kind in (
        AttentionSchedule, BlockedMatmulSchedule, CodedDotSchedule, CodedLookupSchedule, CodedPanelSchedule,
        CodedSchedule, ConvSchedule, DepthwiseSchedule, MatmulSchedule, ProductSchedule, WinogradSchedule,
    )
}  # fmt: skip


def parse_schedule(row: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_json` wrote. Raises ValueError."""
    if row.get("kind") not in KINDS:
        raise ValueError(f"no kernel has a schedule of kind {row.get('kind')!r}: {', '.join(KINDS)}")
    return KINDS[row["kind"]].from_json(row)


def lanes_of(machine: Machine, dtype: str) -> int:
    """Elements of `dtype` in one vector register; booleans and bytes go as many as 32-bit elements do."""
    return max(machine.vector_bits // 8 // max(numpy_dtype(dtype).itemsize, 4), 1)


def matmul_schedule(rows: int, depth: int, columns: int, lanes: int, machine: Machine) -> MatmulSchedule:
    """For a product of [rows, depth] with constant weights [depth, columns]."""
    vectors = best_tile(machine.vector_registers, (rows,), -(-columns // lanes), depth).vectors
    limit = max((machine.vector_registers - vectors - 1) // vectors, 1)
    tile_rows = min(
        range(1, min(rows, limit) + 1),
        key=lambda r: (blocked_cycles(Tile(r, vectors), (rows,), vectors, depth), -r),
    )
    # Unrolled so far that a step prefetches about one cache line of the next panel.
    unroll = max(1, min(8, depth, round(-(-rows // tile_rows) / vectors)))
    return MatmulSchedule(tile_rows, vectors, unroll)


def product_schedule(rows: int, depth: int, columns: int, lanes: int, machine: Machine) -> ProductSchedule:
    tile = best_tile(machine.vector_registers, (rows,), -(-columns // lanes), depth)
    return ProductSchedule(tile.rows, tile.vectors)


def attention_schedule(
    queries: int, depth: int, keys: int, width: int, lanes: int, machine: Machine
) -> AttentionSchedule:
    """For scores of [queries, keys], sums of `depth` products each, that weigh values of `width` columns."""
    tile = product_schedule(queries, depth, keys, lanes, machine)
    values = min(4, -(-width // lanes), (machine.vector_registers - 2) // (tile.rows + 1))
    return AttentionSchedule(tile.rows, tile.vectors, max(values, 1))


def conv_schedule(columns: int, blocks: int, depth: int, machine: Machine) -> ConvSchedule:
    """For rows of `columns` results in `blocks` channel blocks (of one group), each a sum of `depth` products."""
    tile = best_tile(machine.vector_registers, (columns,), blocks, depth)
    return ConvSchedule(1, tile.rows, tile.vectors, "channels", 4, "weights")


def depthwise_schedule(columns: int, machine: Machine) -> DepthwiseSchedule:
    """Half the registers for results, so that the filter's taps stay in the other half."""
    return DepthwiseSchedule(min(columns, machine.vector_registers // 2))
