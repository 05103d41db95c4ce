"""Kernels of windows over images: pools, and depthwise convolutions. Blocked images mostly, plain ones too.

A thread has one column of some output rows, and as many channels of a block as are one move of 16 bytes: neighbours in
a warp read neighbours in memory. What lies outside the image is read inside of it and put aside, so that all loads can
be on their way at once. Several output rows share the input rows that their windows have in common, where images are
so many or so large that the GPU is full all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from targets.cpu.kernels.group import accumulator
from targets.cpu.kernels.pool import reciprocal, taps_inside
from targets.cpu.kernels.reduction import COMBINE, Axes
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.columns import lower_columns
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.team import WARP
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float, limits, numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Buffer, Expr, const
from tensorc.lowering.wide import WIDEST
from tensorc.search.schedule import Schedule

_THREADS = 128
#: Elements of a window that are written out one by one; larger windows are loops.
_MOST_UNROLLED = 25
#: Results of a thread that has several output rows, at most: more would want too many registers.
_MOST_RESULTS = 16

#: Called with a sum or maximum, an element of the window, its row and column in the window and the lane; gives the new.
_Step = Callable[[Expr, Expr, Expr, Expr, Expr], Expr]


@dataclass(frozen=True)
class _Axis:
    """Of an image, along one axis."""

    source: int
    result: int
    taps: int
    stride: int
    dilation: int
    before: int

    def padded(self, results: int) -> bool:
        """Whether something of so many windows lies outside the image."""
        return self.before > 0 or (results - 1) * self.stride - self.before + self.reach >= self.source

    @property
    def reach(self) -> int:
        """From a window's first element to its last."""
        return (self.taps - 1) * self.dilation


