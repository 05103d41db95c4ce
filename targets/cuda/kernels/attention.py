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
from collections.abc import Callable
from dataclasses import dataclass

from passes.lower_precision import widens
from targets.cuda.flash import AttentionExtents, FlashSchedule, flash_fits, flash_schedule, padding
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.types import STORED, numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.gpu import BlockBuilder
from tensorc.lowering.indexing import ravel
from tensorc.lowering.tir import Buffer, Expr, const
from tensorc.search.schedule import Schedule, checked

_CHUNK_BYTES = 16
_LOG2_E = math.log2(math.e)
_INFINITY = float("inf")
#: What a loop over copies has at most, to be unrolled.
_MOST_UNROLLED = 16


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
    types = {_source(value).dtype for value in node.inputs[:3]}
    known = {"float16"} | ({"bfloat16"} if gpu.multiplies_bfloat16 else set())
    return types.pop() if len(types) == 1 and types <= known else "float32"


def _source(value: Value) -> Value:
    """What `value` is, moved and widened."""
    while value.producer is not None and (value.producer.op in ("slice", "transpose") or widens(value.producer)):
        value = value.producer.inputs[0]
    return value


@dataclass(frozen=True)
class _Strided:
    """Elements of a buffer: the first one's place, and how far the next along each axis is."""

    buffer: Buffer
    first: int
    strides: tuple[int, ...]

    def place(self, index: list[Expr]) -> Expr:
        total: Expr = self.first
        for i, stride in zip(index, self.strides, strict=True):
            total = total + i * stride
        return total

    def lies_in_chunks(self, elements: int) -> bool:
        """Whether neighbours along the last axis lie side by side from multiples of `elements` on."""
        return self.strides[-1] == 1 and all(n % elements == 0 for n in (self.first, *self.strides[:-1]))


def _strided(group: CudaGroup, value: Value) -> _Strided | None:
    """How `value` lies in memory, before it is widened; None for what does not, or is computed."""
    if value in group.buffers:
        shape = static_shape(value.shape)
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return _Strided(group.buffers[value], 0, strides)
    node = value.producer
    inner = _strided(group, node.inputs[0]) if node is not None and node.inputs else None
    if node is None or inner is None:
        return None
    if widens(node):
        return inner
    if node.op == "transpose":
        return _Strided(inner.buffer, inner.first, tuple(inner.strides[axis] for axis in node.attrs["perm"]))
    if node.op == "slice":
        starts, steps = node.attrs["starts"], node.attrs["steps"]
        first = inner.first + sum(start * stride for start, stride in zip(starts, inner.strides, strict=True))
        strides = tuple(step * stride for step, stride in zip(steps, inner.strides, strict=True))
        return _Strided(inner.buffer, first, strides)
    return None


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
class _Fragment:
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


