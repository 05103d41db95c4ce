"""Depthwise convolutions in blocked layout: each channel by a filter of its own, a vector of channels at a time."""

from __future__ import annotations

from targets.cpu.kernels.conv_shape import ConvShape, Run
from targets.cpu.kernels.group import GroupKernel, Kernel, accumulator
from targets.cpu.machine import Machine
from targets.cpu.schedules import DepthwiseSchedule, depthwise_schedule
from tensorc.ir import Graph, Node
from tensorc.ir.ops.nn import multiplies_bytes
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Expr, const

#: A filter's columns are unrolled, and its rows too up to this many taps.
_UNROLLED_TAPS = 9

#: So many products of the largest bytes are exact in float32, whatever their signs.
_EXACT_TAPS = (1 << 24) // (255 * 128)


def lower_depthwise(body: Graph, node: Node, machine: Machine, schedule: DepthwiseSchedule | None = None) -> Kernel:
    """Tasks are (channel block, image, output row, run of columns)."""
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    x, w = node.inputs
    weight = group.buffers[w]
    shape = ConvShape(node, machine)
    if schedule is None:
        schedule = depthwise_schedule(shape.out_w, machine)
    runs = shape.column_runs(schedule.columns)
    # Sums of a few products of bytes are exact in float32, and that is multiplied and added at once.
    exact = multiplies_bytes(x.type, w.type) and shape.kh * shape.kw <= _EXACT_TAPS
    lanes, dtype = shape.lanes, "float32" if exact else accumulator(node.output.dtype)
    # A long row (a flattened image) is shared between tasks by its tiles; a short one is one task.
    shared = shape.out_h == 1 and len(runs) <= 2 and runs[0].count > 1
    pieces = sum(run.count for run in runs) if shared else 1

    def accumulate(block: Expr, image: Expr, row: Expr, run: Run, tile: Expr) -> None:
        acc = builder.registers(dtype, run.width * lanes)
        with builder.unrolled(run.width) as i, builder.vector(lanes) as lane:
            builder.store(acc, const(0, dtype), i * lanes + lane)
        first = tile * run.width + run.first
        top = row * shape.strides[0] - shape.top
        left = first * shape.strides[1] - shape.left

        def taps(kh: Expr) -> None:
            h = builder.bind(top + kh * shape.dilations[0])
            for kw in range(shape.kw):
                low, high = run.inside[kw]
                if low == high:
                    continue
                with builder.unrolled(high - low) as i, builder.vector(lanes) as lane:
                    position = left + (i + low) * shape.strides[1] + kw * shape.dilations[1]
                    element = elements.evaluate(x, [image, block, *shape.pixel_in(h, position), lane])
                    tap = builder.load(weight, ((block * shape.kh + kh) * shape.kw + kw) * lanes + lane)
                    tap = convert(builder.keep, tap, w.dtype, dtype)
                    at = (i + low) * lanes + lane
                    builder.store(acc, builder.load(acc, at) + tir.cast(element, dtype) * tap, at)

        if not shape.padded_rows and shape.kh * shape.kw <= _UNROLLED_TAPS:
            for kh in range(shape.kh):
                taps(kh)
        else:
            low, high = shape.filter_rows(builder, top)
            with builder.serial(high - low, low, name="kh") as kh:
                taps(kh)

        results, loop = group.epilogue(acc, run.width, lanes)
        with loop(run.width) as i, builder.vector(lanes) as lane:
            element = builder.load(results, i * lanes + lane)
            elements.define(node.output, tir.cast(element, node.output.dtype))
            for user in node.output.users:  # most often, all that is made of sums of bytes is floats
                if user.op == "cast" and user.attrs["to"] == dtype:
                    elements.define(user.output, element)
            group.store_outputs([image, block, *shape.pixel(row, first + i), lane])

    with builder.tasks() as task:
        index = unravel(task, [shape.blocks, shape.batch, shape.out_h, pieces])
        block, image, row, piece = (i if isinstance(i, int) else builder.bind(i) for i in index)
        if not shared:
            for run in runs:
                with builder.serial(run.count, name="tile") as tile:
                    accumulate(block, image, row, run, tile)
        elif len(runs) == 1:
            accumulate(block, image, row, runs[0], piece)
        else:
            builder.when(
                piece < runs[0].count,
                lambda: accumulate(block, image, row, runs[0], piece),
                lambda: accumulate(block, image, row, runs[1], 0),
            )
    return group.finish(shape.blocks * shape.batch * shape.out_h * pieces, schedule)
