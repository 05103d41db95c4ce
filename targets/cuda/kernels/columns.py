"""Kernels of groups around a reduction whose last axis stays: sums over pixels, rows and batches.

Threads go along the axes that stay, so that neighbours read neighbours. Where those are few, several threads share
what is reduced, and combine what they found in shared memory, in a fixed order.
"""

from __future__ import annotations

import math

from targets.cpu.kernels.reduction import COMBINE, Axes, finished, gathered_in, gathering, identity
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.rows import lower_reduce_rows
from targets.cuda.kernels.team import WARP, power_of_two
from tensorc.ir import Graph, Node
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Expr
from tensorc.lowering.wide import WIDEST
from tensorc.search.schedule import Schedule

_THREADS = 128
#: Threads that share what is reduced, at most.
_MOST_SHARES = 64


def lower_reduce(body: Graph, node: Node, gpu: Gpu, schedule: Schedule | None) -> Kernel:  # noqa: ARG001
    axes = Axes.of(node)
    if any(axes.shape[axis] > 1 for axis in axes.kept if axis > max(axes.reduced, default=-1)):
        return lower_columns(body, node, gpu, axes, gathering(node))
    return lower_reduce_rows(body, node, gpu)


def lower_columns(body: Graph, node: Node, gpu: Gpu, axes: Axes, how: str) -> Kernel:
    """`how` as in `COMBINE`, along `axes` of the first operand."""
    (x,) = node.inputs
    dtype = gathered_in(how, x.dtype)
    combine = COMBINE[how]
    kept_extents, reduced_extents = axes.extents(axes.kept), axes.extents(axes.reduced)
    kept, extent = math.prod(kept_extents), math.prod(reduced_extents)
    if not kept:
        return CudaGroup(body, gpu, WARP).launched(1)
    lanes = math.gcd(_run(axes), WIDEST // numpy_dtype(x.dtype).itemsize)
    vectors = kept // lanes
    shares = _shares(vectors, extent, gpu)
    columns = max(min(_THREADS // shares, power_of_two(vectors)), WARP // shares, 1)
    group = CudaGroup(body, gpu, columns * shares)
    builder, elements = group.builder, group.elements
    share = builder.bind(tir.floor_div(builder.thread, columns), "share")
    column = builder.bind(builder.block * columns + tir.floor_mod(builder.thread, columns), "column")
    whole = vectors % columns == 0
    inside = column if whole else builder.bind(tir.minimum(column, vectors - 1), "column")
    partial = builder.registers(dtype, lanes, "partial")
    with builder.vector(lanes) as lane:
        builder.store(partial, identity(how, dtype), lane)

    def add(j: Expr) -> None:
        reduced = [i if isinstance(i, int) else builder.bind(i) for i in unravel(j, reduced_extents)]
        with builder.vector(lanes) as lane:
            index = axes.index(unravel(inside * lanes + lane, kept_extents), reduced)
            element = tir.cast(elements.evaluate(x, index), dtype)
            builder.store(partial, combine(builder, builder.load(partial, lane), element), lane)

    def store(total: Expr, at: Expr) -> None:
        elements.define(node.output, finished(how, total, extent, dtype, x.dtype))
        group.store_outputs(axes.output_index(unravel(at, kept_extents)))

    steps, rest = divmod(extent, shares)
    if steps:
        with builder.serial(steps, name="step") as step:
            add(step * shares + share)
    if rest:
        builder.when(share < rest, lambda: add(steps * shares + share))

    if shares == 1:

        def store_vector() -> None:
            with builder.vector(lanes) as lane:
                store(builder.load(partial, lane), inside * lanes + lane)

        builder.when(column < vectors, store_vector)
        return group.launched(-(-vectors // columns))

    width = columns * lanes
    found = builder.shared(dtype, shares * width, "found")
    with builder.vector(lanes) as lane:
        place = share * width + tir.floor_mod(builder.thread, columns) * lanes + lane
        builder.store(found, builder.load(partial, lane), place)
    builder.sync()
    # A thread for each column now, or several columns one after the other.
    with builder.serial(-(-width // builder.threads), name="turn") as turn:
        number = builder.bind(turn * builder.threads + builder.thread)
        at = builder.bind(builder.block * width + number)

        def total() -> None:
            one = builder.registers(dtype, 1, "one")
            builder.store(one, builder.load(found, number), 0)
            with builder.serial(shares - 1, 1, name="share") as other:
                more = builder.load(found, other * width + number)
                builder.store(one, combine(builder, builder.load(one, 0), more), 0)
            store(builder.load(one, 0), at)

        builder.when(tir.logical("and", number < width, at < kept), total)
    return group.launched(-(-vectors // columns))


def _run(axes: Axes) -> int:
    """Elements that stay and lie side by side, as the last such axis has them."""
    return next((axes.shape[axis] for axis in reversed(axes.kept) if axes.shape[axis] != 1), 1)


def _shares(vectors: int, extent: int, gpu: Gpu) -> int:
    """As many as fill the GPU, while each has two elements at least."""
    shares = 1
    while shares < _MOST_SHARES and 4 * shares <= extent and vectors * shares < gpu.multiprocessors * gpu.threads // 4:
        shares *= 2
    return shares
