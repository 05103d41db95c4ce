"""Convolutions in blocked layouts: general, 1x1, grouped, depthwise, and the first one of a network on plain input.

A tile of output columns by vectors of output channels stays in registers over the whole reduction. Padding costs
nothing and copies nothing: the columns of a row are cut into tiles known when the kernel is written, and the
multiplications by padding are left out of the border tiles; rows of padding shorten the loop over the filter's rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from targets.cpu.kernels.group import GroupKernel, Kernel, accumulator
from targets.cpu.machine import Machine
from targets.cpu.schedules import ConvSchedule, conv_schedule, depthwise_schedule
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.tir import Expr, const

#: A filter's columns are unrolled, and its rows too up to this many taps.
_UNROLLED_TAPS = 9


@dataclass(frozen=True)
class Columns:
    """A run of `count` equal tiles of `width` output columns from `first` on; `taps(kw)` are the columns of the tile
    (counted from its own first) whose input lies inside the row for filter column kw."""

    first: int
    width: int
    count: int
    inside: tuple[tuple[int, int], ...]


class _Shape:
    """The extents of one convolution, 1x1 ones over the flattened image."""

    def __init__(self, node: Node):
        x, w = node.inputs
        self.plain = len(x.shape) == 4
        self.blocks, self.channels, self.kh, self.kw, self.lanes = static_shape(w.shape)
        shape = static_shape(x.shape)
        self.batch, self.in_h, self.in_w = shape[0], shape[2], shape[3]
        _, _, self.out_h, self.out_w, _ = static_shape(node.output.shape)
        self.strides, self.dilations = node.attrs["strides"], node.attrs["dilations"]
        self.top, self.left = node.attrs["pads"][:2]
        self.depthwise = bool(node.attrs["depthwise"])
        self.groups = 1 if self.depthwise else node.attrs["groups"]  # depthwise blocks are strips like any other
        self.flat = (self.kh, self.kw) == (1, 1) and self.strides == (1, 1) and not any(node.attrs["pads"])
        if self.flat:  # every output pixel depends on one input pixel: one long row has no tails between rows
            self.row_w = self.out_w
            self.in_w = self.out_w = self.in_w * self.in_h
            self.in_h = self.out_h = 1

    @property
    def padded_rows(self) -> bool:
        """Whether some filter row meets padding somewhere."""
        last = (self.out_h - 1) * self.strides[0] - self.top + (self.kh - 1) * self.dilations[0]
        return bool(self.top > 0 or last >= self.in_h)

    def pixel(self, row: Expr, column: Expr) -> list[Expr]:
        """(h, w) in the result's own shape."""
        if not self.flat:
            return [row, column]
        if self.row_w == self.out_w:
            return [0, column]
        return [tir.floor_div(column, self.row_w), tir.floor_mod(column, self.row_w)]

    def column_runs(self, width: int) -> list[Columns]:
        """Cut a row of output columns into tiles of `width`; tiles alike in their padding run together."""
        runs: list[Columns] = []
        first = 0
        while first < self.out_w:
            size = min(width, self.out_w - first)
            inside = tuple(self._inside(first, size, kw) for kw in range(self.kw))
            last = runs[-1] if runs else None
            if last and last.width == size and last.inside == inside:
                runs[-1] = Columns(last.first, size, last.count + 1, inside)
            else:
                runs.append(Columns(first, size, 1, inside))
            first += size
        return runs

    def _inside(self, first: int, size: int, kw: int) -> tuple[int, int]:
        """The range of columns of a tile for which filter column kw meets the image."""
        stride, offset = self.strides[1], kw * self.dilations[1] - self.left
        low = max(0, -((first * stride + offset) // stride))
        high = min(size, -((first * stride + offset - self.in_w) // stride))
        return (low, high) if low < high else (0, 0)


def lower_conv(body: Graph, node: Node, machine: Machine) -> Kernel:
    """Tasks are (image, strip of channel blocks, output row, run of columns), the weights' strip changing slowest."""
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    x, w = node.inputs
    if w not in group.buffers:
        raise UnsupportedError("the filter of a convolution must be an input of its group")
    weight = group.buffers[w]
    shape = _Shape(node)
    schedule: ConvSchedule
    if shape.depthwise:
        schedule = depthwise_schedule(shape.out_w, machine)
    else:
        depth = shape.channels * shape.kh * shape.kw
        schedule = conv_schedule(shape.out_w, shape.blocks // shape.groups, depth, machine)
    runs = shape.column_runs(schedule.columns)
    lanes, dtype = shape.lanes, accumulator(node.output.dtype)
    per_group = shape.blocks // shape.groups
    strips_per_group = -(-per_group // schedule.vectors)
    strips = strips_per_group * shape.groups
    # A long row (a flattened image) is shared between tasks by its tiles; a short one is one task.
    shared = shape.out_h == 1 and len(runs) <= 2 and runs[0].count > 1
    pieces = runs[0].count + (len(runs) - 1) if shared else 1

    def accumulate(count: int, image: Expr, first_block: Expr, in_group: Expr, row: Expr, run: Columns,
                   tile: Expr) -> None:  # fmt: skip
        """One register tile: `count` channel blocks by the columns of `tile` in `run`."""
        acc = builder.registers(dtype, run.width * count * lanes)

        def at(column: Expr, vector: Expr, lane: Expr) -> Expr:
            return (column * count + vector) * lanes + lane

        with builder.unrolled(run.width) as i, builder.unrolled(count) as j, builder.vector(lanes) as lane:
            builder.store(acc, const(0, dtype), at(i, j, lane))
        first_column = tile * run.width + run.first
        top = row * shape.strides[0] - shape.top
        left = first_column * shape.strides[1] - shape.left

        def taps(channel: Expr, read: Callable[[Expr, Expr, Expr], Expr], kh: Expr) -> None:
            """The filter's row kh: read(h, w, lane) is the input's element."""
            h = builder.bind(top + kh * shape.dilations[0])
            for kw in range(shape.kw):
                low, high = run.inside[kw]
                if low == high:
                    continue
                with builder.unrolled(high - low) as i:
                    column = i + low
                    position = left + column * shape.strides[1] + kw * shape.dilations[1]
                    scalar = None if shape.depthwise else builder.keep(tir.cast(read(h, position, 0), dtype))
                    with builder.unrolled(count) as j, builder.vector(lanes) as lane:
                        offset = (first_block + j) * shape.channels + channel
                        tap = builder.load(weight, ((offset * shape.kh + kh) * shape.kw + kw) * lanes + lane)
                        factor = tir.cast(read(h, position, lane), dtype) if scalar is None else scalar
                        place = at(column, j, lane)
                        builder.store(acc, builder.load(acc, place) + factor * tir.cast(tap, dtype), place)

        def rows_of(channel: Expr, read: Callable[[Expr, Expr, Expr], Expr]) -> None:
            if not shape.padded_rows and shape.kh * shape.kw <= _UNROLLED_TAPS:
                for kh in range(shape.kh):
                    taps(channel, read, kh)
                return
            with builder.serial(high_tap - low_tap, low_tap, name="kh") as kh:
                taps(channel, read, kh)

        low_tap: Expr = 0  # filter rows low <= kh < high meet the image
        high_tap: Expr = shape.kh
        if shape.padded_rows:
            step = shape.dilations[0]
            low_tap = builder.bind(tir.maximum(tir.floor_div(step - 1 - top, step), 0))
            high_tap = builder.bind(tir.minimum(tir.floor_div(shape.in_h - 1 - top, step) + 1, shape.kh))

        if shape.depthwise:
            rows_of(0, lambda h, p, lane: elements.evaluate(x, _input_index(shape, image, first_block, h, p, lane)))
        elif shape.plain:
            with builder.serial(shape.channels, name="c") as c:
                channel = in_group * shape.channels + c
                rows_of(c, lambda h, p, _: elements.evaluate(x, [image, channel, *_pixel_in(shape, h, p)]))
        else:
            in_blocks = shape.channels // lanes
            with builder.serial(in_blocks, name="cb") as cb, builder.serial(lanes, name="c") as c:
                block = in_group * in_blocks + cb
                rows_of(
                    cb * lanes + c, lambda h, p, _: elements.evaluate(x, _input_index(shape, image, block, h, p, c))
                )

        results, loop = group.epilogue(acc, run.width * count, lanes)
        with loop(run.width) as i, loop(count) as j, builder.vector(lanes) as lane:
            result = builder.load(results, at(i, j, lane))
            elements.define(node.output, tir.cast(result, node.output.dtype))
            group.store_outputs([image, first_block + j, *shape.pixel(row, first_column + i), lane])

    def strip(write: Callable[[int], None], in_strip: Expr) -> None:
        """The last strip of a group may be narrower."""
        tail = per_group % schedule.vectors
        if not tail:
            write(schedule.vectors)
        elif strips_per_group == 1:
            write(tail)
        else:
            builder.when(in_strip < strips_per_group - 1, lambda: write(schedule.vectors), lambda: write(tail))

    with builder.tasks() as task:
        rest = task
        piece = 0
        if shared:
            piece = builder.bind(tir.floor_mod(rest, pieces))
            rest = tir.floor_div(rest, pieces)
        row = builder.bind(tir.floor_mod(rest, shape.out_h)) if shape.out_h > 1 else 0
        rest = tir.floor_div(rest, shape.out_h)
        image = builder.bind(tir.floor_mod(rest, shape.batch)) if shape.batch > 1 else 0
        which = builder.bind(tir.floor_div(rest, shape.batch))
        in_group = builder.bind(tir.floor_div(which, strips_per_group)) if shape.groups > 1 else 0
        in_strip = builder.bind(tir.floor_mod(which, strips_per_group)) if strips_per_group > 1 else 0
        first_block = builder.bind(in_group * per_group + in_strip * schedule.vectors)

        def write(count: int) -> None:
            if shared:
                main = runs[0]
                if len(runs) == 1:
                    accumulate(count, image, first_block, in_group, row, main, piece)
                else:
                    builder.when(
                        piece < main.count,
                        lambda: accumulate(count, image, first_block, in_group, row, main, piece),
                        lambda: accumulate(count, image, first_block, in_group, row, runs[1], 0),
                    )
                return
            for run in runs:
                with builder.serial(run.count, name="tile") as tile:
                    accumulate(count, image, first_block, in_group, row, run, tile)

        strip(write, in_strip)
    return group.finish(strips * shape.batch * shape.out_h * pieces, str(schedule))


def _pixel_in(shape: _Shape, h: Expr, w: Expr) -> list[Expr]:
    if not shape.flat or shape.row_w == shape.in_w:
        return [h, w]
    return [tir.floor_div(w, shape.row_w), tir.floor_mod(w, shape.row_w)]


def _input_index(shape: _Shape, image: Expr, block: Expr, h: Expr, w: Expr, lane: Expr) -> list[Expr]:
    return [image, block, *_pixel_in(shape, h, w), lane]
