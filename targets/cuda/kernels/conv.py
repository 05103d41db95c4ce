"""Convolutions in blocked layouts as matrix products: pixels by output channels, summed over taps and channels.

No matrix of pixels is laid down: a step's part of it is copied from the image, zeros where a tap meets none.
"""

from __future__ import annotations

import math

import numpy as np

from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.operands import Image, Window, lies_in_chunks, operand_dtype
from targets.cuda.kernels.warpgroups import engine_of
from targets.cuda.schedules import Extents, GemmSchedule, gemm_schedule
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.indexing import Index, unravel
from tensorc.lowering.tir import Expr
from tensorc.search.schedule import Schedule, checked


def lower_conv(body: Graph, node: Node, gpu: Gpu, given: Schedule | None = None) -> Kernel:
    """The kernel of a `conv_blocked` that is not depthwise."""
    x, w = node.inputs
    if node.attrs["depthwise"]:
        raise UnsupportedError("depthwise convolutions are no matrix products")
    if w not in body.inputs:
        raise UnsupportedError("the filter of a convolution must be an input of its group")
    dtype = operand_dtype(x, w, gpu)
    window = window_of(node)
    blocks, channels, kh, kw, block = static_shape(w.shape)
    groups = window.groups
    extents = extents_of_conv(node)
    columns, depth = extents.columns, extents.depth
    schedule = checked(given, GemmSchedule) or gemm_schedule(extents, dtype, gpu)
    along_k = schedule.wants_chunks_along_depth(dtype)

    def plain(data: np.ndarray) -> np.ndarray:
        data = data.reshape(groups, blocks // groups, channels, kh, kw, block)
        return data.transpose(0, 1, 5, 3, 4, 2).reshape(groups, columns, depth)

    engine, weights, pack = engine_of(schedule)
    packing = pack(f"taps in {groups} groups", groups, columns, depth, dtype, along_k, plain)
    group = CudaGroup(body, gpu, schedule.threads, {w: packing})
    operands = Image(group, x, dtype, window), weights(group, w, along_k, columns, depth)

    def index(number: Expr, row: Expr, column: Expr) -> Index:
        image, h, w = unravel(row, [window.batch, window.out_h, window.out_w])
        if window.line:
            h, w = tir.floor_div(w, window.line), tir.floor_mod(w, window.line)
        first = number * (columns // block) if groups > 1 else 0
        return [image, first + tir.floor_div(column, block), h, w, tir.floor_mod(column, block)]

    return engine(group, extents, schedule, operands, group.sums_of(node), index).lower()


def extents_of_conv(node: Node) -> Extents:
    window = window_of(node)
    blocks, channels, kh, kw, block = static_shape(node.inputs[1].shape)
    return Extents(window.groups, window.rows, blocks // window.groups * block, channels * kh * kw,
                   len(node.inputs[0].shape) == 5 and lies_in_chunks(node.inputs[0], node.inputs[1].dtype))  # fmt: skip


def window_of(node: Node) -> Window:
    x, w = node.inputs
    _, channels, *kernel, _ = static_shape(w.shape)
    batch, _, in_h, in_w = static_shape(x.shape)[:4]
    _, _, out_h, out_w, _ = static_shape(node.output.shape)
    strides, pads, dilations = node.attrs["strides"], node.attrs["pads"], node.attrs["dilations"]
    line = 0
    if math.prod(kernel) == math.prod(strides) == 1 and not any(pads):
        # Each pixel of one channel by itself: the image is one long row.
        in_h, in_w, out_h, out_w, line = 1, in_h * in_w, 1, out_h * out_w, in_w
    return Window(
        batch, in_h, in_w, out_h, out_w, (kernel[0], kernel[1]), (strides[0], strides[1]),
        (dilations[0], dilations[1]), pads[0], pads[1], channels, node.attrs["groups"], line,
    )  # fmt: skip
