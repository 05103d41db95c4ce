"""Fused attention: softmax(scale q k^T + mask) v, the scores of a few queries and keys at a time in registers.

FlashAttention-2 (Dao, 2023): a block has a tile of queries and goes over the keys in tiles, 16 queries to a warp. It
keeps, for each query, the largest score so far, the sum of the exponentials under it and the values that these weigh,
which are multiplied by the ratio where a tile has a larger score. Keys and values come through shared memory by
asynchronous copies, some tiles ahead. Heads that share keys are rows of one tile.

Operands of 16 bits are multiplied by tensor cores, and the weights of the values are rounded to that type for it;
float32 by multiply-adds, or rounded to tf32 where the user allows it. Scores, sums and statistics are in float32.

Where there are few queries the keys are split between blocks (flash decoding): the last one to end joins the parts.
"""

from __future__ import annotations

import math

from targets.cuda.flash import AttentionExtents, FlashSchedule, flash_fits, flash_schedule
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.attention.copies import Copies, source_of
from targets.cuda.kernels.attention.results import Results
from targets.cuda.kernels.attention.softmax import OnlineSoftmax
from targets.cuda.kernels.attention.tiles import QueryRows
from targets.cuda.kernels.attention.units import MultiplyAdds, TensorCores, Thread, Unit
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.tir import Buffer, Expr, const
from tensorc.search.schedule import Schedule, checked

_LOG2_E = math.log2(math.e)


def lower_attention(body: Graph, node: Node, gpu: Gpu, given: Schedule | None = None) -> Kernel:
    if node.output.dtype not in ("float16", "float32"):
        raise UnsupportedError(f"attention of {node.output.dtype} is not lowered")
    dtype, extents = product_type(node, gpu), extents_of_attention(node, gpu)
    schedule = checked(given, FlashSchedule) or flash_schedule(extents, gpu)
    if schedule is None:
        raise UnsupportedError(f"no tile of attention fits {gpu.name}: {extents}")
    if not flash_fits(schedule, extents, gpu):
        raise ValueError(f"{schedule} does not fit {extents} on {gpu.name}")
    return _Flash(CudaGroup(body, gpu, schedule.threads), node, dtype, extents, schedule).lower()


