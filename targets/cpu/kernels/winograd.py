"""Convolutions of 3x3 filters by Winograd's minimal filtering: fewer multiplications, paid for in rounding.

An output tile of m x m is A^T [(G g G^T) * (B^T d B)] A for the filter g and the patch d of the input, m + 2 on a
side. The product in the middle is taken element by element and summed over the input channels: for each of the
(m + 2)^2 elements, here called points, it is a matrix product of image tiles by channels. They take 9 m^2 / (m + 2)^2
times fewer multiplications than the direct way: 2.25 for m = 2, 4 for m = 4. Source: Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks" (2015), whose matrices these are.

The price is the largest error relative to the largest result, measured against float64 (normal inputs and weights,
three seeds each, 64 channels of 56x56, 128 of 28x28, 256 of 14x14, 512 of 7x7, AVX-512): 7e-6 to 1.4e-5 for m = 4 and
4e-7 to 1.1e-6 for m = 2, whose factors are powers of two and whose sums are a ninth as long as those of the direct
kernel, which is off by 1e-6 to 3e-6.

A task transforms the patches of a strip of image tiles into scratch memory, then for each strip of output channels
multiplies, and transforms the results back on their way to the epilogue. Tasks that follow each other in one call and
share a strip of image tiles transform it once. Patches are read column by column, so that of padding nothing is read
and nothing is asked for each element: the rows in the image are known when the kernel is written, for the few kinds of
borders that there are, and the columns are the bounds of a loop.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cost_models.analytic import Tile, blocked_cycles
from targets.cpu.kernels.group import GroupKernel, Kernel
from targets.cpu.kernels.products import Products, together
from targets.cpu.machine import Machine
from targets.cpu.schedules import WinogradSchedule
from targets.packing import Packing
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Expr, const

_INPUT = {  # B^T
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
    ],
}  # fmt: skip
_FILTER = {  # G
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
    ],
}  # fmt: skip
_OUTPUT = {  # A^T
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}  # fmt: skip

#: Steps of the products' reduction that are unrolled.
_UNROLL = 4
#: More tasks than this transform the input more often than they help threads to end together.
_TASKS_A_CORE = 4
_CACHE_LINE = 64


def is_winograd(node: Node, machine: Machine) -> bool:
    """Whether a `conv_blocked` is one that these kernels compute. They have no pairs of bfloat16 to multiply."""
    x, w = node.inputs
    return (
        len(x.shape) == 5
        and not node.attrs["depthwise"]
        and node.attrs["groups"] == 1
        and static_shape(w.shape)[2:4] == (3, 3)
        and tuple(node.attrs["strides"]) == tuple(node.attrs["dilations"]) == (1, 1)
        and {x.dtype, node.output.dtype} == {"float32"}
        and w.dtype in ("float32", "bfloat16", "float16")
        and together(x, w, machine) == 1
    )


def pack_winograd(shape: tuple[int, ...], tile: int, vectors: int) -> Packing:
    """Filters [blocks, I, 3, 3, block] as G g G^T in the order [strips, points, I, vectors * block], computed in
    float64; the last strip is filled up with zeros."""
    blocks, inputs, _, _, block = shape
    strips, points = -(-blocks // vectors), (tile + 2) ** 2
    result = (strips, points, inputs, vectors * block)

    def apply(data: np.ndarray) -> np.ndarray:
        g = np.array(_FILTER[tile])
        turned = np.einsum("ak,oiklc,bl->oabic", g, data.astype(np.float64), g, optimize=True).astype(data.dtype)
        turned = np.pad(turned, [(0, -blocks % vectors)] + [(0, 0)] * 4)
        turned = turned.reshape(strips, vectors, points, inputs, block)
        return np.ascontiguousarray(turned.transpose(0, 2, 3, 1, 4)).reshape(result)

    return Packing(f"winograd {tile} in strips of {vectors}", result, apply)


def winograd_knobs(node: Node, machine: Machine) -> dict[str, tuple[int, ...]]:
    """Choices worth trying for each knob of a `WinogradSchedule`; not all go together, see `winograd_legal`.

    `rows` has for each tile and each number of vectors what the analytic model thinks best.
    """
    blocks, depth, _, _, _ = static_shape(node.inputs[1].shape)
    vectors = tuple(v for v in (1, 2, 3, 4) if v <= blocks and (v != 3 or blocks % 3 == 0))
    rows = set()
    for tile, v in itertools.product(_INPUT, vectors):
        tiles = _tiles(node, tile)
        most = min(tiles, (machine.vector_registers - v - 1) // v)
        rows.add(min(range(1, most + 1), key=lambda r: (blocked_cycles(Tile(r, v), (tiles,), v, depth), r)))
    return {
        "tile": tuple(_INPUT),
        "rows": tuple(sorted(rows)),
        "vectors": vectors,
        "strip": (1, 2, 4, 8, 16),
        "shares": tuple(s for s in (1, 2, 4, 8, 16) if s <= blocks),
    }


def winograd_legal(node: Node, machine: Machine, knobs: Mapping[str, int]) -> bool:
    """Whether knobs go together: the register tile fits, no knob is larger than it has use for, and there are no more
    tasks than keep all cores busy. Scratch memory of twice the second-level cache still pays where the weights come
    from beyond it as well, and then are read less often; not more."""
    tile, rows, vectors, strip, shares = (knobs[name] for name in ("tile", "rows", "vectors", "strip", "shares"))
    blocks, depth, _, _, lanes = static_shape(node.inputs[1].shape)
    tiles, points, width = _tiles(node, tile), (tile + 2) ** 2, vectors * lanes
    strips, channel_strips = -(-tiles // (strip * rows)), -(-blocks // vectors)
    scratch = 4 * points * min(strip * rows, tiles) * (depth + width)
    return (
        rows * vectors + vectors + 1 <= machine.vector_registers
        and rows <= tiles
        and (strip == 1 or (strip // 2 * rows < tiles and scratch <= 2 * machine.l2))
        and shares <= channel_strips
        and (shares == 1 or strips * shares <= _TASKS_A_CORE * machine.cores)
    )


def _tiles(node: Node, tile: int) -> int:
    batch, _, height, width, _ = static_shape(node.output.shape)
    return batch * -(-height // tile) * -(-width // tile)


def lower_winograd(body: Graph, node: Node, machine: Machine, schedule: WinogradSchedule) -> Kernel:
    """The kernel of a `conv_blocked` that `is_winograd`. Raises ValueError for others, and for knobs out of range."""
    if not is_winograd(node, machine):
        raise ValueError(f"{schedule} is for 3x3 filters of one group, undilated and of stride 1, on blocked float32")
    if schedule.tile not in _INPUT or min(schedule.rows, schedule.vectors, schedule.strip, schedule.shares) < 1:
        raise ValueError(f"{schedule} has a knob out of range: tiles are {' or '.join(map(str, _INPUT))}")
    if node.inputs[1] not in body.inputs:
        raise UnsupportedError("the filter of a convolution must be an input of its group")
    return _Winograd(body, node, machine, schedule).lower()


@dataclass(frozen=True)
class _Span:
    """The rows of tiles before `end`, those of earlier spans excepted, have the rows `inside` of their patches in the
    image; the others lie in the padding."""

    end: int
    inside: tuple[int, int]


def _spans(tiles: int, step: int, before: int, extent: int) -> list[_Span]:
    """The spans of `tiles` rows of tiles, `step` apart, over an image of `extent` with padding `before` it."""
    spans: list[_Span] = []
    for tile in range(tiles):
        top = tile * step - before
        low, high = max(0, -top), min(step + 2, extent - top)
        inside = (low, high) if low < high else (0, 0)
        if spans and spans[-1].inside == inside:
            spans.pop()
        spans.append(_Span(tile + 1, inside))
    return spans


class _Winograd:
    def __init__(self, body: Graph, node: Node, machine: Machine, schedule: WinogradSchedule):
        self.node = node
        self.schedule = schedule
        self.step = schedule.tile  #: the side of an output tile
        self.side = self.step + 2  #: of a patch
        self.points = self.side**2
        self.batch, self.in_blocks, self.in_h, self.in_w, lanes = static_shape(node.inputs[0].shape)
        self.lanes: int = lanes
        _, self.out_blocks, self.out_h, self.out_w, _ = static_shape(node.output.shape)
        self.top, self.left = node.attrs["pads"][:2]
        self.depth = self.in_blocks * lanes
        self.down, self.across = -(-self.out_h // self.step), -(-self.out_w // self.step)
        self.tiles = _tiles(node, self.step)
        self.strip = min(schedule.strip * schedule.rows, self.tiles)
        self.vectors = min(schedule.vectors, self.out_blocks)
        self.width = self.vectors * lanes
        self.channel_strips = -(-self.out_blocks // self.vectors)
        #: Vectors of the last strip of output channels.
        self.last_vectors = self.out_blocks - (self.channel_strips - 1) * self.vectors
        self.shares = min(schedule.shares, self.channel_strips)

        weight = node.inputs[1]
        packing = pack_winograd(static_shape(weight.shape), self.step, self.vectors)
        self.group = GroupKernel(body, machine, {weight: packing})
        self.builder = self.group.builder
        self.weight = self.group.buffers[weight]
        # Scratch memory: a tile half transformed (the stack is not aligned to vectors), then inputs, then products. A
        # point's are an odd number of vectors: a power of two would bring all points into one set of a cache.
        self.input_size = (self.in_blocks * self.strip | 1) * lanes
        self.product_size = (self.strip * self.vectors | 1) * lanes
        self.inputs = self.points * lanes
        self.products = self.inputs + self.points * self.input_size
        scratch = self.products + self.points * self.product_size
        # Weights in 16 bits are widened a point's panel at a time, if there are tiles enough to share that.
        self.weights = Products(self.group, machine, node.inputs[0], weight, "float32")
        held = self.depth * self.width if self.weights.widens(-(-self.strip // schedule.rows)) else 0
        self.scratch = self.group.scratch("float32", scratch + held)
        if held:
            self.weights.hold_in(self.scratch, scratch)

    def lower(self) -> Kernel:
        builder = self.builder
        strips = -(-self.tiles // self.strip)
        with builder.tasks() as task:
            strip, share = unravel(task, [strips, self.shares])
            first = builder.bind(strip * self.strip)
            count = builder.bind(tir.minimum(self.tiles - first, self.strip)) if self.tiles % self.strip else self.strip
            if self.shares == 1:
                self._transform_inputs(first, count)
            else:  # the task before in this call has left them behind
                fresh = tir.logical("or", tir.compare("equal", share, 0), tir.compare("equal", task, builder.begin))
                builder.when(fresh, lambda: self._transform_inputs(first, count))
            begin = builder.bind(tir.floor_div(share * self.channel_strips, self.shares))
            end = builder.bind(tir.floor_div((share + 1) * self.channel_strips, self.shares))
            with builder.serial(end - begin, name="strip") as number:
                # Not the loop's own range: TVM 0.27's analysis fails on conditions on a variable of such a range.
                channels = builder.bind(begin + number)
                self._multiply(channels, count)
                self._transform_outputs(channels, first, count)
        return self.group.finish(strips * self.shares, self.schedule)

    def _place(self, tile: Expr) -> tuple[Expr, Expr, Expr]:
        """The image, the row of tiles and the column of tiles that a tile lies in."""
        index = unravel(tile, [self.batch, self.down, self.across])
        image, down, across = (self.builder.bind(i) for i in index)
        return image, down, across

    def _half(self, row: Expr, column: Expr, lane: Expr) -> Expr:
        """Where a half transformed tile's vector lies in scratch memory: columns are written, rows are read."""
        return (column * self.side + row) * self.lanes + lane

    def _half_row(self, row: Expr, lane: Expr) -> list[Expr]:
        load, keep = self.builder.load, self.builder.keep
        return [keep(load(self.scratch, self._half(row, column, lane))) for column in range(self.side)]

    # Input ----------------------------------------------------------------------------------------------

    def _transform_inputs(self, first: Expr, count: Expr) -> None:
        """B^T d B of `count` tiles, to [point, block, tile, lane] in scratch memory."""
        builder, lanes, side = self.builder, self.lanes, self.side
        spans = _spans(self.down, self.step, self.top, self.in_h)
        with builder.serial(self.in_blocks, name="cb") as block, builder.serial(count, name="tile") as tile:
            image, down, across = self._place(first + tile)
            top = builder.bind(down * self.step - self.top)
            left = builder.bind(across * self.step - self.left)
            low = builder.bind(tir.minimum(tir.maximum(0 - left, 0), side))
            high = builder.bind(tir.maximum(tir.minimum(self.in_w - left, side), low))

            def columns(rows: tuple[int, int]) -> None:
                """B^T d for the columns in the image, of which `rows` are."""
                with builder.serial(high - low, low, name="column") as column, builder.vector(lanes) as lane:
                    values: list[Expr] = [None] * side
                    for row in range(*rows):
                        index = [image, block, top + row, left + column, lane]
                        values[row] = builder.keep(self.group.elements.evaluate(self.node.inputs[0], index))
                    for row, value in enumerate(self._input_transform(values)):
                        self._put(value, self._half(row, column, lane))

            def choose(remaining: Sequence[_Span]) -> None:
                span, *rest = remaining
                if rest:
                    builder.when(down < span.end, lambda: columns(span.inside), lambda: choose(rest))
                else:
                    columns(span.inside)

            choose(spans)
            for begin, extent in ((0, low), (high, side - high)):
                with (
                    builder.serial(extent, begin, name="column") as column,
                    builder.unrolled(side) as row,
                    builder.vector(lanes) as lane,
                ):
                    self._put(None, self._half(row, column, lane))
            with builder.serial(side, name="row") as row, builder.vector(lanes) as lane:
                for column, value in enumerate(self._input_transform(self._half_row(row, lane))):
                    point = row * side + column
                    at = self.inputs + point * self.input_size + (block * self.strip + tile) * lanes + lane
                    self._put(value, at)

    def _put(self, value: Expr, at: Expr) -> None:
        self.builder.store(self.scratch, const(0, "float32") if value is None else value, at)

    def _input_transform(self, d: Sequence[Expr]) -> list[Expr]:
        """B^T d; None is zero. Rows come in pairs that differ in the sign of the odd elements."""
        keep = self.builder.keep
        rows = _INPUT[self.step]
        result = [_sum(rows[0], d)]
        for row in rows[1:-1:2]:
            halves = [_sum(row[i::2], d[i::2]) for i in (0, 1)]
            even, odd = (None if half is None else keep(half) for half in halves)
            result += [_sum([1, 1], [even, odd]), _sum([1, -1], [even, odd])]
        return [*result, _sum(rows[-1], d)]

    # Products -------------------------------------------------------------------------------------------

    def _multiply(self, channels: Expr, count: Expr) -> None:
        """The products of all points with a strip of output channels, to [point, tile, vector, lane]."""
        builder, rows = self.builder, self.schedule.rows
        whole = builder.bind(tir.floor_div(count, rows))
        rests = {strip % rows for strip in (self.strip, self.tiles % self.strip or self.strip)}

        def write(vectors: int) -> None:
            with builder.serial(self.points, name="point") as point:
                if self.weights.held is not None:
                    panel = self.depth * self.width
                    self.weights.widen((channels * self.points + point) * panel, panel, self.lanes)
                if self.strip >= rows:
                    with builder.serial(whole, name="t") as tile:
                        self._product(channels, point, tile, rows, vectors)
                for rest in sorted(rests - {0}):
                    if len(rests) == 1:
                        self._product(channels, point, whole, rest, vectors)
                    else:
                        builder.when(
                            tir.compare("equal", count - whole * rows, rest),
                            lambda rest=rest: self._product(channels, point, whole, rest, vectors),  # type: ignore[misc]
                        )

        if self.last_vectors == self.vectors:
            write(self.vectors)
        else:
            builder.when(
                channels < self.channel_strips - 1, lambda: write(self.vectors), lambda: write(self.last_vectors)
            )

    def _product(self, channels: Expr, point: Expr, number: Expr, rows: int, vectors: int) -> None:
        """Register tile `number`: `rows` image tiles by the first `vectors` vectors of the strip."""
        builder, lanes, panel = self.builder, self.lanes, self.depth * self.width
        acc = builder.registers("float32", rows * vectors * lanes)
        with builder.unrolled(rows * vectors) as i, builder.vector(lanes) as lane:
            builder.store(acc, const(0, "float32"), i * lanes + lane)
        first = number * self.schedule.rows
        base = builder.bind((channels * self.points + point) * panel)
        unroll = math.gcd(_UNROLL, lanes)
        # Each register tile of a point prefetches its share of the next point's panel. That costs nothing where all
        # weights fit the second-level cache, and there too they are seldom in it when a layer begins.
        sharers = -(-self.strip // self.schedule.rows)
        size = numpy_dtype(self.node.inputs[1].dtype).itemsize
        lines = -(-unroll * self.width * size // _CACHE_LINE // sharers)
        with (
            builder.serial(self.in_blocks, name="cb") as block,
            builder.serial(lanes // unroll, name="c") as outer,
        ):
            for line in range(lines):
                step = number * (self.depth // unroll) + block * (lanes // unroll) + outer
                builder.prefetch(self.weight, base + panel + (step * lines + line) * (_CACHE_LINE // size))
            with builder.unrolled(unroll) as inner, builder.unrolled(rows) as i:
                channel = outer * unroll + inner
                source = self.inputs + point * self.input_size + (block * self.strip + first + i) * lanes + channel
                scalar = builder.keep(builder.load(self.scratch, source))
                row = (base if self.weights.held is None else 0) + (block * lanes + channel) * self.width
                with builder.unrolled(vectors) as j:
                    at = functools.partial(self._lane_of, i * vectors + j)
                    self.weights.add(acc, at, scalar, row + j * lanes, lanes)
        with builder.unrolled(rows) as i, builder.unrolled(vectors) as j, builder.vector(lanes) as lane:
            value = builder.load(acc, (i * vectors + j) * lanes + lane)
            builder.store(self.scratch, value, self._product_at(point, first + i, j) + lane)

    def _lane_of(self, vector: Expr, lane: Expr) -> Expr:
        return vector * self.lanes + lane

    def _product_at(self, point: Expr, tile: Expr, vector: Expr) -> Expr:
        return self.products + point * self.product_size + (tile * self.vectors + vector) * self.lanes

    # Output ---------------------------------------------------------------------------------------------

    def _transform_outputs(self, channels: Expr, first: Expr, count: Expr) -> None:
        """A^T m A of `count` tiles of a strip of output channels, through the epilogue."""
        builder, lanes, side = self.builder, self.lanes, self.side
        vectors: Expr = self.vectors
        if self.last_vectors < self.vectors:
            vectors = builder.bind(tir.minimum(self.out_blocks - channels * self.vectors, self.vectors))
        with builder.serial(count, name="tile") as tile:
            image, down, across = self._place(first + tile)
            top, left = builder.bind(down * self.step), builder.bind(across * self.step)
            rows = self.step if self.out_h % self.step == 0 else builder.bind(tir.minimum(self.out_h - top, self.step))
            with builder.serial(vectors, name="j") as j:
                with builder.serial(side, name="column") as column, builder.vector(lanes) as lane:
                    values = []
                    for row in range(side):
                        at = self._product_at(row * side + column, tile, j) + lane
                        values.append(builder.keep(builder.load(self.scratch, at)))
                    for row, value in enumerate(self._output_transform(values)):
                        self._put(value, self._half(row, column, lane))
                block = channels * self.vectors + j
                rest = self.out_w % self.step
                with builder.serial(rows, name="row") as row:

                    def write(columns: int) -> None:
                        self._write_row(row, columns, [image, block, top, left])

                    if not rest or self.across == 1:
                        write(rest or self.step)
                    else:
                        builder.when(across < self.across - 1, lambda: write(self.step), lambda: write(rest))

    def _write_row(self, row: Expr, columns: int, origin: Sequence[Expr]) -> None:
        """The first `columns` results in a row of the tile whose first one is at `origin`, through the epilogue."""
        builder, lanes = self.builder, self.lanes
        image, block, top, left = origin
        acc = builder.registers("float32", columns * lanes)
        with builder.vector(lanes) as lane:
            for column, value in enumerate(self._output_transform(self._half_row(row, lane))[:columns]):
                builder.store(acc, value, column * lanes + lane)
        results, loop = self.group.epilogue(acc, columns, lanes)
        with loop(columns) as column, builder.vector(lanes) as lane:
            self.group.elements.define(self.node.output, builder.load(results, column * lanes + lane))
            self.group.store_outputs([image, block, top + row, left + column, lane])

    def _output_transform(self, m: Sequence[Expr]) -> list[Expr]:
        """A^T m. Columns come in pairs that differ in the sign of the odd rows."""
        keep = self.builder.keep
        pairs = [(keep(a + b), keep(a - b)) for a, b in zip(m[1:-1:2], m[2:-1:2], strict=True)]
        return [
            _sum([row[0], *row[1:-1:2], row[-1]], [m[0], *(pair[number % 2] for pair in pairs), m[-1]])
            for number, row in enumerate(_OUTPUT[self.step])
        ]


def _sum(factors: Sequence[float], values: Sequence[Expr]) -> Expr:
    """The sum of factors * values; None is zero."""
    total: Expr = None
    terms = [(f, v) for f, v in zip(factors, values, strict=True) if f and v is not None]
    for factor, value in sorted(terms, key=lambda term: term[0] != 1):  # first one that needs no multiplication
        scaled = value if abs(factor) == 1 else value * const(abs(factor), "float32")
        if total is None:
            total = scaled if factor > 0 else const(0, "float32") - scaled
        else:
            total = total + scaled if factor > 0 else total - scaled
    return total
