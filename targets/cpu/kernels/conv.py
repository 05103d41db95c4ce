"""Direct convolutions in blocked layouts: general, 1x1, grouped, and the first one of a network on plain input.

A tile of output pixels by vectors of output channels stays in registers over the whole reduction. The weights of a
strip of channels, as wide as the tile, lie in the order in which they are read. Of rows of padding, a tile of one row
leaves out the taps as it runs; for taller tiles the rows are cut into tiles that are alike, as the columns are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from targets.cpu.kernels.conv_shape import ConvShape, Run
from targets.cpu.kernels.depthwise import lower_depthwise
from targets.cpu.kernels.group import GroupKernel, Kernel, accumulator
from targets.cpu.kernels.products import Products
from targets.cpu.kernels.winograd import lower_winograd
from targets.cpu.machine import Machine
from targets.cpu.schedules import ConvSchedule, DepthwiseSchedule, WinogradSchedule, conv_schedule
from targets.packing import Packing
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import ravel, unravel
from tensorc.lowering.tir import Expr
from tensorc.search.schedule import Schedule, checked

_CACHE_LINE = 64
#: With taps innermost, a filter's columns are unrolled, and its rows too up to this many taps.
_UNROLLED_TAPS = 9
#: A channel's block and its place in the block; of a plain input 0 and the channel, counted within its group.
_Channel = tuple[Expr, Expr]
#: Reads the input at (channel, h, w).
_Read = Callable[[_Channel, Expr, Expr], Expr]


def lower_conv(body: Graph, node: Node, machine: Machine, schedule: Schedule | None = None) -> Kernel:
    """The kernel of a `conv_blocked`."""
    if node.inputs[1] not in body.inputs:
        raise UnsupportedError("the filter of a convolution must be an input of its group")
    if isinstance(schedule, WinogradSchedule):
        return lower_winograd(body, node, machine, schedule)
    if node.attrs["depthwise"]:
        return lower_depthwise(body, node, machine, checked(schedule, DepthwiseSchedule))
    shape = ConvShape(node, machine)
    direct = checked(schedule, ConvSchedule)
    if direct is None:
        depth = shape.channels * shape.kh * shape.kw
        direct = conv_schedule(shape.out_w, shape.blocks_per_group, depth, machine)
    return _DirectConv(body, node, machine, shape, direct).lower()


def pack_strips(shape: tuple[int, ...], groups: int, vectors: int, order: str, together: int = 1) -> Packing | None:
    """Filters [blocks, I, KH, KW, block] as strips [strips, I, KH, KW, vectors * block], or with `order` "channels"
    [strips, KH, KW, I, vectors * block]; the last strip of each group is filled up with zeros. None if they are so.

    With `together` input channels in a step, I / together of those, each block's element with all of a step's."""
    blocks, inputs, kh, kw, block = shape
    if vectors == together == 1 and (order == "taps" or (kh, kw) == (1, 1)):
        return None
    each, steps = blocks // groups, inputs // together
    strips = groups * -(-each // vectors)
    middle = (steps, kh, kw) if order == "taps" else (kh, kw, steps)
    width = vectors * block * together

    def apply(data: np.ndarray) -> np.ndarray:
        data = data.reshape(groups, each, steps, together, kh, kw, block)
        data = np.pad(data, [(0, 0), (0, -each % vectors)] + [(0, 0)] * 5)
        data = data.reshape(strips, vectors, steps, together, kh, kw, block)
        axes = (0, 2, 4, 5, 1, 6, 3) if order == "taps" else (0, 4, 5, 2, 1, 6, 3)
        return np.ascontiguousarray(data.transpose(axes)).reshape(strips, *middle, width)

    return Packing(f"strips of {vectors} in {groups}, {order}", (strips, *middle, width), apply)


@dataclass(frozen=True)
class _Tile:
    """One register tile: `vectors` channel blocks of a strip, the first `number`ed among the strip's tiles, by the
    pixels of a tile in `rows` and `columns`. `top` and `left` are where its input begins."""

    strip: Expr
    vectors: int
    rows: Run
    columns: Run
    number: Expr
    top: Expr
    left: Expr
    read: _Read
    acc: tir.Buffer
    scalar: tir.Buffer
    lanes: int

    def at(self, pixel: Expr, vector: Expr, lane: Expr) -> Expr:
        """The accumulator's place."""
        return (pixel * self.vectors + vector) * self.lanes + lane


