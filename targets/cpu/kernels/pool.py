"""Pooling over windows of images, blocked or plain. A task is one output row of one channel block.

Where windows lie inside the image's width, several of them at once are in registers and their columns are written out;
at the borders they are taken one by one, with the columns counted that there are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from targets.cpu.kernels.group import GroupKernel, Kernel
from targets.cpu.machine import Machine
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float, limits, numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.tir import Expr, const

#: Windows in registers. That is not worth a schedule: on thirteen pools of two networks (an AVX-512 server core, 21
#: November 2026) every number from 1 to 16 took within 2 % of the best one for maxima, from 4 on for averages too.
_WINDOWS = 4
#: Elements of windows that are written out one by one.
_MOST_UNROLLED = 64


def lower_pool(body: Graph, node: Node, machine: Machine) -> Kernel:
    (x,) = node.inputs
    if len(node.attrs["kernel"]) != 2 or x.dtype == "bool" or (node.op == "avg_pool" and not is_float(x.dtype)):
        raise UnsupportedError(
            f"{node.op} of {x.type} with a window of {len(node.attrs['kernel'])} axes is not lowered"
        )
    inside = _columns_inside(node)
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    _, _, in_h, in_w, *block = static_shape(x.shape)
    batch, channels, out_h, out_w, *_ = static_shape(node.output.shape)
    (kh, kw), (stride_h, stride_w) = node.attrs["kernel"], node.attrs["strides"]
    dilation_h, dilation_w = node.attrs["dilations"]
    top, left, bottom, right = node.attrs["pads"]
    lanes = block[0] if block else 1
    largest = node.op == "max_pool"
    acc_type = "float32" if x.dtype == "float16" else x.dtype
    least = limits(np.empty(0, numpy_dtype(acc_type)))[0]

    with builder.tasks() as task:
        row = builder.bind(tir.floor_mod(task, out_h))
        plane = builder.bind(tir.floor_div(task, out_h))
        image, channel = tir.floor_div(plane, channels), tir.floor_mod(plane, channels)
        start_h = builder.bind(row * stride_h - top)
        low_h, high_h = taps_inside(builder.bind, start_h, in_h, kh, dilation_h)
        # Explicit padding counts where it is to be included; positions that only rounding up reaches do not.
        padded = bool(node.attrs.get("count_include_pad", 0))
        tall = (
            taps_inside(builder.bind, start_h + top, in_h + top + bottom, kh, dilation_h) if padded else (low_h, high_h)
        )

        def windows(first: Expr, count: int, taps: Callable[[Expr, Callable[[Expr], None]], None], wide: Expr) -> None:
            """`count` windows from column `first` on; taps(column, add) calls add for each column of one's window,
            whose size counts as `wide` columns."""
            acc = builder.registers(acc_type, count * lanes)
            with builder.unrolled(count) as c, builder.vector(lanes) as lane:
                builder.store(acc, const(least if largest else 0, acc_type), c * lanes + lane)
            with builder.serial(high_h - low_h, low_h) as i, builder.unrolled(count) as c:
                h = start_h + i * dilation_h

                def add(w: Expr) -> None:
                    with builder.vector(lanes) as lane:
                        index = [image, channel, h, w, *([lane] if block else [])]
                        element = tir.cast(elements.evaluate(x, index), acc_type)
                        old = builder.load(acc, c * lanes + lane)
                        builder.store(acc, tir.maximum(old, element) if largest else old + element, c * lanes + lane)

                taps(first + c, add)
            scale = None if largest else reciprocal(builder.bind, (tall[1] - tall[0]) * wide, acc_type)
            with builder.unrolled(count) as c, builder.vector(lanes) as lane:
                value = builder.load(acc, c * lanes + lane)
                elements.define(node.output, tir.cast(value if scale is None else value * scale, x.dtype))
                group.store_outputs([image, channel, row, first + c, *([lane] if block else [])])

        def whole(first: Expr, count: int) -> None:
            def taps(column: Expr, add: Callable[[Expr], None]) -> None:
                loop = builder.unrolled if count * kw <= _MOST_UNROLLED else builder.serial
                with loop(kw) as j:
                    add(column * stride_w - left + j * dilation_w)

            windows(first, count, taps, const(kw, "int64"))

        def border(columns: range) -> None:
            if not columns:
                return
            with builder.serial(len(columns), columns.start, name="ow") as column:
                start_w = builder.bind(column * stride_w - left)
                low_w, high_w = taps_inside(builder.bind, start_w, in_w, kw, dilation_w)
                wide = taps_inside(builder.bind, start_w + left, in_w + left + right, kw, dilation_w) if padded else (
                    low_w, high_w)  # fmt: skip

                def taps(_: Expr, add: Callable[[Expr], None]) -> None:
                    with builder.serial(high_w - low_w, low_w) as j:
                        add(start_w + j * dilation_w)

                windows(column, 1, taps, wide[1] - wide[0])

        border(range(inside.start))
        full, tail = divmod(len(inside), _WINDOWS)
        if full:
            with builder.serial(full, name="tile") as tile:
                whole(inside.start + tile * _WINDOWS, _WINDOWS)
        if tail:
            whole(const(inside.stop - tail, "int64"), tail)
        border(range(inside.stop, out_w))
    return group.finish(batch * channels * out_h)


def _columns_inside(node: Node) -> range:
    """The output columns whose windows lie inside the image's width; empty ones start at the first column."""
    in_w, out_w = static_shape(node.inputs[0].shape)[3], static_shape(node.output.shape)[3]
    reach = (node.attrs["kernel"][1] - 1) * node.attrs["dilations"][1]
    stride, left = node.attrs["strides"][1], node.attrs["pads"][1]
    first, last = -(-left // stride), (in_w - 1 - reach + left) // stride
    return range(first, min(last + 1, out_w)) if first <= last and first < out_w else range(0)


def taps_inside(bind: Callable[[Expr], Expr], start: Expr, extent: int, taps: int, dilation: int) -> tuple[Expr, Expr]:
    """The range of taps that meet [0, extent) from `start` on."""
    low = tir.maximum(tir.floor_div(dilation - 1 - start, dilation), 0)
    high = tir.minimum(tir.floor_div(extent - 1 - start, dilation) + 1, taps)
    return bind(low), bind(high)


def reciprocal(bind: Callable[[Expr], Expr], count: Expr, dtype: str) -> Expr:
    """One by `count`, which is none where a window lies in nothing but padding: its sum is zero."""
    return bind(const(1, dtype) / tir.cast(tir.maximum(count, 1), dtype))
