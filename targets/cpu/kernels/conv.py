"""Direct convolutions in blocked layouts: general, 1x1, grouped, and the first one of a network on plain input.

A tile of output pixels by vectors of output channels stays in registers over the whole reduction. The weights of a
strip of channels, as wide as the tile, lie in the order in which they are read. Of rows of padding, a tile of one row
leaves out the taps as it runs; for taller tiles the rows are cut into tiles that are alike, as the columns are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np

from targets.cpu.kernels.conv_shape import ConvShape, Run
from targets.cpu.kernels.depthwise import lower_depthwise
from targets.cpu.kernels.group import GroupKernel, Kernel, Packing, accumulator
from targets.cpu.machine import Machine
from targets.cpu.schedules import ConvSchedule, DepthwiseSchedule, Schedule, checked, conv_schedule
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Expr, const

#: With taps innermost, a filter's columns are unrolled, and its rows too up to this many taps.
_UNROLLED_TAPS = 9
#: A channel's block and its place in the block; of a plain input, which is in one group, 0 and the channel.
_Channel = tuple[Expr, Expr]
#: Reads the input at (channel, h, w).
_Read = Callable[[_Channel, Expr, Expr], Expr]


def lower_conv(body: Graph, node: Node, machine: Machine, schedule: Schedule | None = None) -> Kernel:
    """The kernel of a `conv_blocked`."""
    if node.inputs[1] not in body.inputs:
        raise UnsupportedError("the filter of a convolution must be an input of its group")
    if node.attrs["depthwise"]:
        return lower_depthwise(body, node, machine, checked(schedule, DepthwiseSchedule))
    shape = ConvShape(node)
    direct = checked(schedule, ConvSchedule)
    if direct is None:
        depth = shape.channels * shape.kh * shape.kw
        direct = conv_schedule(shape.out_w, shape.blocks_per_group, depth, machine)
    return _DirectConv(body, node, machine, shape, direct).lower()


def pack_strips(shape: tuple[int, ...], groups: int, vectors: int, order: str) -> Packing | None:
    """Filters [blocks, I, KH, KW, block] as strips [strips, I, KH, KW, vectors * block], or with `order` "channels"
    [strips, KH, KW, I, vectors * block]; the last strip of each group is filled up with zeros. None if they are so."""
    blocks, inputs, kh, kw, block = shape
    if vectors == 1 and (order == "taps" or (kh, kw) == (1, 1)):
        return None
    each = blocks // groups
    strips = groups * -(-each // vectors)
    middle = (inputs, kh, kw) if order == "taps" else (kh, kw, inputs)

    def apply(data: np.ndarray) -> np.ndarray:
        data = data.reshape(groups, each, inputs, kh, kw, block)
        data = np.pad(data, [(0, 0), (0, -each % vectors)] + [(0, 0)] * 4)
        data = data.reshape(strips, vectors, inputs, kh, kw, block)
        axes = (0, 2, 3, 4, 1, 5) if order == "taps" else (0, 3, 4, 2, 1, 5)
        return np.ascontiguousarray(data.transpose(axes)).reshape(strips, *middle, vectors * block)

    return Packing(f"strips of {vectors} in {groups}, {order}", (strips, *middle, vectors * block), apply)


class _DirectConv:
    def __init__(self, body: Graph, node: Node, machine: Machine, shape: ConvShape, schedule: ConvSchedule):
        _x, w = node.inputs
        self.node = node
        self.shape = shape
        self.schedule = schedule
        packing = pack_strips(static_shape(w.shape), shape.groups, schedule.vectors, schedule.order)
        self.group = GroupKernel(body, machine, {w: packing})
        self.builder = self.group.builder
        self.weight = self.group.buffers[w]
        self.dtype = accumulator(node.output.dtype)
        self.lanes = shape.lanes
        self.strips_per_group = -(-shape.blocks_per_group // schedule.vectors)

    def lower(self) -> Kernel:
        shape, schedule, builder = self.shape, self.schedule, self.builder
        columns = shape.column_runs(schedule.columns)
        tall = schedule.rows > 1 and shape.out_h > 1
        rows = shape.row_runs(schedule.rows) if tall else [Run(0, 1, shape.out_h, ())]
        row_tiles = sum(run.count for run in rows)
        # A long row (a flattened image) is shared between tasks by its tiles; a short one is one task.
        shared = shape.out_h == 1 and len(columns) <= 2 and columns[0].count > 1
        pieces = sum(run.count for run in columns) if shared else 1
        strips = self.strips_per_group * shape.groups
        pixels = [shape.batch, row_tiles, pieces]
        by_weights = schedule.outer == "weights"

        with builder.tasks() as task:
            index = unravel(task, [strips, *pixels] if by_weights else [*pixels, strips])
            index = [i if isinstance(i, int) else builder.bind(i) for i in index]
            strip, image, row, piece = index if by_weights else [index[3], *index[:3]]

            def write(count: int) -> None:
                for_each(rows, row, lambda run, tile: write_row(count, run, tile))

            def write_row(count: int, run: Run, row_tile: Expr) -> None:
                if shared:
                    for_each(columns, piece, lambda c, tile: self._tile(count, strip, image, run, row_tile, c, tile))
                    return
                for c in columns:
                    with builder.serial(c.count, name="tile") as tile:
                        self._tile(count, strip, image, run, row_tile, c, tile)

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

            self._last_strip(strip, write)
        return self.group.finish(strips * shape.batch * row_tiles * pieces, schedule)

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

    def _tile(self, count: int, strip: Expr, image: Expr, rows: Run, row_tile: Expr, columns: Run,
              column_tile: Expr) -> None:  # fmt: skip
        """One register tile: `count` channel blocks by the pixels of a tile in `rows` and `columns`."""
        shape, builder, lanes = self.shape, self.builder, self.lanes
        acc = builder.registers(self.dtype, rows.width * columns.width * count * lanes)
        pixels = rows.width * columns.width
        with builder.unrolled(pixels) as i, builder.unrolled(count) as j, builder.vector(lanes) as lane:
            builder.store(acc, const(0, self.dtype), self._at(count, i, j, lane))
        row = builder.bind(row_tile * rows.width + rows.first)
        column = column_tile * columns.width + columns.first
        group = tir.floor_div(strip, self.strips_per_group) if shape.groups > 1 else 0
        x = self.node.inputs[0]

        def read(channel: _Channel, h: Expr, w: Expr) -> Expr:
            block, lane = channel
            if shape.plain:
                index = [image, lane, *shape.pixel_in(h, w)]
            else:
                index = [image, group * (shape.channels // lanes) + block, *shape.pixel_in(h, w), lane]
            return tir.cast(self.group.elements.evaluate(x, index), self.dtype)

        top = builder.bind(row * shape.strides[0] - shape.top)
        left = column * shape.strides[1] - shape.left
        if self.schedule.order == "taps":
            self._taps_inside(acc, count, strip, rows, columns, top, left, read)
        else:
            self._channels_inside(acc, count, strip, rows, columns, top, left, read)

        results, loop = self.group.epilogue(acc, rows.width * columns.width * count, lanes)
        with loop(rows.width) as r, loop(columns.width) as i, loop(count) as j, builder.vector(lanes) as lane:
            result = builder.load(results, self._at(count, r * columns.width + i, j, lane))
            self.group.elements.define(self.node.output, tir.cast(result, self.node.output.dtype))
            in_group = tir.floor_mod(strip, self.strips_per_group) if shape.groups > 1 else strip
            block = group * shape.blocks_per_group + in_group * self.schedule.vectors + j
            self.group.store_outputs([image, block, *shape.pixel(row + r, column + i), lane])

    def _at(self, count: int, pixel: Expr, vector: Expr, lane: Expr) -> Expr:
        return (pixel * count + vector) * self.lanes + lane

    def _multiply(self, acc: tir.Buffer, count: int, rows: tuple[int, int], columns: tuple[int, int], across: int,
                  pixel: Callable[[Expr, Expr], Expr], weight: Expr) -> None:  # fmt: skip
        """Add one channel's products at one tap: pixel(row, column) is the input, `weight` where its vectors lie."""
        builder, lanes = self.builder, self.lanes
        if rows[0] == rows[1] or columns[0] == columns[1]:
            return
        with builder.unrolled(rows[1] - rows[0]) as r, builder.unrolled(columns[1] - columns[0]) as i:
            scalar = builder.keep(pixel(rows[0] + r, columns[0] + i))
            with builder.unrolled(count) as j, builder.vector(lanes) as lane:
                tap = tir.cast(builder.load(self.weight, weight + j * lanes + lane), self.dtype)
                at = self._at(count, (rows[0] + r) * across + columns[0] + i, j, lane)
                builder.store(acc, builder.load(acc, at) + scalar * tap, at)

    def _row_taps(self, rows: Run, top: Expr) -> tuple[Expr, Expr]:
        """The range of filter rows that a tile of one row needs."""
        shape = self.shape
        if rows.inside or not shape.padded_rows:
            return 0, shape.kh
        step = shape.dilations[0]
        low = self.builder.bind(tir.maximum(tir.floor_div(step - 1 - top, step), 0))
        high = self.builder.bind(tir.minimum(tir.floor_div(shape.in_h - 1 - top, step) + 1, shape.kh))
        return low, high

    @contextlib.contextmanager
    def _channels(self, unroll: int) -> Iterator[tuple[_Channel, Expr]]:
        """Loops over the channels of a group, `unroll` of them unrolled where that divides them."""
        builder = self.builder
        extent = self.shape.channels if self.shape.plain else self.lanes
        unroll = math.gcd(unroll, extent)
        blocks = 1 if self.shape.plain else self.shape.channels // extent
        with (
            builder.serial(blocks, name="cb") as block,
            builder.serial(extent // unroll, name="c") as outer,
            builder.unrolled(unroll) as inner,
        ):
            lane = outer * unroll + inner
            yield (block, lane), block * extent + lane

    def _taps_inside(self, acc: tir.Buffer, count: int, strip: Expr, rows: Run, columns: Run, top: Expr, left: Expr,
                     read: _Read) -> None:  # fmt: skip
        shape, builder = self.shape, self.builder
        low, high = self._row_taps(rows, top)
        width = self.schedule.vectors * self.lanes

        def filter_row(kh: Expr, channel: _Channel, number: Expr) -> None:
            row_range = rows.inside[kh] if rows.inside else (0, 1)
            for kw in range(shape.kw):
                weight = (((strip * shape.channels + number) * shape.kh + kh) * shape.kw + kw) * width
                self._multiply(
                    acc, count, row_range, columns.inside[kw], columns.width,
                    lambda r, i, kw=kw: read(  # type: ignore[misc]
                        channel, top + r * shape.strides[0] + kh * shape.dilations[0],
                        left + i * shape.strides[1] + kw * shape.dilations[1],
                    ),
                    weight,
                )  # fmt: skip

        with self._channels(1) as (channel, number):
            if rows.inside or (not shape.padded_rows and shape.kh * shape.kw <= _UNROLLED_TAPS):
                for kh in range(shape.kh):
                    filter_row(kh, channel, number)
            else:
                with builder.serial(high - low, low, name="kh") as kh:
                    filter_row(kh, channel, number)

    def _channels_inside(self, acc: tir.Buffer, count: int, strip: Expr, rows: Run, columns: Run, top: Expr,
                         left: Expr, read: _Read) -> None:  # fmt: skip
        shape, builder = self.shape, self.builder
        low, high = self._row_taps(rows, top)
        width = self.schedule.vectors * self.lanes

        def filter_row(kh: Expr) -> None:
            row_range = rows.inside[kh] if rows.inside else (0, 1)
            h = builder.bind(top + kh * shape.dilations[0])
            for kw in range(shape.kw):
                if row_range[0] == row_range[1] or columns.inside[kw][0] == columns.inside[kw][1]:
                    continue
                w = builder.bind(left + kw * shape.dilations[1])
                base = builder.bind(((strip * shape.kh + kh) * shape.kw + kw) * (shape.channels * width))
                with self._channels(self.schedule.unroll) as (channel, number):
                    self._multiply(
                        acc, count, row_range, columns.inside[kw], columns.width,
                        lambda r, i, h=h, w=w, channel=channel: read(  # type: ignore[misc]
                            channel, h + r * shape.strides[0], w + i * shape.strides[1]
                        ),
                        base + number * width,
                    )  # fmt: skip

        if rows.inside:
            for kh in range(shape.kh):
                filter_row(kh)
        else:
            with builder.serial(high - low, low, name="kh") as kh:
                filter_row(kh)