class _DirectConv:
    def __init__(self, body: Graph, node: Node, machine: Machine, shape: ConvShape, schedule: ConvSchedule):
        x, w = node.inputs
        self.node = node
        self.shape = shape
        self.schedule = schedule
        packing = pack_strips(static_shape(w.shape), shape.groups, schedule.vectors, schedule.order, shape.together)
        self.group = GroupKernel(body, machine, {w: packing})
        self.builder = self.group.builder
        self.weight = self.group.buffers[w]
        self.dtype = accumulator(node.output.dtype)
        self.products = Products(self.group, machine, x, w, self.dtype)
        self.lanes = shape.lanes
        #: Elements of a strip's weights for one step.
        self.width = schedule.vectors * shape.lanes * shape.together
        self.strips_per_group = -(-shape.blocks_per_group // schedule.vectors)
        self.strips = self.strips_per_group * shape.groups
        self.strip_elements = shape.channels * shape.kh * shape.kw * self.width
        #: Channels unrolled, and the steps that a whole filter takes with them.
        self.unroll = math.gcd(schedule.unroll, self._channel_extent) if schedule.order == "channels" else 1
        taps = shape.kh * shape.kw if schedule.order == "channels" else 1
        self.steps = taps * (shape.channels // self.unroll)
        self.lines_a_step = 0

    @property
    def _channel_extent(self) -> int:
        return self.shape.in_lanes

    def lower(self) -> Kernel:
        shape, schedule, builder = self.shape, self.schedule, self.builder
        columns = shape.column_runs(schedule.columns)
        tall = schedule.rows > 1 and shape.out_h > 1
        rows = shape.row_runs(schedule.rows) if tall else [Run(0, 1, shape.out_h, ())]
        # A long row (a flattened image) is shared between tasks by its tiles; a short one is one task.
        shared = shape.out_h == 1 and len(columns) <= 2 and columns[0].count > 1
        across = sum(run.count for run in columns)
        tiles = [shape.batch, sum(run.count for run in rows), across]
        pixels = [*tiles[:2], across if shared else 1]
        by_weights = schedule.outer == "weights"
        if by_weights:
            self._share_prefetch(math.prod(tiles))

        def for_each(runs: list[Run], tile: Expr, write: Callable[[Run, Expr], None]) -> None:
            """The one of `runs` that holds the tile, with the number of the tile in it."""
            run, *rest = runs
            if not rest:
                write(run, tile)
                return
            builder.when(
                tile < run.count, lambda: write(run, tile),
                lambda: for_each(rest, builder.bind(tile - run.count), write),
            )  # fmt: skip

        if by_weights and self.products.widens(math.prod(tiles)):
            self.products.hold_in(self.group.scratch("float32", self.strip_elements))

        with builder.tasks() as task:
            index = unravel(task, [self.strips, *pixels] if by_weights else [*pixels, self.strips])
            index = [i if isinstance(i, int) else builder.bind(i) for i in index]
            strip, image, row, piece = index if by_weights else [index[3], *index[:3]]
            if self.products.held is not None:  # the task before in this call has left them behind
                first = tir.compare("equal", tir.floor_mod(task, math.prod(pixels)), 0)
                fresh = tir.logical("or", first, tir.compare("equal", task, builder.begin))
                base = strip * self.strip_elements
                builder.when(fresh, lambda: self.products.widen(base, self.strip_elements, self.lanes))

            def write(vectors: int) -> None:
                for_each(rows, row, lambda run, row_tile: write_row(vectors, run, row_tile))

            def write_row(vectors: int, run: Run, row_tile: Expr) -> None:
                def tile(columns: Run, column_tile: Expr) -> None:
                    before = sum(c.count for c in all_columns[: all_columns.index(columns)])
                    number = ravel([image, row, before + column_tile], tiles)
                    self._tile(vectors, strip, image, run, row_tile, columns, column_tile, number)

                if shared:
                    for_each(all_columns, piece, tile)
                    return
                for c in all_columns:
                    with builder.serial(c.count, name="tile") as column_tile:
                        tile(c, column_tile)

            all_columns = columns
            self._last_strip(strip, write)
        return self.group.finish(self.strips * math.prod(pixels), schedule)

    def _last_strip(self, strip: Expr, write: Callable[[int], None]) -> None:
        """The last strip of a group may be narrower."""
        vectors = self.schedule.vectors
        tail = self.shape.blocks_per_group % vectors
        if not tail:
            write(vectors)
        elif self.strips_per_group == 1:
            write(tail)
        else:
            in_group = tir.floor_mod(strip, self.strips_per_group) if self.shape.groups > 1 else strip
            self.builder.when(in_group < self.strips_per_group - 1, lambda: write(vectors), lambda: write(tail))

    def _tile(self, vectors: int, strip: Expr, image: Expr, rows: Run, row_tile: Expr, columns: Run,
              column_tile: Expr, number: Expr) -> None:  # fmt: skip
        shape, builder, lanes = self.shape, self.builder, self.lanes
        pixels = rows.width * columns.width
        row = builder.bind(row_tile * rows.width + rows.first)
        column = column_tile * columns.width + columns.first
        group = tir.floor_div(strip, self.strips_per_group) if shape.groups > 1 else 0

        def read(channel: _Channel, h: Expr, w: Expr) -> Expr:
            block, lane = channel
            if shape.plain:
                index = [image, group * shape.channels + lane, *shape.pixel_in(h, w)]
            else:
                index = [image, group * (shape.channels // shape.in_lanes) + block, *shape.pixel_in(h, w), lane]
            return self.products.step(index)

        top = builder.bind(row * shape.strides[0] - shape.top)
        left = column * shape.strides[1] - shape.left
        acc = builder.registers(self.dtype, pixels * vectors * lanes)
        # One for all pixels: TVM's passes are slow with many buffers.
        scalar = builder.registers(self.products.step_type, 1)
        tile = _Tile(strip, vectors, rows, columns, number, top, left, read, acc, scalar, lanes)
        sums, begin = self.group.sums_of(self.node)
        in_group = tir.floor_mod(strip, self.strips_per_group) if shape.groups > 1 else strip

        def place(r: Expr, i: Expr, j: Expr, lane: Expr) -> list[Expr]:
            """The result's index."""
            block = group * shape.blocks_per_group + in_group * self.schedule.vectors + j
            return [image, block, *shape.pixel(row + r, column + i), lane]

        unrolled = builder.unrolled
        with (
            unrolled(rows.width) as r,
            unrolled(columns.width) as i,
            unrolled(vectors) as j,
            builder.vector(lanes) as lane,
        ):
            builder.store(acc, begin(place(r, i, j, lane)), tile.at(r * columns.width + i, j, lane))
        if self.schedule.order == "taps":
            self._taps_inside(tile)
        else:
            self._channels_inside(tile)

        results, loop = self.group.epilogue(acc, pixels * vectors, lanes)
        with loop(rows.width) as r, loop(columns.width) as i, loop(vectors) as j, builder.vector(lanes) as lane:
            result = builder.load(results, tile.at(r * columns.width + i, j, lane))
            self.group.elements.define(sums, tir.cast(result, sums.dtype))
            self.group.store_outputs(place(r, i, j, lane))

    def _weights(self, tile: _Tile) -> Expr:
        """The number of the tile's strip among those that weights are read of."""
        return tile.strip if self.products.held is None else 0

    # The reduction ---------------------------------------------------------------------------------------

    def _taps_inside(self, tile: _Tile) -> None:
        shape, builder = self.shape, self.builder

        def filter_row(kh: Expr, channel: _Channel, number: Expr, rows: tuple[int, int] = (0, 1)) -> None:
            for kw in range(shape.kw):
                tap = ((self._weights(tile) * shape.channels + number) * shape.kh + kh) * shape.kw + kw
                self._multiply(tile, kh, kw, channel, tap * self.width, self._pixels_inside(tile, rows, kw))

        with self._channels(tile, 0) as (channel, number):
            if tile.rows.inside:
                for kh, rows in enumerate(tile.rows.inside):
                    filter_row(kh, channel, number, rows)
            elif not shape.padded_rows and shape.kh * shape.kw <= _UNROLLED_TAPS:
                for kh in range(shape.kh):
                    filter_row(kh, channel, number)
            else:
                low, high = shape.filter_rows(builder, tile.top)
                with builder.serial(high - low, low, name="kh") as kh:
                    filter_row(kh, channel, number)

    def _channels_inside(self, tile: _Tile) -> None:
        shape, builder = self.shape, self.builder

        def filter_row(kh: Expr, rows: tuple[int, int]) -> None:
            inside = [self._pixels_inside(tile, rows, kw) for kw in range(shape.kw)]
            for first, count in _alike(inside):
                if inside[first]:  # taps with the same pixels share their code
                    with builder.serial(count, first, name="kw") as kw:
                        tap = builder.bind(kh * shape.kw + kw)
                        first_tap = self._weights(tile) * (shape.kh * shape.kw)
                        base = builder.bind((first_tap + tap) * (shape.channels * self.width))
                        with self._channels(tile, tap * (shape.channels // self.unroll)) as (channel, number):
                            self._multiply(tile, kh, kw, channel, base + number * self.width, inside[first])

        if not tile.rows.inside:
            low, high = shape.filter_rows(builder, tile.top)
            with builder.serial(high - low, low, name="kh") as kh:
                filter_row(kh, (0, 1))
            return
        for first, count in _alike(tile.rows.inside):
            with builder.serial(count, first, name="kh") as kh:
                filter_row(kh, tile.rows.inside[first])

    @contextlib.contextmanager
    def _channels(self, tile: _Tile, first_step: Expr) -> Iterator[tuple[_Channel, Expr]]:
        """Loops over the channels of a group: the channel, and its number."""
        builder, extent = self.builder, self._channel_extent
        outer_steps = extent // self.unroll
        blocks = self.shape.channels // extent
        with builder.serial(blocks, name="cb") as block, builder.serial(outer_steps, name="c") as outer:
            self._prefetch(tile, first_step + (block * outer_steps + outer))
            with builder.unrolled(self.unroll) as inner:
                lane = outer * self.unroll + inner
                yield (block, lane), block * extent + lane

    def _pixels_inside(self, tile: _Tile, rows: tuple[int, int], kw: int) -> list[tuple[int, int]]:
        """The pixels (row, column) in `rows` of a tile whose input at a tap's column is in the image."""
        return [(r, i) for r in range(*rows) for i in range(*tile.columns.inside[kw])]

    def _multiply(self, tile: _Tile, kh: Expr, kw: Expr, channel: _Channel, weight: Expr,
                  pixels: list[tuple[int, int]]) -> None:  # fmt: skip
        """Add one channel's products at one tap, whose vectors of weights begin at `weight`, to `pixels`."""
        shape, builder = self.shape, self.builder
        for r, i in pixels:
            h = tile.top + r * shape.strides[0] + kh * shape.dilations[0]
            w = tile.left + i * shape.strides[1] + kw * shape.dilations[1]
            builder.store(tile.scalar, tile.read(channel, h, w), 0)
            scalar = builder.load(tile.scalar, 0)
            with builder.unrolled(tile.vectors) as j:
                at = functools.partial(tile.at, r * tile.columns.width + i, j)
                self.products.add(tile.acc, at, scalar, weight + j * (tile.lanes * shape.together), tile.lanes)

    # Prefetching -----------------------------------------------------------------------------------------

    def _share_prefetch(self, tiles: int) -> None:
        """Let the `tiles` of one strip ask for the next strip's weights, each for its share, spread over its
        reduction: they would be waited for when the next strip's first tile reads them."""
        if tiles > 1 and self.strips > 1:
            nbytes = self.strip_elements * numpy_dtype(self.node.inputs[1].dtype).itemsize
            self.lines_a_step = -(-nbytes // (_CACHE_LINE * tiles * self.steps))

    def _prefetch(self, tile: _Tile, step: Expr) -> None:
        line = _CACHE_LINE // numpy_dtype(self.node.inputs[1].dtype).itemsize
        for number in range(self.lines_a_step):
            ahead = ((tile.number * self.steps + step) * self.lines_a_step + number) * line
            self.builder.prefetch(self.weight, (tile.strip + 1) * self.strip_elements + ahead)


def _alike(items: Sequence[object]) -> Iterator[tuple[int, int]]:
    """The first and the count of each run of equal items."""
    first = 0
    for _, run in itertools.groupby(items):
        count = len(list(run))
        yield first, count
        first += count
