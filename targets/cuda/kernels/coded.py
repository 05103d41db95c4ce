"""Products by weights in few bits, `matmul_coded`: few rows in registers, many by tiles (`decoded`).

Of few rows what takes time is to read the codes, once. A warp takes a panel's 16 columns and 8 blocks along the sum:
each lane has 4 columns of a block, whose codes it decodes for all rows. A block's warps lie along the sum and beside
each other. What they multiply comes to shared memory once for all of them, a segment of the sum at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from targets.cuda.gpu import Gpu
from targets.cuda.kernels.codes import BLOCK, PANEL, Codes, Piece
from targets.cuda.kernels.decoded import DecodedWeights
from targets.cuda.kernels.gemm import Gemm
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.operands import Matrix, products_of
from targets.cuda.schedules import (
    CODED_PITCH,
    CODED_SHARED,
    CodedSchedule,
    Extents,
    GemmSchedule,
    coded_schedule,
    gemm_schedule,
    is_few,
)
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.indexing import Index, unravel
from tensorc.lowering.tir import Buffer, Expr, const
from tensorc.search.schedule import Schedule, checked

_WARP = 32
#: Columns of a lane, and lanes along the sum: together a panel and a warp.
_COLUMNS, _ALONG = 4, 8
#: What a thread moves to and from shared memory at once.
_QUAD = 4


def extents_of_coded(node: Node) -> Extents:
    """Of all rows together."""
    *lead, columns = static_shape(node.output.shape)
    return Extents(1, math.prod(lead), columns, static_shape(node.inputs[0].shape)[-1])


def coded_dtype(node: Node, gpu: Gpu) -> str:
    """The type of the numbers that are multiplied: that which the rows are in. Raises UnsupportedError."""
    dtype = products_of(node.inputs[0])
    if dtype not in ("float32", "float16", "bfloat16") or (dtype == "bfloat16" and not gpu.multiplies_bfloat16):
        raise UnsupportedError(f"no tile of {gpu.name} multiplies {dtype} by codes")
    return dtype


def lower_coded(body: Graph, node: Node, gpu: Gpu, given: Schedule | None = None) -> Kernel:
    """`x` [.., K] times weights in few bits."""
    x, codes = node.inputs[0], Codes(body, node)
    extents, dtype = extents_of_coded(node), coded_dtype(node, gpu)
    if isinstance(given, CodedSchedule) or (given is None and is_few(extents, dtype, gpu)):
        return _FewRows(body, codes, gpu, given or coded_schedule(extents, codes.width, gpu)).lower()
    schedule = checked(given, GemmSchedule) or gemm_schedule(extents, dtype, gpu, decodes=True)
    group = CudaGroup(body, gpu, schedule.threads, codes.packings)

    def index(_: Expr, row: Expr, last: Expr) -> Index:
        return [*unravel(row, codes.lead), last]

    operands = (
        Matrix(group, x, dtype, (True, True), extents.rows, extents.depth, index),
        DecodedWeights(group, codes, dtype, schedule.unit == "tensor"),
    )
    return Gemm(group, extents, schedule, operands, group.sums_of(node), index).lower()


class _FewRows:
    def __init__(self, body: Graph, codes: Codes, gpu: Gpu, schedule: CodedSchedule):
        if not schedule.fits(codes.rows, codes.width):
            raise ValueError(f"no {schedule} for {codes.rows} rows")
        self.codes, self.schedule = codes, schedule
        self.group = CudaGroup(body, gpu, schedule.threads, codes.packings)
        self.builder = self.group.builder
        self.rows = codes.rows
        self.sums = self.rows * _COLUMNS
        #: Blocks of the sum in a segment: those of whole turns of all warps.
        turn = _ALONG * schedule.warps * schedule.unroll
        most = CODED_SHARED // (self.rows * CODED_PITCH * 4)
        self.segment = min(codes.blocks, max(most // turn, 1) * turn)

    def lower(self) -> Kernel:
        builder, codes, schedule = self.builder, self.codes, self.schedule
        warp, lane = (builder.bind(part(builder.thread, _WARP)) for part in (tir.floor_div, tir.floor_mod))
        beside, along = (builder.bind(part(warp, schedule.panels)) for part in (tir.floor_mod, tir.floor_div))
        first = builder.bind(builder.block * schedule.panels)
        panel = first + beside
        if codes.panels % schedule.panels:  # the last one is read again, and nothing is stored
            panel = tir.minimum(panel, codes.panels - 1)
        self.panel = builder.bind(panel)
        self.column = builder.bind(tir.floor_mod(lane, _COLUMNS) * _COLUMNS)
        self.block = builder.bind(along * _ALONG + tir.floor_div(lane, _COLUMNS))
        self.x = builder.shared("float32", self.rows * self.segment * CODED_PITCH, "x")
        self.acc = builder.registers("float32", self.sums)
        with builder.unrolled(self.sums) as i:
            builder.store(self.acc, const(0.0, "float32"), i)
        self.pieces = [Piece(codes, self.group, _COLUMNS) for _ in range(schedule.unroll)]
        self.part = builder.registers("float32", self.sums, "part")
        self.quad = builder.registers("float32", self.rows * _QUAD, "x")
        self.levels = builder.registers("float32", _COLUMNS, "levels")
        self.totals = builder.registers("float32", self.rows, "totals") if codes.is_shifted else None

        whole = codes.depth // (BLOCK * self.segment)
        with builder.serial(whole, name="segment") as segment:
            if whole:
                self._segment(builder.bind(segment * self.segment), self.segment)
        if whole * self.segment < codes.blocks:
            self._segment(whole * self.segment, codes.blocks - whole * self.segment)
        self._finish(first, beside, along, lane)
        return self.group.launched(-(-codes.panels // schedule.panels), schedule)

    def _segment(self, begin: Expr, count: int) -> None:
        """`count` blocks of the sum. The first codes are on their way while what is multiplied comes."""
        builder, schedule = self.builder, self.schedule
        apart = _ALONG * schedule.warps
        turns, rest = divmod(count, apart * schedule.unroll)

        def load(turn: Expr) -> None:
            for number, piece in enumerate(self.pieces):
                block = (turn * schedule.unroll + number) * apart + self.block
                piece.load(self.panel, self.column, builder.bind(begin + block))

        def add_all(turn: Expr) -> None:
            for number, piece in enumerate(self.pieces):
                self._add(piece, builder.bind((turn * schedule.unroll + number) * apart + self.block))

        def rest_of(write: Callable[[Piece, Expr], None]) -> None:
            for number, piece in enumerate(self.pieces[: -(-rest // apart)]):
                block = builder.bind((turns * schedule.unroll + number) * apart + self.block)
                one = functools.partial(write, piece, block)
                if (number + 1) * apart <= rest:
                    one()
                else:
                    builder.when(block < count, one)

        def load_rest() -> None:
            rest_of(lambda piece, block: piece.load(self.panel, self.column, builder.bind(begin + block)))

        if turns:
            load(0)
        else:
            load_rest()
        if not (isinstance(begin, int) and begin == 0):
            builder.sync()  # all have read the segment before
        self._stage(begin, count)
        builder.sync()
        with builder.serial(turns, name="turn") as turn:
            if turns:
                add_all(turn)
            if turns > 1:
                builder.when(turn + 1 < turns, lambda: load(turn + 1))
        if turns:
            load_rest()
        rest_of(self._add)

    def _stage(self, begin: Expr, count: int) -> None:
        """What is multiplied, zeros behind the last, to shared memory."""
        builder, codes, elements = self.builder, self.codes, self.group.elements
        quads = BLOCK // _QUAD
        total, threads, depth = self.rows * count * quads, self.schedule.threads, codes.depth
        is_last = isinstance(begin, int) and (begin + count) * BLOCK > depth

        def move(index: Expr) -> None:
            row, quad = (builder.bind(i) for i in unravel(index, [self.rows, count * quads]))
            k = builder.bind(begin * BLOCK + quad * _QUAD)
            held = builder.registers("float32", _QUAD, "held")

            def fetch() -> None:
                with builder.vector(_QUAD) as v:
                    inner = k + v
                    if is_last and depth % _QUAD:
                        inner = builder.bind(tir.minimum(inner, depth - 1))
                    value = builder.keep(elements.evaluate(codes.x, [*unravel(row, codes.lead), inner]))
                    if is_last and depth % _QUAD:
                        value = tir.select(k + v < depth, value, const(0.0, "float32"))
                    builder.store(held, value, v)

            def clear() -> None:
                with builder.unrolled(_QUAD) as v:
                    builder.store(held, const(0.0, "float32"), v)

            if is_last:
                builder.when(k < depth, fetch, clear)
            else:
                fetch()
            block = row * self.segment + tir.floor_div(quad, quads)
            at = block * CODED_PITCH + tir.floor_mod(quad, quads) * _QUAD
            builder.call(f"tc_store<{_QUAD}>", builder.address(self.x, at), builder.address(held, 0))

        with builder.serial(-(-total // threads), name="move") as number:
            index = builder.bind(number * threads + builder.thread)
            if total % threads:
                builder.when(index < total, functools.partial(move, index))
            else:
                move(index)

    def _add(self, piece: Piece, block: Expr) -> None:
        """A block's products, `block` counted in the segment."""
        builder = self.builder
        piece.arrive()
        period, several = piece.period, max(piece.period, piece.span)
        with builder.unrolled(BLOCK // several) as number:
            for first in range(0, several, piece.span):
                self._clear()
                with builder.unrolled(max(piece.span // period, 1)) as inner:
                    for element in range(first % period, first % period + min(piece.span, period)):
                        self._multiply(piece, block, number * (several // period) + inner, element)
                self._settle(piece, number * (several // piece.span) + first // piece.span)

    def _multiply(self, piece: Piece, block: Expr, period: Expr, element: int) -> None:
        """An element of the columns by those of all rows."""
        builder, load, store = self.builder, self.builder.load, self.builder.store
        lane = element % _QUAD
        if not lane:
            with builder.unrolled(self.rows) as row:
                place = (row * self.segment + block) * CODED_PITCH + period * piece.period + element
                builder.call(f"tc_load<{_QUAD}>", builder.address(self.quad, row * _QUAD),
                             builder.address(self.x, place))  # fmt: skip
        with builder.unrolled(_COLUMNS) as column:
            store(self.levels, piece.level(period, element, column), column)
        with builder.unrolled(self.rows) as row:
            x = builder.keep(load(self.quad, row * _QUAD + lane))
            if self.totals is not None:
                store(self.totals, load(self.totals, row) + x, row)
            with builder.unrolled(_COLUMNS) as column:
                at = row * _COLUMNS + column
                store(self.part, load(self.part, at) + x * load(self.levels, column), at)

    def _clear(self) -> None:
        for buffer, size in ((self.part, self.sums), (self.totals, self.rows)):
            if buffer is not None:
                with self.builder.unrolled(size) as i:
                    self.builder.store(buffer, const(0.0, "float32"), i)

    def _settle(self, piece: Piece, span: Expr) -> None:
        """The sums of a span, times its scale."""
        builder, load = self.builder, self.builder.load
        with builder.unrolled(_COLUMNS) as column:
            scale = builder.keep(piece.scale(span, column))
            zero = None if self.totals is None else builder.keep(piece.zero(span, column))
            with builder.unrolled(self.rows) as row:
                at = row * _COLUMNS + column
                total = load(self.part, at)
                if self.totals is not None:
                    total = total - load(self.totals, row) * zero
                builder.store(self.acc, load(self.acc, at) + total * scale, at)

    def _finish(self, first: Expr, beside: Expr, along: Expr, lane: Expr) -> None:
        """What lanes and warps have summed up meets, and a thread takes each result."""
        builder, codes, schedule, group = self.builder, self.codes, self.schedule, self.group
        with builder.unrolled(self.sums) as i:
            for apart in (16, 8, 4):
                total = builder.keep(builder.load(self.acc, i))
                builder.store(self.acc, total + builder.value("float32", "tc_shuffle_xor", total, apart), i)
        wide = schedule.panels * PANEL
        results = self.rows * wide
        shared = builder.shared("float32", schedule.warps * results, "sums")

        def leave() -> None:
            with builder.unrolled(self.rows) as row:
                place = (along * self.rows + row) * wide + beside * PANEL + self.column
                builder.call(f"tc_store<{_COLUMNS}>", builder.address(shared, place),
                             builder.address(self.acc, row * _COLUMNS))  # fmt: skip

        builder.when(lane < _COLUMNS, leave)
        builder.sync()
        for number in range(-(-results // schedule.threads)):
            result = builder.bind(builder.thread + number * schedule.threads)
            column = builder.bind(first * PANEL + tir.floor_mod(result, wide))

            def finish(result: Expr = result, column: Expr = column) -> None:
                total: Buffer = builder.registers("float32", 1, "total")
                builder.store(total, const(0.0, "float32"), 0)
                with builder.unrolled(schedule.warps) as part:
                    builder.store(total, builder.load(total, 0) + builder.load(shared, part * results + result), 0)
                group.elements.define(codes.node.output, builder.load(total, 0))
                row = builder.bind(tir.floor_div(result, wide))
                group.store_outputs([*unravel(row, codes.lead), column])

            builder.when(tir.logical("and", result < results, column < codes.columns), finish)
