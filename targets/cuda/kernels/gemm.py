"""The tile engine of matrix products and convolutions: C[x, y] = sum over k of A[x, k] B[y, k], and a group's elements.

A block computes a tile of C. Steps of the reduction pass through `stages` buffers of shared memory, filled by copies
that go on by themselves while earlier steps are multiplied. Both operands lie there as chunks of 16 bytes,
[outer][inner + padding][chunk]: of chunks along k, outer counts along k and inner rows; of chunks along x, outer
counts along x and inner along k. What a warp reads at once are neighbours along inner, or lie an odd number of chunks
apart: no two lanes meet in a bank. Warps have parts of the tile, on tensor cores or on units for multiply-adds.

Where tiles are too few for all multiprocessors the reduction is split: each block leaves its sums in scratch memory,
and the last one to come adds them, in one order always, and goes on with the group's elements. Where they fill no whole
waves, those beyond the last whole one lie in a line, step by step, of which each block of one more wave has an equal
run (stream-K): the end of one tile, the beginning of the next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from targets.cpu.kernels.group import LONG
from targets.cuda.kernels.decoded import DecodedStage, DecodedWeights
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.operands import CHUNK_BYTES, Operand
from targets.cuda.kernels.stages import Stage
from targets.cuda.kernels.units import MultiplyAdds, Slot, TensorCores, Unit
from targets.cuda.schedules import Extents, GemmSchedule, Stream, gemm_fits, gemm_resident, stream_of
from tensorc.ir import OPS, Kind, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import Index, Source, ravel
from tensorc.lowering.tir import Buffer, Expr, const

#: Tiles of so many rows are taken column by column, so that blocks that run together share both operands.
_ROWS_TOGETHER = 8
_WARP = 32
_LOADED = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Part:
    """What a block sums of a tile: `steps` steps from `begin` on. Of a tile that others have parts of, if `is_shared`,
    `place` gives its counter, the number of this part among all that are left in scratch memory, that of the tile's
    first one, which the others follow, and how many the tile has."""

    tile: Expr
    begin: Expr
    steps: Expr
    is_shared: Expr = False
    place: Callable[[], tuple[Expr, Expr, Expr, Expr]] | None = None


class Gemm:
    """Writes one kernel. `index(batch, row, column)` is a result's index in `result`, `first` what sums begin with."""

    def __init__(self, group: CudaGroup, extents: Extents, schedule: GemmSchedule, operands: tuple[Operand, Operand],
                 result: tuple[Value, Source], index: Callable[[Expr, Expr, Expr], Index]):  # fmt: skip
        self.group = group
        self.builder = group.builder
        self.extents = extents
        self.schedule = schedule
        self.result, self.first = result
        self.index = index
        self.beside = self._read_beside()
        dtype = operands[0].dtype
        if not gemm_fits(schedule, dtype, group.gpu):
            raise ValueError(f"no tile for {dtype} on {group.gpu.name}: {schedule}")
        self.dtype = "int32" if dtype == "uint8" else "float32"
        self.stream = stream_of(schedule, extents, dtype, group.gpu)
        if schedule.split_k == 0 and self.stream is None:
            raise ValueError(f"no tiles to share on {group.gpu.name}: {schedule}")
        self.steps = -(-extents.depth // schedule.depth)
        self.steps_each = -(-self.steps // max(schedule.split_k, 1))
        self.splits = -(-self.steps // self.steps_each)
        self.high, self.wide = -(-extents.rows // schedule.rows), -(-extents.columns // schedule.columns)
        self.a, self.b = self._stages(*operands)

    def _stages(self, a: Operand, b: Operand) -> tuple[Stage, Stage]:
        rows, columns = self.schedule.rows, self.schedule.columns
        first = Stage(a, self.schedule, rows)
        if isinstance(b, DecodedWeights):
            return first, DecodedStage(b, self.schedule, columns)
        return first, Stage(b, self.schedule, columns, self.schedule.unit == "fma" and b.along_k)

    def lower(self) -> Kernel:
        builder, schedule = self.builder, self.schedule
        tiles = self.extents.batch * self.high * self.wide
        stage_bytes = self.a.bytes + self.b.bytes
        warp, lane = (builder.bind(part(builder.thread, _WARP)) for part in (tir.floor_div, tir.floor_mod))
        where = tir.floor_div(warp, schedule.warp_columns), tir.floor_mod(warp, schedule.warp_columns)
        dtype = self.a.operand.dtype
        unit: Unit = (
            MultiplyAdds(self.group, schedule, where, lane) if schedule.unit == "fma"
            else TensorCores(self.group, schedule, where, lane, dtype, self._has_narrow_rows())
        )  # fmt: skip
        self.group.dynamic_bytes = schedule.stages * stage_bytes
        memory = builder.dynamic_shared(self.group.dynamic_bytes)
        self.a.place_in(memory, 0, stage_bytes)
        self.b.place_in(memory, self.a.bytes, stage_bytes)
        self.a.operand.begin()
        self.b.operand.begin()

        if self.stream is not None:
            blocks = self.stream.whole + self.stream.blocks
            self._share(unit, memory, self.stream)
        elif self.splits > 1:
            blocks = tiles * self.splits
            self._split(unit, memory, tiles)
        else:
            blocks = tiles
            self._compute(unit, memory, Part(builder.block, 0, self.steps))
        # What is decoded waits in registers that the schedule does not know of.
        resident = 0 if isinstance(self.b, DecodedStage) else gemm_resident(schedule, dtype, self.group.gpu)
        return self.group.launched(blocks, schedule, resident)

    def _split(self, unit: Unit, memory: Buffer, tiles: int) -> None:
        """Each block has an equal part of one tile, the last one perhaps less."""
        builder = self.builder
        tile = builder.bind(tir.floor_mod(builder.block, tiles))
        split = builder.bind(tir.floor_div(builder.block, tiles))
        self._leave_room(unit, tiles, tiles * self.splits)
        begin = builder.bind(split * self.steps_each)
        steps: Expr = self.steps_each
        if self.steps % steps:
            steps = builder.bind(tir.minimum(self.steps - begin, steps))

        def place() -> tuple[Expr, Expr, Expr, Expr]:
            return tile, tile * self.splits + split, tile * self.splits, self.splits

        self._compute(unit, memory, Part(tile, begin, steps, True, place))

    def _share(self, unit: Unit, memory: Buffer, stream: Stream) -> None:
        """The first blocks have a tile each, the others equal runs of the line of all steps of all other tiles. Along
        it the next part is of the next tile or of the next block: the sum of their numbers says which part it is."""
        builder, steps = self.builder, self.steps
        each, more = divmod(stream.tiles * steps, stream.blocks)
        longer = more * (each + 1)  # the first `more` runs have a step more
        self._leave_room(unit, stream.tiles, stream.tiles + stream.blocks)

        def hidden(value: Expr) -> Expr:
            """TVM's bounds of what is computed from the block's number go beyond int32."""
            return builder.bind(builder.keep(value))

        rank = hidden(builder.block - stream.whole)
        begin = stream.whole * steps + rank * each + tir.minimum(rank, more)
        length = tir.select(rank < more, const(each + 1, "int32"), const(each, "int32"))
        if stream.whole:
            begin = tir.select(rank < 0, builder.block * steps, begin)
            length = tir.select(rank < 0, const(steps, "int32"), length)
        begin = hidden(begin)
        end = builder.bind(begin + length)
        first = builder.bind(tir.floor_div(begin, steps))
        last = stream.whole + stream.tiles - 1

        def block_at(step: Expr) -> Expr:
            """Who has a step of the line."""
            behind = more + tir.floor_div(tir.maximum(step - longer, 0), each)
            return tir.select(step < longer, tir.floor_div(step, each + 1), behind)

        with builder.serial(tir.floor_div(end - 1, steps) - first + 1, name="tile") as number:
            builder.sync()  # all have done with the memory of the tile before
            tile = builder.bind(tir.minimum(tir.maximum(first + number, 0), last))  # as it is, with known bounds
            begin_here = builder.bind(tir.maximum(begin - tile * steps, 0))
            steps_here = builder.bind(tir.minimum(end - tile * steps, steps) - begin_here)

            def place(tile: Expr = tile) -> tuple[Expr, Expr, Expr, Expr]:
                shared = builder.bind(tile - stream.whole)
                before, behind = (builder.bind(block_at((shared + i) * steps - i)) for i in (0, 1))
                return shared, rank + shared, before + shared, behind - before + 1

            self._compute(unit, memory, Part(tile, begin_here, steps_here, steps_here < steps, place))

    def _compute(self, unit: Unit, memory: Buffer, part: Part) -> None:
        """Sum a part of a tile up; the last part's block stores all."""
        builder, schedule = self.builder, self.schedule
        batch, row_tile, column_tile = self._place_of(part.tile, self.high, self.wide)
        acc = builder.registers(self.dtype, unit.sums)
        with builder.unrolled(unit.sums) as i:
            builder.store(acc, const(0, self.dtype), i)
        self.a.begin_copies(batch, row_tile)
        self.b.begin_copies(batch, column_tile)
        self._reduce(unit, acc, part.begin, part.steps)
        first_row, first_column = builder.bind(row_tile * schedule.rows), builder.bind(column_tile * schedule.columns)
        has_all = True if part.place is None else self._join(unit, acc, part.is_shared, part.place)
        builder.when(has_all, lambda: self._store(unit, acc, memory, (batch, first_row, first_column)))

    def _place_of(self, tile: Expr, high: int, wide: int) -> tuple[Expr, Expr, Expr]:
        """Batch, and the tile's row and column: a few rows of tiles together, column by column."""
        builder = self.builder
        batch = builder.bind(tir.floor_div(tile, high * wide)) if self.extents.batch > 1 else 0
        rest = builder.bind(tir.floor_mod(tile, high * wide)) if self.extents.batch > 1 else tile
        if high == 1 or wide == 1:
            return (batch, 0, rest) if high == 1 else (batch, rest, 0)
        several = min(_ROWS_TOGETHER, high)
        strip, inner = (builder.bind(f(rest, several * wide)) for f in (tir.floor_div, tir.floor_mod))
        if high % several == 0:
            here: Expr = several
        else:
            here = builder.bind(tir.minimum(high - strip * several, several))
        return (batch, builder.bind(strip * several + tir.floor_mod(inner, here)),
                builder.bind(tir.floor_div(inner, here)))  # fmt: skip

    def _reduce(self, unit: Unit, acc: Buffer, begin: Expr, steps: Expr) -> None:
        """So many steps from one on, the copies of some later ones always under way."""
        builder, stages = self.builder, self.schedule.stages

        def copy(step: Expr, stage: Expr) -> None:
            self.a.fetch(begin + step, stage)
            self.b.fetch(begin + step, stage)

        def put(stage: Expr) -> None:
            self.a.put(stage)
            self.b.put(stage)

        def both(step: int) -> None:
            copy(step, step)
            put(step)

        for ahead in range(stages - 1):
            builder.when(ahead < steps, functools.partial(both, ahead))
            builder.call("tc_copies_commit")
        with builder.serial(steps, name="step") as step:
            builder.call(f"tc_copies_wait<{stages - 2}>")
            builder.sync()
            ahead_of = builder.bind(step + (stages - 1))
            coming = builder.bind(tir.floor_mod(ahead_of, stages))
            more = ahead_of < steps
            builder.when(more, lambda: copy(ahead_of, coming))
            builder.call("tc_copies_commit")
            unit.multiply(acc, self.a, self.b, builder.bind(tir.floor_mod(step, stages)))
            if self.a.waiting or self.b.waiting:
                builder.when(more, lambda: put(coming))

    def _leave_room(self, unit: Unit, tiles: int, parts: int) -> None:
        """Scratch memory for the sums of so many parts of so many tiles."""
        self.scratch = self.group.scratch(self.dtype, parts * self.schedule.threads * unit.sums)
        self.group.counters = tiles
        self.counters = self.builder.parameter("counters", "int32", tiles)

    def _join(self, unit: Unit, acc: Buffer, is_shared: Expr,
              place: Callable[[], tuple[Expr, Expr, Expr, Expr]]) -> Expr:  # fmt: skip
        """Leave the sums of a part to the last block of a tile, which adds all in the order of the reduction. Whether
        this block has all."""
        builder, threads = self.builder, self.schedule.threads
        has_all = builder.registers("int32", 1, "has_all")
        builder.store(has_all, const(1, "int32"), 0)

        def at(part: Expr, quad: Expr) -> Expr:
            return builder.address(self.scratch, ((part * (unit.sums // 4) + quad) * threads + builder.thread) * 4)

        def leave() -> None:
            counter, mine, first, count = place()
            with builder.unrolled(unit.sums // 4) as quad:
                builder.call("tc_store<4>", at(mine, quad), builder.address(acc, quad * 4))
            is_last = builder.value("int32", "tc_is_last", builder.address(self.counters, counter), count)
            builder.store(has_all, is_last, 0)
            add = f"tc_add_parts<{unit.sums}, {threads}>"
            builder.when(tir.compare("not_equal", is_last, 0),
                         lambda: builder.call(add, builder.address(acc, 0), at(first, 0), count))  # fmt: skip

        builder.when(is_shared, leave)
        return tir.compare("not_equal", builder.load(has_all, 0), 0)

    def _store(self, unit: Unit, acc: Buffer, memory: Buffer, tile: tuple[Expr, Expr, Expr]) -> None:
        """The group's elements, from a thread's sums. Where that is long code it is written once for many: the sums are
        laid down in shared memory, each thread's its own, and what follows is a loop."""
        builder, threads = self.builder, self.schedule.workers
        if not any(node.op in LONG for node in self.group.body.nodes):
            for slot in unit.slots(builder.unrolled, 0, unit.high):
                self._slot(unit, *unit.sums_of(acc, slot.first), slot, tile)
            return
        self._meet()  # all have read the last step
        each = unit.sums // unit.high
        count = unit.high
        while threads * count * each * 4 > self.group.dynamic_bytes:
            count //= 2
        piece = min(unit.width, 4)
        for begin in range(0, unit.high, count):

            def held(first: Expr, begin: int = begin) -> Expr:
                return builder.address(memory, ((first - begin * each) * threads + builder.thread * piece) * 4)

            with builder.unrolled(count * each // unit.width) as number:
                first = begin * each + number * unit.width
                sums, place = unit.sums_of(acc, first)
                for at in range(0, unit.width, piece):
                    builder.call(f"tc_store<{piece}>", held(first + at), builder.address(sums, place + at))
            for slot in unit.slots(builder.serial, begin, count):
                sums = builder.registers(self.dtype, unit.width, "sums")
                for at in range(0, unit.width, piece):
                    builder.call(f"tc_load<{piece}>", builder.address(sums, at), held(slot.first + at))
                self._slot(unit, sums, 0, slot, tile)

    def _meet(self) -> None:
        """All that have sums wait for each other."""
        self.builder.sync()

    def _slot(self, unit: Unit, sums: Buffer, first: Expr, slot: Slot, tile: tuple[Expr, Expr, Expr]) -> None:
        """What of a slot lies in the result."""
        builder, extents = self.builder, self.extents
        batch, row, column = tile
        x, y = builder.bind(row + slot.row), builder.bind(column + slot.column)
        inside: Expr = True if extents.rows % self.schedule.rows == 0 else x < extents.rows
        whole = extents.columns % self.schedule.columns == 0
        # Rows of an odd number of columns do not begin where neighbours can be stored at once.
        width = unit.width if extents.columns % unit.width == 0 else 1
        for offset in range(0, unit.width, width):
            here = inside if whole else tir.logical("and", inside, y + offset < extents.columns)
            index = functools.partial(self._index_of, batch, x, y + offset)
            builder.when(here, functools.partial(self._elements, sums, first + offset, width, index))

    def _index_of(self, batch: Expr, row: Expr, column: Expr, neighbour: Expr) -> Index:
        return self.index(batch, row, column + neighbour)

    def _elements(self, sums: Buffer, first: Expr, width: int, index: Callable[[Expr], Index]) -> None:
        """`width` neighbours of every output."""
        builder, group = self.builder, self.group
        results = [
            builder.registers("int8" if value.dtype == "bool" else value.dtype, width, "result")
            for value in group.body.outputs
        ]
        sources = dict(group.elements.sources)
        together = {value: self._loaded(value, width, index(0)) for value in self.beside if width > 1}
        with builder.vector(width) as v:
            at = [i if isinstance(i, int) else builder.bind(i) for i in index(v)]
            for value, loaded in together.items():
                group.elements.define(value, builder.load(loaded, v))
            total = builder.load(sums, first + v)
            if self.dtype == "int32":
                total = total + self.first(at)
            group.elements.define(self.result, tir.cast(total, self.result.dtype))
            for value, result in zip(group.body.outputs, results, strict=True):
                element = group.elements.evaluate(value, at)
                builder.store(result, tir.cast(element, "int8") if value.dtype == "bool" else element, v)
        group.elements.sources = sources
        for value, buffer, result in zip(group.body.outputs, group.outputs, results, strict=True):
            place = ravel(index(0), static_shape(value.shape))
            for number, count in _moves(width, value):
                target = builder.address(buffer, place + number)
                builder.call(f"tc_store<{count}>", target, builder.address(result, number))

    def _loaded(self, value: Value, width: int, index: Index) -> Buffer:
        """An input's `width` neighbours at a result's index, in registers."""
        builder, shape = self.builder, static_shape(value.shape)
        tail = index[len(index) - len(shape) :]
        place = ravel([0 if extent == 1 else i for i, extent in zip(tail, shape, strict=True)], shape)
        loaded = builder.registers(value.dtype, width, "beside")
        for at, count in _moves(width, value):
            source = builder.address(self.group.buffers[value], place + at)
            builder.call(f"tc_load<{count}>", builder.address(loaded, at), source)
        return loaded

    def _has_narrow_rows(self) -> bool:
        """Whether of a row of the result, or of what is beside it, a fragment's part is less than a sector of memory,
        and the next fragment's part is next to it."""
        narrow = any(_bytes_of(value) < 4 for value in (*self.group.body.outputs, *self.beside))
        return narrow and self.extents.columns % 8 == 0 and static_shape(self.result.shape)[-1] > 8

    def _read_beside(self) -> list[Value]:
        """Inputs of which the group's elements want those beside a result's, whose neighbours are loaded at once."""
        last = self.result.shape[-1]
        return [
            value for value in self.group.body.inputs
            if value.dtype in _LOADED and value.shape and value.shape[-1] == last and value.users
            and all(OPS[user.op].kind is Kind.ELEMENTWISE and user.output.shape == self.result.shape
                    for user in value.users)
        ]  # fmt: skip


def _bytes_of(value: Value) -> int:
    return int(numpy_dtype(value.dtype).itemsize)


def _moves(width: int, value: Value) -> Iterator[tuple[int, int]]:
    """(first, how many) of `width` neighbours that a thread moves at once."""
    count = min(width, CHUNK_BYTES // _bytes_of(value))
    return ((at, count) for at in range(0, width, count))
