"""Few rows by packed constant weights: what takes time is to read the weights, once.

Lanes lie along the reduction: a warp's 32 steps of a panel of 8 columns are neighbours in memory. A block's warps take
turns along the reduction; what they have summed up meets in shared memory, where a thread takes each result.
"""

from __future__ import annotations

import math

from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.operands import CHUNK_BYTES
from targets.cuda.schedules import Extents, GemvSchedule, gemv_resident, gemv_schedule
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Expr, const

_PANEL = 8
_TYPES = ("float32", "float16", "bfloat16")


def lower_gemv(body: Graph, node: Node, gpu: Gpu, given: GemvSchedule | None = None) -> Kernel:
    """The kernel of a `matmul_packed`; sums are in float32."""
    x, w = node.inputs
    if x.dtype not in _TYPES or w.dtype not in _TYPES or static_shape(w.shape)[2] != _PANEL:
        raise UnsupportedError(f"no warps add up {x.dtype} by {w.dtype}")
    *lead, columns = static_shape(node.output.shape)
    rows, (panels, depth, _) = math.prod(lead), static_shape(w.shape)
    schedule = given or gemv_schedule(Extents(1, rows, columns, depth), gpu)
    threads, wide = 32 * schedule.warps, schedule.panels * _PANEL
    group = CudaGroup(body, gpu, threads)
    builder, weights = group.builder, group.buffers[w]
    chunk = CHUNK_BYTES // int(numpy_dtype(w.dtype).itemsize)
    size = rows * wide
    acc = builder.registers("float32", size)
    first = builder.bind(builder.block * schedule.panels)

    def clear(i: Expr) -> None:
        builder.store(acc, const(0.0, "float32"), i)

    def load(k: Expr) -> tuple[tir.Buffer, list[list[Expr]]]:
        """A step's weights and elements of x."""
        held = builder.registers(w.dtype, wide, "weights")
        for panel in range(schedule.panels):
            # Beyond the last panel the last one is read again, and nothing is stored.
            number = tir.minimum(first + panel, panels - 1) if panels % schedule.panels else first + panel
            for part in range(0, _PANEL, chunk):
                place = builder.address(weights, (number * depth + k) * _PANEL + part)
                builder.call(f"tc_load<{chunk}>", builder.address(held, panel * _PANEL + part), place)
        elements = [[tir.cast(group.elements.evaluate(x, [*unravel(row, lead), k]), "float32")] for row in range(rows)]
        return held, [[builder.keep(e) for e in row] for row in elements]

    def add(held: tir.Buffer, elements: list[list[Expr]]) -> None:
        for column in range(wide):
            weight = builder.keep(convert(builder.keep, builder.load(held, column), w.dtype, "float32"))
            for row in range(rows):
                at = row * wide + column
                builder.store(acc, builder.load(acc, at) + elements[row][0] * weight, at)

    with builder.unrolled(size) as i:
        clear(i)
    whole = depth // (threads * schedule.unroll)
    with builder.serial(whole, name="step") as step:
        if whole:
            begin = step * (threads * schedule.unroll) + builder.thread
            steps = [load(builder.bind(begin + number * threads)) for number in range(schedule.unroll)]
            for held, elements in steps:
                add(held, elements)
    rest = depth - whole * threads * schedule.unroll
    for number in range(-(-rest // threads)):
        k = builder.bind(whole * (threads * schedule.unroll) + number * threads + builder.thread)
        if (number + 1) * threads <= rest:
            add(*load(k))
        else:
            builder.when(k < depth, lambda k=k: add(*load(k)))  # type: ignore[misc]

    builder.call(f"tc_add_lanes<{size}>", builder.address(acc, 0))
    shared = builder.shared("float32", schedule.warps * size, "sums")
    warp, lane = (builder.bind(part(builder.thread, 32)) for part in (tir.floor_div, tir.floor_mod))

    def leave() -> None:
        with builder.unrolled(size) as i:
            builder.store(shared, builder.load(acc, i), warp * size + i)

    builder.when(tir.compare("equal", lane, 0), leave)
    builder.sync()
    for number in range(-(-size // threads)):
        result = builder.bind(builder.thread + number * threads)
        column = builder.bind(first * _PANEL + tir.floor_mod(result, wide))

        def finish(result: Expr = result, column: Expr = column) -> None:
            total = builder.registers("float32", 1, "total")
            builder.store(total, const(0.0, "float32"), 0)
            with builder.unrolled(schedule.warps) as part:
                builder.store(total, builder.load(total, 0) + builder.load(shared, part * size + result), 0)
            group.elements.define(node.output, tir.cast(builder.load(total, 0), node.output.dtype))
            row = builder.bind(tir.floor_div(result, wide))
            group.store_outputs([*unravel(row, lead), column])

        builder.when(tir.logical("and", result < size, column < columns), finish)
    return group.launched(-(-panels // schedule.panels), schedule, gemv_resident(schedule, rows, gpu))
