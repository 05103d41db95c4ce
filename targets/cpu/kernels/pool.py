"""Pooling over windows of images, blocked or plain. A task is one output row of one channel block."""

from __future__ import annotations

import math
from collections.abc import Callable

from targets.cpu.kernels.group import GroupKernel, Kernel
from targets.cpu.machine import Machine
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float
from tensorc.lowering import tir
from tensorc.lowering.tir import Expr, const


def lower_pool(body: Graph, node: Node, machine: Machine) -> Kernel:
    (x,) = node.inputs
    if len(node.attrs["kernel"]) != 2 or not is_float(x.dtype):
        raise UnsupportedError(
            f"{node.op} of {x.type} with a window of {len(node.attrs['kernel'])} axes is not lowered"
        )
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

    with builder.tasks() as task:
        row = builder.bind(tir.floor_mod(task, out_h))
        plane = builder.bind(tir.floor_div(task, out_h))
        image, channel = tir.floor_div(plane, channels), tir.floor_mod(plane, channels)
        start_h = builder.bind(row * stride_h - top)
        low_h, high_h = _inside(builder.bind, start_h, in_h, kh, dilation_h)
        with builder.serial(out_w, name="ow") as column:
            start_w = builder.bind(column * stride_w - left)
            low_w, high_w = _inside(builder.bind, start_w, in_w, kw, dilation_w)
            acc = builder.registers(acc_type, lanes)
            with builder.vector(lanes) as lane:
                builder.store(acc, const(-math.inf if largest else 0, acc_type), lane)
            with builder.serial(high_h - low_h, low_h) as i, builder.serial(high_w - low_w, low_w) as j:
                h, w = start_h + i * dilation_h, start_w + j * dilation_w
                with builder.vector(lanes) as lane:
                    index = [image, channel, h, w, *([lane] if block else [])]
                    element = tir.cast(elements.evaluate(x, index), acc_type)
                    old = builder.load(acc, lane)
                    builder.store(acc, tir.maximum(old, element) if largest else old + element, lane)
            if largest:
                scale = None
            elif node.attrs["count_include_pad"]:
                # Explicit padding counts; positions that only rounding up reaches do not.
                tall = _inside(builder.bind, start_h + top, in_h + top + bottom, kh, dilation_h)
                wide = _inside(builder.bind, start_w + left, in_w + left + right, kw, dilation_w)
                scale = _reciprocal(builder.bind, (tall[1] - tall[0]) * (wide[1] - wide[0]), acc_type)
            else:
                scale = _reciprocal(builder.bind, (high_h - low_h) * (high_w - low_w), acc_type)
            with builder.vector(lanes) as lane:
                value = builder.load(acc, lane)
                result = value if scale is None else value * scale
                elements.define(node.output, tir.cast(result, x.dtype))
                group.store_outputs([image, channel, row, column, *([lane] if block else [])])
    return group.finish(batch * channels * out_h)


def _inside(bind: Callable[[Expr], Expr], start: Expr, extent: int, taps: int, dilation: int) -> tuple[Expr, Expr]:
    """The range of taps that meet [0, extent) from `start` on."""
    low = tir.maximum(tir.floor_div(dilation - 1 - start, dilation), 0)
    high = tir.minimum(tir.floor_div(extent - 1 - start, dilation) + 1, taps)
    return bind(low), bind(high)


def _reciprocal(bind: Callable[[Expr], Expr], count: Expr, dtype: str) -> Expr:
    return bind(const(1, dtype) / tir.cast(count, dtype))