class _Windows:
    def __init__(self, body: Graph, gpu: Gpu, node: Node, dtype: str, taps: tuple[int, int]):
        self.node, self.dtype = node, dtype
        self.x = node.inputs[0]
        _, _, in_h, in_w, *block = static_shape(self.x.shape)
        self.images, self.channels, out_h, out_w, *_ = static_shape(node.output.shape)
        (stride_h, stride_w), (dilation_h, dilation_w) = node.attrs["strides"], node.attrs["dilations"]
        top, left = node.attrs["pads"][:2]
        self.high = _Axis(in_h, out_h, taps[0], stride_h, dilation_h, top)
        self.wide = _Axis(in_w, out_w, taps[1], stride_w, dilation_w, left)
        self.block = block[0] if block else 1
        self.is_blocked = bool(block)
        narrowest = min(numpy_dtype(value.dtype).itemsize for value in (*body.inputs[:1], *body.outputs))
        self.lanes = math.gcd(self.block, WIDEST // narrowest)
        self.is_short = taps[0] * taps[1] <= _MOST_UNROLLED
        self.rows = self._rows(gpu)
        self.count = self._threads(self.rows)
        self.group = CudaGroup(body, gpu, min(-(-max(self.count, 1) // WARP) * WARP, _THREADS))
        self.builder = self.group.builder

    def _threads(self, rows: int) -> int:
        return self.images * self.channels * -(-self.high.result // rows) * self.wide.result * self.block // self.lanes

    def _rows(self, gpu: Gpu) -> int:
        """More than one where windows overlap and there are threads enough without."""
        rows, full = 1, gpu.multiprocessors * gpu.threads // 2
        if self.is_short and self.high.reach >= self.high.stride:
            while 2 * rows * self.lanes <= _MOST_RESULTS and self._threads(2 * rows) >= full:
                rows *= 2
        return rows

    def launched(self, start: Expr, fill: Expr, step: _Step, finish: Callable[[Expr, Expr, Expr], Expr]) -> Kernel:
        """finish(value, row, column) is the result of what `step` made of `start` and all elements of a window; outside
        the image, those are `fill`."""
        builder, high = self.builder, self.high
        number = builder.bind(builder.block * builder.threads + builder.thread)

        def write() -> None:
            runs = -(-high.result // self.rows)
            extents = [self.images, self.channels, runs, self.wide.result, self.block // self.lanes]
            places = [i if isinstance(i, int) else builder.bind(i) for i in unravel(number, extents)]
            image, channel, run, column, part = places
            self.image, self.channel, self.first = image, channel, part * self.lanes
            row = run * self.rows
            acc = builder.registers(self.dtype, self.rows * self.lanes)
            with builder.unrolled(self.rows) as r, builder.vector(self.lanes) as lane:
                builder.store(acc, start, r * self.lanes + lane)
            (self._unrolled if self.is_short else self._looped)(acc, row, column, fill, step)
            for r in range(self.rows):
                self._store(acc, r, row + r, column, finish)

        if self.count % builder.threads:
            builder.when(number < self.count, write)
        else:
            write()
        return self.group.launched(max(-(-self.count // builder.threads), 1))

    def _unrolled(self, acc: Buffer, row: Expr, column: Expr, fill: Expr, step: _Step) -> None:
        """Each input row is read once for all windows that it is in."""
        high, wide = self.high, self.wide
        columns = [self._place(wide, column, j * wide.dilation, wide.result) for j in range(wide.taps)]
        for offset in range((self.rows - 1) * high.stride + high.reach + 1):
            uses = [
                (r, (offset - r * high.stride) // high.dilation)
                for r in range(self.rows)
                if 0 <= offset - r * high.stride <= high.reach and (offset - r * high.stride) % high.dilation == 0
            ]
            if not uses:
                continue
            h = self._place(high, row, offset, -(-high.result // self.rows) * self.rows)
            for j, w in enumerate(columns):
                self._add(acc, h, w, fill, step, [(r, i, j) for r, i in uses])

    def _looped(self, acc: Buffer, row: Expr, column: Expr, fill: Expr, step: _Step) -> None:
        high, wide, builder = self.high, self.wide, self.builder
        with builder.serial(high.taps, name="i") as i:
            h = self._place(high, row, i * high.dilation, high.result)
            with builder.serial(wide.taps, name="j") as j:
                w = self._place(wide, column, j * wide.dilation, wide.result)
                self._add(acc, h, w, fill, step, [(0, i, j)])

    def _place(self, axis: _Axis, result: Expr, offset: Expr, results: int) -> tuple[Expr, Expr]:
        """Where an element of a window is read, and whether it is there."""
        place = self.builder.bind(result * axis.stride + (offset - axis.before), "place")
        if not axis.padded(results):
            return place, True
        held = self.builder.bind(tir.minimum(tir.maximum(place, 0), axis.source - 1), "held")
        return held, tir.logical("and", place >= 0, place < axis.source)

    def _add(self, acc: Buffer, h: tuple[Expr, Expr], w: tuple[Expr, Expr], fill: Expr, step: _Step,
             uses: list[tuple[int, Expr, Expr]]) -> None:  # fmt: skip
        """An element for the windows of the rows `uses`, at the place in the window that stands beside each."""
        builder = self.builder
        inside = tir.logical("and", h[1], w[1])
        with builder.vector(self.lanes) as lane:
            index = [self.image, self.channel, h[0], w[0], *self._lane(lane)]
            element = builder.keep(tir.cast(self.group.elements.evaluate(self.x, index), self.dtype))
            if inside is not True:
                element = builder.keep(tir.select(inside, element, fill))
            for r, i, j in uses:
                at = r * self.lanes + lane
                builder.store(acc, step(builder.load(acc, at), element, i, j, lane), at)

    def _store(self, acc: Buffer, r: int, row: Expr, column: Expr, finish: Callable[[Expr, Expr, Expr], Expr]) -> None:
        builder, group = self.builder, self.group

        def write() -> None:
            with builder.vector(self.lanes) as lane:
                value = finish(builder.load(acc, r * self.lanes + lane), row, column)
                group.elements.define(self.node.output, tir.cast(value, self.node.output.dtype))
                group.store_outputs([self.image, self.channel, row, column, *self._lane(lane)])

        if r and self.high.result % self.rows:
            builder.when(row < self.high.result, write)
        else:
            write()

    def _lane(self, lane: Expr) -> list[Expr]:
        return [self.first + lane] if self.is_blocked else []


def lower_pool(body: Graph, node: Node, gpu: Gpu, schedule: Schedule | None) -> Kernel:  # noqa: ARG001
    (x,) = node.inputs
    if len(node.attrs["kernel"]) != 2 or x.dtype == "bool" or (node.op == "avg_pool" and not is_float(x.dtype)):
        raise UnsupportedError(
            f"{node.op} of {x.type} with a window of {len(node.attrs['kernel'])} axes is not lowered"
        )
    shape = static_shape(x.shape)
    if node.op == "avg_pool" and shape[2:4] == node.attrs["kernel"] and not any(node.attrs["pads"]) and len(shape) == 5:
        return lower_columns(body, node, gpu, Axes(shape, (2, 3), keepdims=True), "mean")
    if not node.output.type.size:
        return CudaGroup(body, gpu, WARP).launched(1)
    dtype = "float32" if x.dtype == "float16" else x.dtype
    windows = _Windows(body, gpu, node, dtype, node.attrs["kernel"])
    builder = windows.builder
    if node.op == "max_pool":
        least = const(limits(np.empty(0, numpy_dtype(dtype)))[0], dtype)
        return windows.launched(
            least, least, lambda old, new, *_: COMBINE["greatest"](builder, old, new), lambda value, *_: value
        )
    zero = const(0, dtype)
    return windows.launched(
        zero, zero, lambda old, new, *_: old + new, lambda value, row, column: value * _share(windows, row, column)
    )


def _share(windows: _Windows, row: Expr, column: Expr) -> Expr:
    """One by the elements that count: explicit padding where it is to be included; positions that only rounding up
    reaches never do."""
    bind = windows.builder.bind
    pads, padded = windows.node.attrs["pads"], bool(windows.node.attrs["count_include_pad"])
    counts = []
    for axis, place, after in ((windows.high, row, pads[2]), (windows.wide, column, pads[3])):
        begin = place * axis.stride - (0 if padded else axis.before)
        extent = axis.source + (axis.before + after if padded else 0)
        low, high = taps_inside(bind, begin, extent, axis.taps, axis.dilation)
        counts.append(high - low)
    return reciprocal(bind, counts[0] * counts[1], windows.dtype)


def lower_depthwise(body: Graph, node: Node, gpu: Gpu, schedule: Schedule | None) -> Kernel:  # noqa: ARG001
    _, w = node.inputs
    dtype = accumulator(node.output.dtype)
    if not node.output.type.size:
        return CudaGroup(body, gpu, WARP).launched(1)
    _, _, kh, kw, _ = static_shape(w.shape)
    windows = _Windows(body, gpu, node, dtype, (kh, kw))
    builder, group = windows.builder, windows.group

    def step(old: Expr, element: Expr, i: Expr, j: Expr, lane: Expr) -> Expr:
        tap = group.elements.evaluate(w, [windows.channel, 0, i, j, windows.first + lane])
        return old + element * convert(builder.keep, tap, w.dtype, dtype)

    zero = const(0, dtype)
    return windows.launched(zero, zero, step, lambda value, *_: value)
