"""Where operands of attention lie in shared memory, and what a thread has of a warp's rows in registers."""

from __future__ import annotations

from dataclasses import dataclass

from targets.cuda.flash import AttentionExtents, FlashSchedule, padding
from tensorc.lowering import tir
from tensorc.lowering.gpu import BlockBuilder
from tensorc.lowering.tir import Expr

_CHUNK_BYTES = 16


@dataclass(frozen=True)
class Tile:
    """`rows` of `chunks` in shared memory, from byte `first` on. Chunks lie such that what a warp reads or writes at
    once, of one chunk of 8 rows or of 8 chunks of few rows, lies in different banks."""

    first: int
    rows: int
    chunks: int
    row_bytes: int
    chunk_bytes: int

    @staticmethod
    def below(first: int, rows: int, chunks: int) -> Tile:
        """The same chunk of all rows side by side, as tensor cores read them."""
        return Tile(first, rows, chunks, _CHUNK_BYTES, (rows + padding(chunks)) * _CHUNK_BYTES)

    @staticmethod
    def beside(first: int, rows: int, chunks: int) -> Tile:
        """All chunks of a row side by side, an odd number of them from row to row."""
        return Tile(first, rows, chunks, (chunks | 1) * _CHUNK_BYTES, _CHUNK_BYTES)

    @property
    def nbytes(self) -> int:
        return max(self.rows * self.row_bytes, self.chunks * self.chunk_bytes)

    def place(self, row: Expr, chunk: Expr) -> Expr:
        return self.first + row * self.row_bytes + chunk * self.chunk_bytes


@dataclass(frozen=True)
class Fragment:
    """What a thread has of 16 rows of a warp: `lanes` lanes share a row, of which each has `width` neighbours in each
    of `blocks`."""

    lanes: int
    width: int
    blocks: int

    @property
    def rows(self) -> int:
        return self.lanes // 2

    @property
    def size(self) -> int:
        return self.blocks * self.rows * self.width

    def at(self, block: Expr, row: Expr, v: Expr) -> Expr:
        return (block * self.rows + row) * self.width + v

    def column(self, lane: Expr, block: Expr) -> Expr:
        return block * (self.lanes * self.width) + tir.floor_mod(lane, self.lanes) * self.width


class Layout:
    """Of a block's shared memory: the queries, then the keys and values of all stages, then weights on their way
    between lanes."""

    def __init__(self, extents: AttentionExtents, schedule: FlashSchedule):
        tile = Tile.below if extents.on_tensor_cores else Tile.beside
        self.queries = tile(0, schedule.rows, extents.depth_chunks)
        self.keys = tile(self.queries.nbytes, schedule.tile_keys, extents.depth_chunks)
        self.values = tile(self.keys.first + self.keys.nbytes, schedule.tile_keys, extents.value_chunks)
        self.stage_bytes = self.keys.nbytes + self.values.nbytes
        self.weights_first = self.keys.first + schedule.stages * self.stage_bytes


@dataclass(frozen=True)
class QueryRows:
    """Which queries a block's tile has: rows from `first` on of all queries of the heads that share `key_head`'s keys,
    `queries` for each of `extents.rows / queries` heads."""

    builder: BlockBuilder
    extents: AttentionExtents
    schedule: FlashSchedule
    queries: int
    image: Expr
    key_head: Expr
    first: Expr

    def position(self, row: Expr) -> tuple[Expr, Expr, Expr]:
        """Head, query and whether there is one, of a row of the tile; of the last where there is not."""
        builder, rows = self.builder, self.extents.rows
        row = builder.bind(self.first + row)
        inside: Expr = True if rows % self.schedule.rows == 0 else row < rows
        row = row if isinstance(inside, bool) else builder.bind(tir.minimum(row, rows - 1))
        if rows == self.queries:
            return self.key_head, row, inside
        shared = rows // self.queries
        head = builder.bind(self.key_head * shared + tir.floor_div(row, self.queries))
        return head, builder.bind(tir.floor_mod(row, self.queries)) if self.queries > 1 else 0, inside