class _Flash:
    """Writes one kernel."""

    def __init__(self, group: CudaGroup, node: Node, dtype: str, extents: AttentionExtents, schedule: FlashSchedule):
        self.group, self.builder, self.node = group, group.builder, node
        self.dtype, self.extents, self.schedule = dtype, extents, schedule
        self.tensor, self.is_half = extents.on_tensor_cores, extents.size == 2
        self.elements = extents.elements
        _, self.queries, self.heads, _ = static_shape(node.inputs[0].shape)
        self.key_heads = static_shape(node.inputs[1].shape)[2]
        self.masks = node.inputs[3:]
        rows, keys = schedule.rows, schedule.tile_keys
        tile = Tile.below if self.tensor else Tile.beside
        self.query_tile = tile(0, rows, extents.depth_chunks)
        self.key_tile = tile(self.query_tile.nbytes, keys, extents.depth_chunks)
        self.value_tile = tile(self.key_tile.first + self.key_tile.nbytes, keys, extents.value_chunks)
        self.stage_bytes = self.key_tile.nbytes + self.value_tile.nbytes
        self.weights_first = self.key_tile.first + schedule.stages * self.stage_bytes
        columns = self.elements * extents.value_chunks
        if self.tensor:
            self.scores, self.sums = _Fragment(4, 2, schedule.keys // 8), _Fragment(4, 2, columns // 8)
        else:
            self.scores, self.sums = _Fragment(8, 1, schedule.keys // 8), _Fragment(8, 4, columns // 32)
        # Scores are compared before they are scaled where that is all that is done to them.
        self.scales_late = not self.masks and node.attrs["scale"] > 0
        self.factor = (node.attrs["scale"] if self.scales_late else 1.0) * _LOG2_E

    # The kernel -------------------------------------------------------------------------------------------

    def lower(self) -> Kernel:
        builder, schedule, extents = self.builder, self.schedule, self.extents
        self.group.dynamic_bytes = schedule.shared_bytes(extents)
        self.memory = builder.dynamic_shared(self.group.dynamic_bytes)
        row_tiles, key_tiles = -(-extents.rows // schedule.rows), -(-extents.keys // schedule.tile_keys)
        each = -(-key_tiles // schedule.splits)
        splits = -(-key_tiles // each)
        split = builder.bind(tir.floor_mod(builder.block, splits)) if splits > 1 else 0
        tile = builder.bind(tir.floor_div(builder.block, splits)) if splits > 1 else builder.block
        row_tile = builder.bind(tir.floor_mod(tile, row_tiles)) if row_tiles > 1 else 0
        pair = builder.bind(tir.floor_div(tile, row_tiles)) if row_tiles > 1 else tile
        self.image = builder.bind(tir.floor_div(pair, self.key_heads)) if self.key_heads > 1 else pair
        self.key_head = builder.bind(tir.floor_mod(pair, self.key_heads)) if self.key_heads > 1 else 0
        self.first_row = builder.bind(row_tile * schedule.rows)
        self.lane = builder.bind(tir.floor_mod(builder.thread, 32))
        warp = builder.bind(tir.floor_div(builder.thread, 32))
        high = schedule.rows // 16
        #: Which rows of the tile are this warp's, and which part of each tile's keys.
        self.warp = builder.bind(tir.floor_mod(warp, high)) if schedule.warps > 1 else warp
        self.part = builder.bind(tir.floor_div(warp, high)) if schedule.warps > 1 else 0
        self.first_key = builder.bind(self.part * schedule.keys)
        first = builder.bind(split * each) if splits > 1 else 0
        count: Expr = each if key_tiles % each == 0 else builder.bind(tir.minimum(each, key_tiles - first))

        row = builder.bind(self.warp * 16 + tir.floor_div(self.lane, self.scores.lanes))
        #: Of this thread: places in the tile, which query of which head each is, and whether there is such a one.
        self.rows = [builder.bind(row + 32 // self.scores.lanes * i) for i in range(self.scores.rows)]
        self.positions = [self._position(builder.bind(self.first_row + row)) for row in self.rows]

        self._state()
        self._copy_queries()
        self._pass_keys(first, count)
        for i in range(self.sums.rows):
            total = builder.value("float32", f"tc_lanes_sum<{self.sums.lanes}>", builder.load(self.total, i))
            builder.store(self.total, total, i)
        if schedule.warps > 1:
            self._join_warps()
        if splits > 1:
            self._join(tile, split, extents.batch * row_tiles, splits)
        else:
            self._finish()
        return self.group.launched(extents.batch * row_tiles * splits, schedule)

    def _position(self, row: Expr) -> tuple[Expr, Expr, Expr]:
        """Head, query and whether there is one, of a row; of the last where there is not."""
        builder, rows = self.builder, self.extents.rows
        inside: Expr = True if rows % self.schedule.rows == 0 else row < rows
        row = row if isinstance(inside, bool) else builder.bind(tir.minimum(row, rows - 1))
        if rows == self.queries:
            return self.key_head, row, inside
        shared = rows // self.queries
        head = builder.bind(self.key_head * shared + tir.floor_div(row, self.queries))
        return head, builder.bind(tir.floor_mod(row, self.queries)) if self.queries > 1 else 0, inside

    def _state(self) -> None:
        """The largest scores, the sums and the weighted sums of what was seen of the keys: nothing yet."""
        builder = self.builder
        self.largest = builder.registers("float32", self.sums.rows, "largest")
        self.total = builder.registers("float32", self.sums.rows, "total")
        self.weighed = builder.registers("float32", self.sums.size, "weighed")
        with builder.unrolled(self.sums.rows) as i:
            builder.store(self.largest, const(-_INFINITY, "float32"), i)
            builder.store(self.total, const(0, "float32"), i)
        with builder.unrolled(self.sums.size) as i:
            builder.store(self.weighed, const(0, "float32"), i)

    # To shared memory -------------------------------------------------------------------------------------

    def _copy(self, value: Value, tile: Tile, base: Expr, index: Callable[[Expr], tuple[list[Expr], Expr]]) -> None:
        """The rows of an operand to `tile`, which is `base` bytes further on. `index` gives the first three places of
        a row's elements, inside the operand, and whether they are wanted; what is not is zero."""
        builder, elements = self.builder, self.elements
        depth = static_shape(value.shape)[3]
        lying = _strided(self.group, value)
        source = _source(value).dtype
        copies = lying is not None and source == self.dtype and depth % elements == 0
        copies = copies and lying is not None and lying.lies_in_chunks(elements)
        chunks, threads = tile.rows * tile.chunks, builder.threads
        steps = -(-chunks // threads)

        def move(number: Expr) -> None:
            row, chunk = (
                builder.bind(tir.floor_div(number, tile.chunks)),
                builder.bind(tir.floor_mod(number, tile.chunks)),
            )
            outer, valid = index(row)
            to = builder.address(self.memory, base + tile.place(row, chunk))
            if depth < tile.chunks * elements:
                valid = tir.logical("and", valid, chunk * elements < depth)
            if copies:
                assert lying is not None
                place = lying.place([*outer, chunk * elements])
                builder.call("tc_copy_async<16>", to, builder.address(lying.buffer, place), _int(valid))
                return
            held = builder.registers(self.dtype, elements, "chunk")
            with builder.vector(elements) as v:
                d = builder.bind(chunk * elements + v)
                inside = valid
                if depth % elements:
                    inside = tir.logical("and", inside, d < depth)
                at = d if depth == tile.chunks * elements else builder.bind(tir.minimum(d, depth - 1))
                element = self.group.elements.evaluate(value, [*outer, at])
                element = convert(builder.keep, element, value.dtype, self.dtype)
                if not isinstance(inside, bool):
                    zero = const(0, STORED.get(self.dtype, self.dtype))
                    element = tir.select(inside, builder.keep(element), zero)
                builder.store(held, element, v)
            builder.call(f"tc_store<{elements}>", to, builder.address(held, 0))

        with (builder.unrolled if copies and steps <= _MOST_UNROLLED else builder.serial)(steps) as step:
            number = builder.bind(step * threads + builder.thread)
            if chunks % threads:
                builder.when(number < chunks, lambda: move(number))
            else:
                move(number)

    def _copy_queries(self) -> None:
        def index(row: Expr) -> tuple[list[Expr], Expr]:
            head, query, inside = self._position(self.builder.bind(self.first_row + row))
            return [self.image, query, head], inside

        self._copy(self.node.inputs[0], self.query_tile, 0, index)

    def _copy_keys(self, tile: Expr, stage: Expr) -> None:
        """Keys and values of a tile to the memory of a stage."""
        builder, keys = self.builder, self.extents.keys
        base = builder.bind(stage * self.stage_bytes)
        first = builder.bind(tile * self.schedule.tile_keys)

        def index(row: Expr) -> tuple[list[Expr], Expr]:
            key = builder.bind(first + row)
            if keys % self.schedule.tile_keys == 0:
                return [self.image, key, self.key_head], True
            return [self.image, builder.bind(tir.minimum(key, keys - 1)), self.key_head], key < keys

        self._copy(self.node.inputs[1], self.key_tile, base, index)
        self._copy(self.node.inputs[2], self.value_tile, base, index)

    def _pass_keys(self, first: Expr, count: Expr) -> None:
        """All tiles of the keys through the stages."""
        builder, stages = self.builder, self.schedule.stages

        def copy(ahead: Expr) -> None:
            stage = ahead if isinstance(ahead, int) else builder.bind(tir.floor_mod(ahead, stages))
            _when(builder, ahead < count, lambda: self._copy_keys(first + ahead, stage))
            builder.call("tc_copies_commit")

        for ahead in range(stages - 1):  # the queries come with the first
            copy(ahead)
        self.held = builder.registers("uint32", 2 * self.extents.depth_chunks) if self.extents.holds_queries else None
        with builder.serial(count, name="tile") as step:
            builder.call(f"tc_copies_wait<{stages - 2}>")
            builder.sync()
            copy(builder.bind(step + (stages - 1)))

            def attend() -> None:
                if self.held is not None:
                    first_step = True if isinstance(step, int) else tir.compare("equal", step, 0)
                    _when(builder, first_step, self._hold_queries)
                base = builder.bind(tir.floor_mod(step, stages) * self.stage_bytes)
                scores = builder.registers("float32", self.scores.size, "scores")
                with builder.unrolled(self.scores.size) as i:
                    builder.store(scores, const(0, "float32"), i)
                (self._score_tensor if self.tensor else self._score)(scores, base)
                self._soften(scores, builder.bind((first + step) * self.schedule.tile_keys + self.first_key))
                weigh = self._weigh if not self.tensor else self._weigh_halves if self.is_half else self._weigh_tf32
                weigh(scores, base)

            # Warps without a query only copy.
            rows = self.extents.rows
            works = True if -rows % self.schedule.rows < 16 else self.first_row + self.warp * 16 < rows
            _when(builder, works, attend)

    # Products ---------------------------------------------------------------------------------------------

    def _address(self, place: Expr) -> Expr:
        return self.builder.address(self.memory, place)

    def _hold_queries(self) -> None:
        assert self.held is not None
        with self.builder.unrolled(self.extents.depth_chunks // 2) as step:
            self._load_queries(self.held, step * 4, step)

    def _load_queries(self, to: Buffer, at: Expr, step: Expr) -> None:
        """Rows of a warp as the left operand: matrices of 8 rows and a chunk, below each other, then beside."""
        row = self.warp * 16 + tir.floor_mod(self.lane, 16)
        place = self.query_tile.place(row, step * 2 + tir.floor_div(self.lane, 16))
        self.builder.call("tc_ldmatrix", self.builder.address(to, at), self._address(place))

    def _score_tensor(self, scores: Buffer, base: Expr) -> None:
        builder, lane = self.builder, self.lane
        multiply = f"tc_mma_{self.dtype}"
        # Matrices of 8 keys and a chunk, beside each other, then below.
        key = builder.bind(self.first_key + tir.floor_mod(lane, 8) + tir.floor_div(lane, 16) * 8)
        beside = builder.bind(tir.floor_mod(tir.floor_div(lane, 8), 2))
        place = builder.bind(base + self.key_tile.place(key, beside))
        found = builder.registers("uint32", 4, "found")
        left = builder.registers("uint32", 4, "left") if self.held is None else self.held
        with builder.unrolled(self.extents.depth_chunks // 2) as step:
            at = 0 if self.held is None else step * 4
            if self.held is None:
                self._load_queries(left, 0, step)
            with builder.unrolled(self.scores.blocks // 2) as j:
                more = step * (2 * self.key_tile.chunk_bytes) + j * (16 * self.key_tile.row_bytes)
                builder.call("tc_ldmatrix", builder.address(found, 0), self._address(place + more))
                for half in range(2):
                    to = builder.address(scores, (j * 2 + half) * 4)
                    builder.call(multiply, to, builder.address(left, at), builder.address(found, half * 2))

    def _weigh_halves(self, weights: Buffer, base: Expr) -> None:
        builder, lane = self.builder, self.lane
        multiply, kind = f"tc_mma_{self.dtype}", "half" if self.dtype == "float16" else "uint16_t"
        # Matrices of 8 keys and a chunk of the values, below each other, then beside; they are read transposed.
        key = builder.bind(self.first_key + tir.floor_mod(lane, 16))
        place = builder.bind(base + self.value_tile.place(key, tir.floor_div(lane, 16)))
        left = builder.registers("uint32", 4, "left")
        found = builder.registers("uint32", 4, "found")
        with builder.unrolled(self.scores.blocks // 2) as step:
            # Sums of products lie in registers as their left operand does.
            for number in range(4):
                low, high = (builder.load(weights, step * 8 + number * 2 + v) for v in range(2))
                builder.store(left, builder.value("uint32", f"tc_two<{kind}>", low, high), number)
            with builder.unrolled(self.sums.blocks // 2) as j:
                more = step * (16 * self.value_tile.row_bytes) + j * (2 * self.value_tile.chunk_bytes)
                builder.call("tc_ldmatrix_transposed", builder.address(found, 0), self._address(place + more))
                for half in range(2):
                    builder.call(multiply, builder.address(self.weighed, (j * 2 + half) * 4), builder.address(left, 0),
                                 builder.address(found, half * 2))  # fmt: skip

    def _weigh_tf32(self, weights: Buffer, base: Expr) -> None:
        """8 keys at a time. What of the left operand a lane holds of columns 0 to 3 is taken for that of the even keys,
        of columns 4 to 7 for that of the odd ones: so the lane has them, and values are read from where they fit."""
        builder, lane = self.builder, self.lane
        left = builder.registers("uint32", 4, "left")
        found = builder.registers("uint32", 2, "found")
        key = builder.bind(self.first_key + tir.floor_mod(lane, 4) * 2)
        column = builder.bind(tir.floor_div(lane, 4))
        place = self.value_tile.place(key, tir.floor_div(column, 4)) + tir.floor_mod(column, 4) * 4
        place = builder.bind(base + place)
        with builder.unrolled(self.scores.blocks) as step:
            for number, v in enumerate((0, 2, 1, 3)):
                builder.store(left, tir.reinterpret(builder.load(weights, step * 4 + v), "uint32"), number)
            with builder.unrolled(self.sums.blocks) as j:
                for odd in range(2):
                    more = (step * 8 + odd) * self.value_tile.row_bytes + j * (2 * self.value_tile.chunk_bytes)
                    builder.call("tc_load<1>", builder.address(found, odd), self._address(place + more))
                to = builder.address(self.weighed, j * 4)
                builder.call("tc_mma_float32", to, builder.address(left, 0), builder.address(found, 0))

    def _score(self, scores: Buffer, base: Expr) -> None:
        """By multiply-adds, four products of each score at a time."""
        builder, fragment = self.builder, self.scores
        key = builder.bind(self.first_key + tir.floor_mod(self.lane, 8))
        queries = builder.registers("float32", 4 * fragment.rows, "queries")
        keys = builder.registers("float32", 4 * fragment.blocks, "keys")
        with builder.serial(self.extents.depth_chunks, name="d") as chunk:
            for i, row in enumerate(self.rows):
                place = self._address(self.query_tile.place(row, chunk))
                builder.call("tc_load<4>", builder.address(queries, i * 4), place)
            with builder.unrolled(fragment.blocks) as j:
                place = self._address(base + self.key_tile.place(key + j * 8, chunk))
                builder.call("tc_load<4>", builder.address(keys, j * 4), place)
            with builder.unrolled(fragment.blocks) as j, builder.unrolled(fragment.rows) as i, builder.unrolled(4) as d:
                product = builder.load(queries, i * 4 + d) * builder.load(keys, j * 4 + d)
                at = fragment.at(j, i, 0)
                builder.store(scores, builder.load(scores, at) + product, at)

    def _weigh(self, weights: Buffer, base: Expr) -> None:
        """By multiply-adds, four keys at a time; the weights pass through memory to the warp's other lanes."""
        builder, fragment, keys = self.builder, self.sums, self.schedule.keys

        def place(row: Expr, key: Expr) -> Expr:
            row = row + self.part * self.schedule.rows
            return self._address(self.weights_first + (row * (keys + 4) + key) * 4)

        builder.call("tc_warp_sync")  # the lanes have read those of the last tile
        with builder.unrolled(self.scores.blocks) as j:
            for i, row in enumerate(self.rows):
                key = self.scores.column(self.lane, j)
                builder.call("tc_store<1>", place(row, key), builder.address(weights, self.scores.at(j, i, 0)))
        builder.call("tc_warp_sync")
        left = builder.registers("float32", 4 * fragment.rows, "left")
        values = builder.registers("float32", 4 * fragment.blocks, "values")
        column = builder.bind(tir.floor_mod(self.lane, 8))
        with builder.serial(keys // 4, name="key") as four:
            for i, row in enumerate(self.rows):
                builder.call("tc_load<4>", builder.address(left, i * 4), place(row, four * 4))
            with builder.unrolled(4) as n:
                with builder.unrolled(fragment.blocks) as j:
                    at = self._address(base + self.value_tile.place(self.first_key + four * 4 + n, column + j * 8))
                    builder.call("tc_load<4>", builder.address(values, j * 4), at)
                with (
                    builder.unrolled(fragment.blocks) as j,
                    builder.unrolled(fragment.rows) as i,
                    builder.unrolled(4) as v,
                ):
                    product = builder.load(left, i * 4 + n) * builder.load(values, j * 4 + v)
                    at = fragment.at(j, i, v)
                    builder.store(self.weighed, builder.load(self.weighed, at) + product, at)

    # Softmax ----------------------------------------------------------------------------------------------

    def _soften(self, scores: Buffer, first: Expr) -> None:
        """Scores to weights, exponentials under the largest score so far; what was weighed under another is put
        right. `first` is the tile's first key."""
        builder, fragment = self.builder, self.scores
        whole = self.extents.keys % self.schedule.tile_keys == 0
        for i, (head, query, _) in enumerate(self.positions):
            top = builder.registers("float32", 1, "top")
            builder.store(top, builder.load(self.largest, i), 0)
            with builder.unrolled(fragment.blocks) as j, builder.unrolled(fragment.width) as v:
                at = fragment.at(j, i, v)
                score = builder.load(scores, at)
                key = builder.bind(first + fragment.column(self.lane, j) + v)
                if not self.scales_late:
                    score = builder.keep(self._masked(score, head, query, key))
                if not whole:
                    score = tir.select(key < self.extents.keys, score, const(-_INFINITY, "float32"))
                builder.store(scores, score, at)
                builder.store(top, tir.maximum(builder.load(top, 0), builder.load(scores, at)), 0)
            largest = builder.value("float32", f"tc_lanes_max<{fragment.lanes}>", builder.load(top, 0))
            # Where all is masked by -inf so far, nothing is to be added, not nan.
            none = tir.compare("equal", largest, const(-_INFINITY, "float32"))
            under = builder.keep(tir.select(none, const(0, "float32"), largest))
            ratio = self._exponential(builder.load(self.largest, i), under)
            builder.store(self.largest, largest, i)
            builder.store(self.total, builder.load(self.total, i) * ratio, i)
            with builder.unrolled(fragment.blocks) as j, builder.unrolled(fragment.width) as v:
                at = fragment.at(j, i, v)
                builder.store(scores, self._exponential(builder.load(scores, at), under), at)
                builder.store(self.total, builder.load(self.total, i) + builder.load(scores, at), i)
            with builder.unrolled(self.sums.blocks) as j, builder.unrolled(self.sums.width) as v:
                at = self.sums.at(j, i, v)
                builder.store(self.weighed, builder.load(self.weighed, at) * ratio, at)

    def _exponential(self, score: Expr, under: Expr) -> Expr:
        """e^(score - under). Where scores have a mask their difference is taken first: the mask may be as large as
        float32 can be, and the difference is then exact."""
        factor = const(self.factor, "float32")
        exponent = score * factor - under * factor if self.scales_late else (score - under) * factor
        return self.builder.value("float32", "tc_exp2", exponent)

    def _masked(self, score: Expr, head: Expr, query: Expr, key: Expr) -> Expr:
        builder = self.builder
        score = score * const(self.node.attrs["scale"], "float32")
        for mask in self.masks:
            shape = static_shape(mask.shape)
            keys = self.extents.keys
            inside = key if keys % self.schedule.tile_keys == 0 else builder.bind(tir.minimum(key, keys - 1))
            index = [self.image, head, query, inside][4 - len(shape) :]
            places = [0 if extent == 1 else place for extent, place in zip(shape, index, strict=True)]
            score = score + tir.cast(self.group.elements.evaluate(mask, places), "float32")
        return score

    # Results ----------------------------------------------------------------------------------------------

    def _join(self, tile: Expr, split: Expr, tiles: int, splits: int) -> None:
        """Leave what was found of a part of the keys to the last block of the tile, which joins all parts."""
        builder, group, threads = self.builder, self.group, self.builder.threads
        rows, size = self.sums.rows, self.sums.size
        quads = size // 4 + rows // 2
        scratch = group.scratch("float32", tiles * splits * quads * threads * 4)
        group.counters = tiles
        counters = builder.parameter("counters", "int32", tiles)

        def place(part: Expr, quad: Expr) -> Expr:
            return builder.address(scratch, (((tile * splits + part) * quads + quad) * threads + builder.thread) * 4)

        self._leave(lambda quad: place(split, quad))
        is_last = builder.value("int32", "tc_is_last", builder.address(counters, tile), splits)

        def join() -> None:
            self._add_parts(splits, lambda to, part, quad: builder.call("tc_load_shared_cache", to, place(part, quad)))
            self._finish()

        builder.when(tir.compare("not_equal", is_last, const(0, "int32")), join)

    def _join_warps(self) -> None:
        """What the warps of the same queries have found of their keys, through shared memory; each has all then."""
        builder, threads = self.builder, 2 * self.schedule.rows
        quads = self.sums.size // 4 + self.sums.rows // 2
        own = builder.bind(tir.floor_mod(builder.thread, threads))

        def place(part: Expr, quad: Expr) -> Expr:
            return self._address(((part * quads + quad) * threads + own) * 16)

        builder.sync()  # all have read the last tile
        self._leave(lambda quad: place(self.part, quad))
        builder.sync()
        self._add_parts(self.schedule.warps, lambda to, part, quad: builder.call("tc_load<4>", to, place(part, quad)))

    def _leave(self, place: Callable[[Expr], Expr]) -> None:
        """What this thread has found, in quads: weighted sums, then the largest scores and the sums."""
        builder, rows, size = self.builder, self.sums.rows, self.sums.size
        found = builder.registers("float32", 2 * rows, "found")
        with builder.unrolled(rows) as i:
            builder.store(found, builder.load(self.largest, i), i)
            builder.store(found, builder.load(self.total, i), rows + i)
        with builder.unrolled(size // 4) as quad:
            builder.call("tc_store<4>", place(quad), builder.address(self.weighed, quad * 4))
        with builder.unrolled(rows // 2) as quad:
            builder.call("tc_store<4>", place(size // 4 + quad), builder.address(found, quad * 4))

    def _add_parts(self, parts: int, load: Callable[[Expr, Expr, Expr], None]) -> None:
        """All that was left of `parts` parts; `load` (to, part, quad) reads four numbers."""
        builder, rows, size = self.builder, self.sums.rows, self.sums.size
        found = builder.registers("float32", 2 * rows, "found")

        def read(part: Expr) -> None:
            with builder.unrolled(rows // 2) as quad:
                load(builder.address(found, quad * 4), part, size // 4 + quad)

        with builder.serial(parts, name="part") as part:
            read(part)
            with builder.unrolled(rows) as i:
                larger = tir.maximum(builder.load(self.largest, i), builder.load(found, i))
                builder.store(self.largest, larger, i)
        with builder.unrolled(rows) as i:
            builder.store(self.total, const(0, "float32"), i)
        with builder.unrolled(size) as i:
            builder.store(self.weighed, const(0, "float32"), i)
        quarter = builder.registers("float32", 4, "quarter")
        ratios = builder.registers("float32", rows, "ratios")
        with builder.serial(parts, name="part") as part:
            read(part)
            with builder.unrolled(rows) as i:
                top = builder.load(self.largest, i)
                none = tir.compare("equal", top, const(-_INFINITY, "float32"))
                under = builder.keep(tir.select(none, const(0, "float32"), top))
                builder.store(ratios, self._exponential(builder.load(found, i), under), i)
                total = builder.load(self.total, i) + builder.load(found, rows + i) * builder.load(ratios, i)
                builder.store(self.total, total, i)
            with builder.unrolled(size // 4) as quad:
                load(builder.address(quarter, 0), part, quad)
                with builder.unrolled(4) as v:
                    at = quad * 4 + v
                    row = tir.floor_mod(tir.floor_div(at, self.sums.width), rows)
                    more = builder.load(quarter, v) * builder.load(ratios, row)
                    builder.store(self.weighed, builder.load(self.weighed, at) + more, at)

    def _finish(self) -> None:
        """The group's results."""
        builder, fragment = self.builder, self.sums
        shares = builder.registers("float32", fragment.rows, "shares")
        with builder.unrolled(fragment.rows) as i:
            builder.store(shares, const(1, "float32") / builder.load(self.total, i), i)
        if self._leaves_in_chunks():
            self._store_chunks(shares)
            return
        values = self.extents.values
        width = math.gcd(fragment.width, values)
        for i, (head, query, inside) in enumerate(self.positions):
            with builder.unrolled(fragment.blocks) as j, builder.unrolled(fragment.width // width) as piece:
                column = builder.bind(fragment.column(self.lane, j) + piece * width)
                at = fragment.at(j, i, piece * width)
                wanted = tir.logical("and", inside, self._stores())
                if values < self.elements * self.extents.value_chunks:
                    wanted = tir.logical("and", wanted, column < values)

                def write(
                    i: int = i, at: Expr = at, index: tuple[Expr, ...] = (self.image, query, head, column)
                ) -> None:
                    self._store_elements(at, width, builder.load(shares, i), index)

                _when(builder, wanted, write)

    def _stores(self) -> Expr:
        """Whether this warp is the one of those with its queries that stores them."""
        return True if self.schedule.warps == 1 else tir.compare("equal", self.part, const(0, "int32"))

    def _store_elements(self, at: Expr, width: int, share: Expr, index: tuple[Expr, ...]) -> None:
        builder, group = self.builder, self.group
        results = [
            builder.registers("int8" if value.dtype == "bool" else value.dtype, width, "result")
            for value in group.body.outputs
        ]
        with builder.vector(width) as v:
            element = builder.load(self.weighed, at + v) * share
            group.elements.define(self.node.output, tir.cast(builder.keep(element), self.node.output.dtype))
            for value, result in zip(group.body.outputs, results, strict=True):
                element = group.elements.evaluate(value, [*index[:3], index[3] + v])
                builder.store(result, tir.cast(element, "int8") if value.dtype == "bool" else element, v)
        for value, buffer, result in zip(group.body.outputs, group.outputs, results, strict=True):
            place = builder.address(buffer, ravel(index, static_shape(value.shape)))
            builder.call(f"tc_store<{width}>", place, builder.address(result, 0))

    def _leaves_in_chunks(self) -> bool:
        """Whether the results are what attention gives, in the type of its operands."""
        (output, *others) = self.group.body.outputs
        if not self.is_half or others or output.dtype != self.dtype or self.extents.values % self.elements:
            return False
        made = output.producer
        return output is self.node.output or (
            made is not None and made.op == "cast" and made.inputs[0] is self.node.output
        )

    def _store_chunks(self, shares: Buffer) -> None:
        """Through shared memory, so that threads beside each other write what lies beside each other."""
        builder, fragment = self.builder, self.sums
        kind = "half" if self.dtype == "float16" else "uint16_t"
        tile = Tile.below(0, self.schedule.rows, self.extents.value_chunks)
        builder.sync()  # all have read the last tile
        words = builder.registers("uint32", 1, "words")
        for i, row in enumerate(self.rows):
            with builder.unrolled(fragment.blocks) as j:
                low, high = (
                    builder.load(self.weighed, fragment.at(j, i, v)) * builder.load(shares, i) for v in range(2)
                )
                builder.store(words, builder.value("uint32", f"tc_two<{kind}>", low, high), 0)
                to = self._address(tile.place(row, j) + tir.floor_mod(self.lane, 4) * 4)

                def write_words(to: Expr = to) -> None:
                    builder.call("tc_store<1>", to, builder.address(words, 0))

                _when(builder, self._stores(), write_words)
        builder.sync()
        chunks, threads = self.extents.values // self.elements, builder.threads
        total = tile.rows * chunks
        held = builder.registers("uint32", 4, "chunk")
        shape = static_shape(self.node.output.shape)

        def write(number: Expr) -> None:
            row, chunk = builder.bind(tir.floor_div(number, chunks)), builder.bind(tir.floor_mod(number, chunks))
            head, query, inside = self._position(builder.bind(self.first_row + row))

            def one() -> None:
                builder.call("tc_load<4>", builder.address(held, 0), self._address(tile.place(row, chunk)))
                place = ravel([self.image, query, head, chunk * self.elements], shape)
                to = builder.address(self.group.outputs[0], place)
                builder.call("tc_store<4>", to, builder.address(held, 0))

            _when(builder, inside, one)

        with builder.serial(-(-total // threads)) as step:
            number = builder.bind(step * threads + builder.thread)
            _when(builder, True if total % threads == 0 else number < total, lambda: write(number))


def _int(condition: Expr) -> Expr:
    return int(condition) if isinstance(condition, bool) else tir.cast(condition, "int32")


def _when(builder: BlockBuilder, condition: Expr, yes: Callable[[], None]) -> None:
    if isinstance(condition, bool):
        if condition:
            yes()
        return
    builder.when(condition, yes)