def extents_of_attention(node: Node, gpu: Gpu) -> AttentionExtents:
    batch, queries, heads, depth = static_shape(node.inputs[0].shape)
    _, keys, key_heads, values = static_shape(node.inputs[2].shape)
    size = int(numpy_dtype(product_type(node, gpu)).itemsize)
    tensor = size == 2 or (gpu.rounds_products and gpu.multiplies_bfloat16)
    return AttentionExtents(batch * key_heads, heads // key_heads * queries, keys, depth, values, size, tensor)


def product_type(node: Node, gpu: Gpu) -> str:
    """The 16-bit type that all of queries, keys and values are held in, if tensor cores multiply it, or float32."""
    types = {source_of(value).dtype for value in node.inputs[:3]}
    known = {"float16"} | ({"bfloat16"} if gpu.multiplies_bfloat16 else set())
    return types.pop() if len(types) == 1 and types <= known else "float32"


class _Flash:
    """Writes one kernel."""

    def __init__(self, group: CudaGroup, node: Node, dtype: str, extents: AttentionExtents, schedule: FlashSchedule):
        self.group, self.builder, self.node = group, group.builder, node
        self.dtype, self.extents, self.schedule = dtype, extents, schedule
        self.key_heads = static_shape(node.inputs[1].shape)[2]
        self.masks = node.inputs[3:]

    def lower(self) -> Kernel:
        builder, schedule, extents = self.builder, self.schedule, self.extents
        self.group.dynamic_bytes = schedule.shared_bytes(extents)
        memory = builder.dynamic_shared(self.group.dynamic_bytes)
        row_tiles, key_tiles = -(-extents.rows // schedule.rows), -(-extents.keys // schedule.tile_keys)
        each = -(-key_tiles // schedule.splits)
        splits = -(-key_tiles // each)
        split = builder.bind(tir.floor_mod(builder.block, splits)) if splits > 1 else 0
        tile = builder.bind(tir.floor_div(builder.block, splits)) if splits > 1 else builder.block
        row_tile = builder.bind(tir.floor_mod(tile, row_tiles)) if row_tiles > 1 else 0
        self.queries = self._queries(row_tile, builder.bind(tir.floor_div(tile, row_tiles)) if row_tiles > 1 else tile)
        thread = self._thread()
        first = builder.bind(split * each) if splits > 1 else 0
        count: Expr = each if key_tiles % each == 0 else builder.bind(tir.minimum(each, key_tiles - first))

        self.unit: Unit = (
            TensorCores(builder, memory, extents, schedule, thread, self.dtype) if extents.on_tensor_cores
            else MultiplyAdds(builder, memory, extents, schedule, thread)
        )  # fmt: skip
        self.positions = [self.queries.position(row) for row in self.unit.rows]
        self.seen = self._softmax()
        self.copies = Copies(self.group, memory, self.dtype)
        self._copy_queries()
        self._pass_keys(first, count)
        self.seen.add_lanes()
        results = Results(self.group, memory, self.node, self.dtype, self.unit, self.queries, self.positions)
        if schedule.warps > 1:
            self._join_warps(memory)
        if splits > 1:
            self._join_blocks(tile, split, extents.batch * row_tiles, splits, results)
        else:
            results.store(self.seen)
        return self.group.launched(extents.batch * row_tiles * splits, schedule)

    def _queries(self, row_tile: Expr, pair: Expr) -> QueryRows:
        """Of a tile of a pair of an image and a head of the keys."""
        builder, heads = self.builder, self.key_heads
        image = builder.bind(tir.floor_div(pair, heads)) if heads > 1 else pair
        key_head = builder.bind(tir.floor_mod(pair, heads)) if heads > 1 else 0
        first = builder.bind(row_tile * self.schedule.rows)
        queries = static_shape(self.node.inputs[0].shape)[1]
        return QueryRows(builder, self.extents, self.schedule, queries, image, key_head, first)

    def _thread(self) -> Thread:
        builder, schedule = self.builder, self.schedule
        lane = builder.bind(tir.floor_mod(builder.thread, 32))
        warp = builder.bind(tir.floor_div(builder.thread, 32))
        if schedule.warps == 1:
            return Thread(lane, warp, 0, 0)
        high = schedule.rows // 16
        rows, part = builder.bind(tir.floor_mod(warp, high)), builder.bind(tir.floor_div(warp, high))
        return Thread(lane, rows, part, builder.bind(part * schedule.keys))

    def _softmax(self) -> OnlineSoftmax:
        scale: float = self.node.attrs["scale"]
        # Scores are compared before they are scaled where that is all that is done to them.
        is_scaled = bool(self.masks) or scale <= 0
        factor = (1.0 if is_scaled else scale) * _LOG2_E
        return OnlineSoftmax(self.builder, self.unit.scores, self.unit.sums, factor, is_scaled)

    def _copy_queries(self) -> None:
        def index(row: Expr) -> tuple[list[Expr], Expr]:
            head, query, inside = self.queries.position(row)
            return [self.queries.image, query, head], inside

        self.copies.rows(self.node.inputs[0], self.unit.layout.queries, 0, index)

    def _copy_keys(self, tile: Expr, stage: Expr) -> None:
        """Keys and values of a tile to the memory of a stage."""
        builder, keys, layout, queries = self.builder, self.extents.keys, self.unit.layout, self.queries
        base = builder.bind(stage * layout.stage_bytes)
        first = builder.bind(tile * self.schedule.tile_keys)

        def index(row: Expr) -> tuple[list[Expr], Expr]:
            key = builder.bind(first + row)
            if keys % self.schedule.tile_keys == 0:
                return [queries.image, key, queries.key_head], True
            return [queries.image, builder.bind(tir.minimum(key, keys - 1)), queries.key_head], key < keys

        self.copies.rows(self.node.inputs[1], layout.keys, base, index)
        self.copies.rows(self.node.inputs[2], layout.values, base, index)

    def _pass_keys(self, first: Expr, count: Expr) -> None:
        """All tiles of the keys through the stages."""
        builder, stages, unit = self.builder, self.schedule.stages, self.unit

        def copy(ahead: Expr) -> None:
            stage = ahead if isinstance(ahead, int) else builder.bind(tir.floor_mod(ahead, stages))
            builder.when(ahead < count, lambda: self._copy_keys(first + ahead, stage))
            builder.call("tc_copies_commit")

        for ahead in range(stages - 1):  # the queries come with the first
            copy(ahead)
        with builder.serial(count, name="tile") as step:
            builder.call(f"tc_copies_wait<{stages - 2}>")
            builder.sync()
            copy(builder.bind(step + (stages - 1)))

            def attend() -> None:
                builder.when(True if isinstance(step, int) else tir.compare("equal", step, 0), unit.hold_queries)
                base = builder.bind(tir.floor_mod(step, stages) * unit.layout.stage_bytes)
                scores = builder.registers("float32", unit.scores.size, "scores")
                with builder.unrolled(unit.scores.size) as i:
                    builder.store(scores, const(0, "float32"), i)
                unit.score(scores, base)
                self._soften(scores, builder.bind((first + step) * self.schedule.tile_keys + unit.thread.first_key))
                unit.weigh(scores, self.seen.weighed, base)

            # Warps without a query only copy.
            rows = self.extents.rows
            few = -rows % self.schedule.rows < 16
            builder.when(True if few else self.queries.first + unit.thread.warp * 16 < rows, attend)

    def _soften(self, scores: Buffer, first: Expr) -> None:
        """`first` is the tile's first key."""
        builder, fragment = self.builder, self.unit.scores
        whole = self.extents.keys % self.schedule.tile_keys == 0

        def score_at(row: int, block: Expr, neighbour: Expr, product: Expr) -> Expr:
            key = builder.bind(first + fragment.column(self.unit.thread.lane, block) + neighbour)
            score = builder.keep(self._masked(product, row, key)) if self.seen.is_scaled else product
            return score if whole else tir.select(key < self.extents.keys, score, const(-math.inf, "float32"))

        self.seen.soften(scores, score_at)

    def _masked(self, score: Expr, row: int, key: Expr) -> Expr:
        """Scaled, too."""
        builder, keys = self.builder, self.extents.keys
        head, query, _ = self.positions[row]
        score = score * const(self.node.attrs["scale"], "float32")
        for mask in self.masks:
            shape = static_shape(mask.shape)
            inside = key if keys % self.schedule.tile_keys == 0 else builder.bind(tir.minimum(key, keys - 1))
            index = [self.queries.image, head, query, inside][4 - len(shape) :]
            places = [0 if extent == 1 else place for extent, place in zip(shape, index, strict=True)]
            score = score + tir.cast(self.group.elements.evaluate(mask, places), "float32")
        return score

    def _join_warps(self, memory: Buffer) -> None:
        """What the warps of the same queries have found of their keys, through shared memory; each has all then."""
        builder, threads, seen = self.builder, 2 * self.schedule.rows, self.seen
        own = builder.bind(tir.floor_mod(builder.thread, threads))

        def place(part: Expr, quad: Expr) -> Expr:
            return builder.address(memory, ((part * seen.quads + quad) * threads + own) * 16)

        builder.sync()  # all have read the last tile
        seen.leave(lambda quad: place(self.unit.thread.part, quad))
        builder.sync()
        seen.join(self.schedule.warps, lambda to, part, quad: builder.call("tc_load<4>", to, place(part, quad)))

    def _join_blocks(self, tile: Expr, split: Expr, tiles: int, splits: int, results: Results) -> None:
        """Leave what was found of a part of the keys to the last block of the tile, which joins all parts."""
        builder, group, threads, seen = self.builder, self.group, self.builder.threads, self.seen
        quads = seen.quads
        scratch = group.scratch("float32", tiles * splits * quads * threads * 4)
        group.counters = tiles
        counters = builder.parameter("counters", "int32", tiles)

        def place(part: Expr, quad: Expr) -> Expr:
            return builder.address(scratch, (((tile * splits + part) * quads + quad) * threads + builder.thread) * 4)

        seen.leave(lambda quad: place(split, quad))
        is_last = builder.value("int32", "tc_is_last", builder.address(counters, tile), splits)

        def join() -> None:
            seen.join(splits, lambda to, part, quad: builder.call("tc_load_shared_cache", to, place(part, quad)))
            results.store(seen)

        builder.when(tir.compare("not_equal", is_last, const(0, "int32")), join)
