"""Kernels of groups around a reduction whose last axis stays: sums over pixels, rows and batches.

Threads go along the axes that stay, so that neighbours read neighbours. Where those are few, several threads share
what is reduced, and combine what they found in shared memory; where even that leaves the GPU empty, several blocks do,
of which the last one combines what all have found. The order is always the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from targets.cpu.kernels.reduction import COMBINE, Axes, finished, gathered_in, gathering, identity
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from targets.cuda.kernels.rows import lower_reduce_rows
from targets.cuda.kernels.team import WARP, power_of_two
from tensorc.ir import Graph, Node
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Buffer, Expr
from tensorc.lowering.wide import WIDEST
from tensorc.search.schedule import Schedule

_THREADS = 128
#: Threads of a block that share what is reduced, at most.
_MOST_SHARES = 64
#: Elements that a thread has at least where several blocks share what is reduced.
_WORTH_A_BLOCK = 16


def lower_reduce(body: Graph, node: Node, gpu: Gpu, schedule: Schedule | None) -> Kernel:  # noqa: ARG001
    axes = Axes.of(node)
    if any(axes.shape[axis] > 1 for axis in axes.kept if axis > max(axes.reduced, default=-1)):
        return lower_columns(body, node, gpu, axes, gathering(node))
    return lower_reduce_rows(body, node, gpu)


def lower_columns(body: Graph, node: Node, gpu: Gpu, axes: Axes, how: str) -> Kernel:
    """`how` as in `COMBINE`, along `axes` of the first operand."""
    (x,) = node.inputs
    kept_extents, reduced_extents = axes.extents(axes.kept), axes.extents(axes.reduced)
    kept, extent = math.prod(kept_extents), math.prod(reduced_extents)
    if not kept:
        return CudaGroup(body, gpu, WARP).launched(1)
    columns = _Columns(body, gpu, how, gathered_in(how, x.dtype), kept, extent, _lanes(axes, x.dtype))
    group, builder, elements = columns.group, columns.builder, columns.group.elements

    def element(j: Expr, at: Expr) -> Expr:
        return tir.cast(elements.evaluate(x, axes.index(unravel(at, kept_extents), unravel(j, reduced_extents))), wide)

    def store(total: Expr, at: Expr) -> None:
        elements.define(node.output, finished(how, total, extent, wide, x.dtype))
        group.store_outputs(axes.output_index(unravel(at, kept_extents)))

    wide = columns.dtype
    blocks, pieces = columns.blocks, _pieces(columns.blocks, extent // columns.shares, gpu)
    if pieces == 1:
        columns.reduce(builder.block, 0, extent, element, store)
        return group.launched(blocks)

    found = group.scratch(wide, pieces * kept)
    counter = builder.parameter("counters", "int32", 1)
    group.counters = 1
    piece = builder.bind(tir.floor_div(builder.block, blocks), "piece")
    each = -(-extent // pieces)
    count = builder.bind(tir.maximum(tir.minimum(extent - piece * each, each), 0), "count")
    columns.reduce(
        tir.floor_mod(builder.block, blocks), piece * each, count, element,
        lambda total, at: builder.store(found, total, piece * kept + at),
    )  # fmt: skip
    last = builder.value("int32", "tc_is_last", builder.address(counter), blocks * pieces)

    def combine() -> None:
        with builder.serial(blocks, name="block") as block:
            columns.reduce(block, 0, pieces, lambda j, at: builder.load(found, j * kept + at), store)
            builder.sync()  # the next columns' numbers go where these are read

    builder.when(last > 0, combine)
    return group.launched(blocks * pieces)


class _Columns:
    """The threads of a block: `columns` vectors of what stays, each for `shares` threads."""

    def __init__(self, body: Graph, gpu: Gpu, how: str, dtype: str, kept: int, extent: int, lanes: int):
        self.how, self.dtype, self.kept, self.lanes = how, dtype, kept, lanes
        self.vectors = kept // lanes
        self.shares = _shares(self.vectors, extent, gpu)
        self.columns = max(min(_THREADS // self.shares, power_of_two(self.vectors)), WARP // self.shares, 1)
        self.blocks = -(-self.vectors // self.columns)
        self.group = CudaGroup(body, gpu, self.columns * self.shares)
        self.builder = builder = self.group.builder
        self.share = builder.bind(tir.floor_div(builder.thread, self.columns), "share")
        self.column = builder.bind(tir.floor_mod(builder.thread, self.columns), "column")

    def reduce(self, block: Expr, begin: Expr, count: Expr, element: Callable[[Expr, Expr], Expr],
               store: Callable[[Expr, Expr], None]) -> None:  # fmt: skip
        """The columns of one block. Element(j, at) is that of column `at`, `j` one of `count` from `begin` on; calls
        store(total, at)."""
        builder, lanes, shares = self.builder, self.lanes, self.shares
        column = builder.bind(block * self.columns + self.column, "column")
        inside = column
        if self.vectors % self.columns:
            inside = builder.bind(tir.minimum(column, self.vectors - 1), "column")
        partial = builder.registers(self.dtype, lanes, "partial")
        with builder.vector(lanes) as lane:
            builder.store(partial, identity(self.how, self.dtype), lane)

        def add(j: Expr) -> None:
            with builder.vector(lanes) as lane:
                value = element(begin + j, inside * lanes + lane)
                builder.store(partial, self._joined(builder.load(partial, lane), value), lane)

        if isinstance(count, int):
            steps, rest = divmod(count, shares)
            if steps:
                with builder.serial(steps, name="step") as step:
                    add(step * shares + self.share)
            if rest:
                builder.when(self.share < rest, lambda: add(steps * shares + self.share))
        else:
            with builder.serial(tir.floor_div(count - self.share + shares - 1, shares), name="step") as step:
                add(step * shares + self.share)

        if shares > 1:
            self._together(block, partial, store)
            return

        def store_vector() -> None:
            with builder.vector(lanes) as lane:
                store(builder.load(partial, lane), inside * lanes + lane)

        builder.when(column < self.vectors, store_vector)

    def _together(self, block: Expr, partial: Buffer, store: Callable[[Expr, Expr], None]) -> None:
        """What those have found who share columns; a thread for each column now, or several columns in turn."""
        builder, lanes, shares = self.builder, self.lanes, self.shares
        width = self.columns * lanes
        found = builder.shared(self.dtype, shares * width, "found")
        with builder.vector(lanes) as lane:
            builder.store(found, builder.load(partial, lane), self.share * width + self.column * lanes + lane)
        builder.sync()
        with builder.serial(-(-width // builder.threads), name="turn") as turn:
            number = builder.bind(turn * builder.threads + builder.thread)
            at = builder.bind(block * width + number)

            def total() -> None:
                one = builder.registers(self.dtype, 1, "one")
                builder.store(one, builder.load(found, number), 0)
                with builder.serial(shares - 1, 1, name="share") as other:
                    more = builder.load(found, other * width + number)
                    builder.store(one, self._joined(builder.load(one, 0), more), 0)
                store(builder.load(one, 0), at)

            builder.when(tir.logical("and", number < width, at < self.kept), total)

    def _joined(self, a: Expr, b: Expr) -> Expr:
        return COMBINE[self.how](self.builder, a, b)


def _lanes(axes: Axes, dtype: str) -> int:
    """As many as are one move, and lie side by side on the last axis that stays."""
    run = next((axes.shape[axis] for axis in reversed(axes.kept) if axes.shape[axis] != 1), 1)
    return math.gcd(run, WIDEST // numpy_dtype(dtype).itemsize)


def _shares(vectors: int, extent: int, gpu: Gpu) -> int:
    """As many as fill the GPU, while each has two elements at least."""
    shares = 1
    while shares < _MOST_SHARES and 4 * shares <= extent and vectors * shares < gpu.multiprocessors * gpu.threads // 4:
        shares *= 2
    return shares


def _pieces(blocks: int, steps: int, gpu: Gpu) -> int:
    """Blocks that share the same columns."""
    if 4 * blocks > gpu.multiprocessors or steps < 4 * _WORTH_A_BLOCK:
        return 1
    return min(steps // _WORTH_A_BLOCK, gpu.multiprocessors // blocks)
