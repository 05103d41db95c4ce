"""What multiplies a warp's queries by keys, and weights by values: tensor cores, or units for multiply-adds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from targets.cuda.flash import AttentionExtents, FlashSchedule
from targets.cuda.kernels.attention.tiles import Fragment, Layout
from tensorc.lowering import tir
from tensorc.lowering.gpu import BlockBuilder
from tensorc.lowering.tir import Buffer, Expr


@dataclass(frozen=True)
class Thread:
    """Its lane; which 16 rows of the tile its warp has, and which part of each tile's keys: the part's number and its
    first key."""

    lane: Expr
    warp: Expr
    part: Expr
    first_key: Expr


class Unit(ABC):
    """A warp's part of the products."""

    #: What a thread has of the scores, and of the weighted sums.
    scores: Fragment
    sums: Fragment

    def __init__(self, builder: BlockBuilder, memory: Buffer, extents: AttentionExtents, schedule: FlashSchedule,
                 thread: Thread):  # fmt: skip
        self.builder = builder
        self.memory = memory
        self.extents = extents
        self.schedule = schedule
        self.layout = Layout(extents, schedule)
        self.thread = thread
        row = builder.bind(thread.warp * 16 + tir.floor_div(thread.lane, self.scores.lanes))
        #: Of this thread, in the tile.
        self.rows = [builder.bind(row + 32 // self.scores.lanes * i) for i in range(self.scores.rows)]

    @abstractmethod
    def hold_queries(self) -> None:
        """Once the queries are in shared memory."""

    @abstractmethod
    def score(self, scores: Buffer, base: Expr) -> None:
        """Add the products of queries and keys; the tile's stage begins at byte `base`."""

    @abstractmethod
    def weigh(self, weights: Buffer, weighed: Buffer, base: Expr) -> None:
        """Add the values, weighed."""

    def _address(self, place: Expr) -> Expr:
        return self.builder.address(self.memory, place)


class TensorCores(Unit):
    """Of 16 bits, or of float32 rounded to tf32. Queries of few elements stay in registers."""

    def __init__(self, builder: BlockBuilder, memory: Buffer, extents: AttentionExtents, schedule: FlashSchedule,
                 thread: Thread, dtype: str):  # fmt: skip
        self.scores = Fragment(4, 2, schedule.keys // 8)
        self.sums = Fragment(4, 2, extents.elements * extents.value_chunks // 8)
        super().__init__(builder, memory, extents, schedule, thread)
        self.dtype = dtype
        self.held = builder.registers("uint32", 2 * extents.depth_chunks) if extents.holds_queries else None

    def hold_queries(self) -> None:
        if self.held is not None:
            with self.builder.unrolled(self.extents.depth_chunks // 2) as step:
                self._load_queries(self.held, step * 4, step)

    def _load_queries(self, to: Buffer, at: Expr, step: Expr) -> None:
        """Rows of a warp as the left operand: matrices of 8 rows and a chunk, below each other, then beside."""
        row = self.thread.warp * 16 + tir.floor_mod(self.thread.lane, 16)
        place = self.layout.queries.place(row, step * 2 + tir.floor_div(self.thread.lane, 16))
        self.builder.call("tc_ldmatrix", self.builder.address(to, at), self._address(place))

    def score(self, scores: Buffer, base: Expr) -> None:
        builder, lane = self.builder, self.thread.lane
        multiply = f"tc_mma_{self.dtype}"
        # Matrices of 8 keys and a chunk, beside each other, then below.
        key = builder.bind(self.thread.first_key + tir.floor_mod(lane, 8) + tir.floor_div(lane, 16) * 8)
        beside = builder.bind(tir.floor_mod(tir.floor_div(lane, 8), 2))
        place = builder.bind(base + self.layout.keys.place(key, beside))
        found = builder.registers("uint32", 4, "found")
        left = builder.registers("uint32", 4, "left") if self.held is None else self.held
        with builder.unrolled(self.extents.depth_chunks // 2) as step:
            at = 0 if self.held is None else step * 4
            if self.held is None:
                self._load_queries(left, 0, step)
            with builder.unrolled(self.scores.blocks // 2) as j:
                more = step * (2 * self.layout.keys.chunk_bytes) + j * (16 * self.layout.keys.row_bytes)
                builder.call("tc_ldmatrix", builder.address(found, 0), self._address(place + more))
                for half in range(2):
                    to = builder.address(scores, (j * 2 + half) * 4)
                    builder.call(multiply, to, builder.address(left, at), builder.address(found, half * 2))

    def weigh(self, weights: Buffer, weighed: Buffer, base: Expr) -> None:
        (self._weigh_halves if self.extents.size == 2 else self._weigh_tf32)(weights, weighed, base)

    def _weigh_halves(self, weights: Buffer, weighed: Buffer, base: Expr) -> None:
        builder, lane = self.builder, self.thread.lane
        multiply, kind = f"tc_mma_{self.dtype}", "half" if self.dtype == "float16" else "uint16_t"
        # Matrices of 8 keys and a chunk of the values, below each other, then beside; they are read transposed.
        key = builder.bind(self.thread.first_key + tir.floor_mod(lane, 16))
        place = builder.bind(base + self.layout.values.place(key, tir.floor_div(lane, 16)))
        left = builder.registers("uint32", 4, "left")
        found = builder.registers("uint32", 4, "found")
        with builder.unrolled(self.scores.blocks // 2) as step:
            # Sums of products lie in registers as their left operand does.
            for number in range(4):
                low, high = (builder.load(weights, step * 8 + number * 2 + v) for v in range(2))
                builder.store(left, builder.value("uint32", f"tc_two<{kind}>", low, high), number)
            with builder.unrolled(self.sums.blocks // 2) as j:
                more = step * (16 * self.layout.values.row_bytes) + j * (2 * self.layout.values.chunk_bytes)
                builder.call("tc_ldmatrix_transposed", builder.address(found, 0), self._address(place + more))
                for half in range(2):
                    builder.call(multiply, builder.address(weighed, (j * 2 + half) * 4), builder.address(left, 0),
                                 builder.address(found, half * 2))  # fmt: skip

    def _weigh_tf32(self, weights: Buffer, weighed: Buffer, base: Expr) -> None:
        """8 keys at a time. What of the left operand a lane holds of columns 0 to 3 is taken for that of the even keys,
        of columns 4 to 7 for that of the odd ones: so the lane has them, and values are read from where they fit."""
        builder, lane = self.builder, self.thread.lane
        left = builder.registers("uint32", 4, "left")
        found = builder.registers("uint32", 2, "found")
        key = builder.bind(self.thread.first_key + tir.floor_mod(lane, 4) * 2)
        column = builder.bind(tir.floor_div(lane, 4))
        place = self.layout.values.place(key, tir.floor_div(column, 4)) + tir.floor_mod(column, 4) * 4
        place = builder.bind(base + place)
        with builder.unrolled(self.scores.blocks) as step:
            for number, v in enumerate((0, 2, 1, 3)):
                builder.store(left, tir.reinterpret(builder.load(weights, step * 4 + v), "uint32"), number)
            with builder.unrolled(self.sums.blocks) as j:
                for odd in range(2):
                    more = (step * 8 + odd) * self.layout.values.row_bytes + j * (2 * self.layout.values.chunk_bytes)
                    builder.call("tc_load<1>", builder.address(found, odd), self._address(place + more))
                to = builder.address(weighed, j * 4)
                builder.call("tc_mma_float32", to, builder.address(left, 0), builder.address(found, 0))


class MultiplyAdds(Unit):
    """Of float32: four products of each score, and four keys' values, at a time."""

    def __init__(self, builder: BlockBuilder, memory: Buffer, extents: AttentionExtents, schedule: FlashSchedule,
                 thread: Thread):  # fmt: skip
        self.scores = Fragment(8, 1, schedule.keys // 8)
        self.sums = Fragment(8, 4, extents.elements * extents.value_chunks // 32)
        super().__init__(builder, memory, extents, schedule, thread)

    def hold_queries(self) -> None:
        """They stay where they are."""

    def score(self, scores: Buffer, base: Expr) -> None:
        builder, fragment = self.builder, self.scores
        key = builder.bind(self.thread.first_key + tir.floor_mod(self.thread.lane, 8))
        queries = builder.registers("float32", 4 * fragment.rows, "queries")
        keys = builder.registers("float32", 4 * fragment.blocks, "keys")
        with builder.serial(self.extents.depth_chunks, name="d") as chunk:
            for i, row in enumerate(self.rows):
                place = self._address(self.layout.queries.place(row, chunk))
                builder.call("tc_load<4>", builder.address(queries, i * 4), place)
            with builder.unrolled(fragment.blocks) as j:
                place = self._address(base + self.layout.keys.place(key + j * 8, chunk))
                builder.call("tc_load<4>", builder.address(keys, j * 4), place)
            with builder.unrolled(fragment.blocks) as j, builder.unrolled(fragment.rows) as i, builder.unrolled(4) as d:
                product = builder.load(queries, i * 4 + d) * builder.load(keys, j * 4 + d)
                at = fragment.at(j, i, 0)
                builder.store(scores, builder.load(scores, at) + product, at)

    def weigh(self, weights: Buffer, weighed: Buffer, base: Expr) -> None:
        """The weights pass through memory to the warp's other lanes."""
        builder, fragment, keys = self.builder, self.sums, self.schedule.keys

        def place(row: Expr, key: Expr) -> Expr:
            row = row + self.thread.part * self.schedule.rows
            return self._address(self.layout.weights_first + (row * (keys + 4) + key) * 4)

        builder.call("tc_warp_sync")  # the lanes have read those of the last tile
        with builder.unrolled(self.scores.blocks) as j:
            for i, row in enumerate(self.rows):
                key = self.scores.column(self.thread.lane, j)
                builder.call("tc_store<1>", place(row, key), builder.address(weights, self.scores.at(j, i, 0)))
        builder.call("tc_warp_sync")
        left = builder.registers("float32", 4 * fragment.rows, "left")
        values = builder.registers("float32", 4 * fragment.blocks, "values")
        column = builder.bind(tir.floor_mod(self.thread.lane, 8))
        with builder.serial(keys // 4, name="key") as four:
            for i, row in enumerate(self.rows):
                builder.call("tc_load<4>", builder.address(left, i * 4), place(row, four * 4))
            with builder.unrolled(4) as n:
                with builder.unrolled(fragment.blocks) as j:
                    at = self._address(
                        base + self.layout.values.place(self.thread.first_key + four * 4 + n, column + j * 8)
                    )
                    builder.call("tc_load<4>", builder.address(values, j * 4), at)
                with (
                    builder.unrolled(fragment.blocks) as j,
                    builder.unrolled(fragment.rows) as i,
                    builder.unrolled(4) as v,
                ):
                    product = builder.load(left, i * 4 + n) * builder.load(values, j * 4 + v)
                    at = fragment.at(j, i, v)
                    builder.store(weighed, builder.load(weighed, at) + product, at)
