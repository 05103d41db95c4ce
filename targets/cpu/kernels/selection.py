"""Kernels of groups that find elements by their order: the index of the greatest or least one, and of the k first.

Elements are compared by integer keys that are ordered as they are: nan has a place among them, zeros of either sign are
equal, and no comparison of floats is left for a simplifier to turn around.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from targets.cpu.kernels.group import GroupKernel, Kernel, vector_blocks
from targets.cpu.machine import Machine
from targets.cpu.schedules import lanes_of
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float, numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Buffer, Expr, KernelBuilder, const

#: A row is cut into lanes where each gets this many elements at least.
_LANE_ELEMENTS = 4


@dataclass(frozen=True)
class Order:
    """Keys of elements of type `element`: the greater the key, the better the element.

    `greatest`: whether great elements are good ones. `nan_wins`: whether nan is the best, or is as the greatest.
    """

    element: str
    greatest: bool
    nan_wins: bool = False

    @property
    def dtype(self) -> str:
        wide = numpy_dtype(self.element).itemsize > 4 or self.element == "uint32"
        return "int64" if wide else "int32"

    def key(self, builder: KernelBuilder, x: Expr) -> Expr:
        if not is_float(self.element):
            return self._turned(builder.keep(self._integer(builder, x)))
        bits, magnitude = self.dtype, np.iinfo(self.dtype).max
        x = builder.keep(tir.cast(x, "float64" if bits == "int64" else "float32"))
        held = builder.keep(tir.reinterpret(x, bits))
        size = builder.keep(tir.bitwise_and(held, int(magnitude)))
        # Sign and magnitude to two's complement, under which both zeros are 0.
        ordered = tir.select(tir.compare("less", held, const(0, bits)), const(0, bits) - size, size)
        best = const(int(magnitude), bits)
        if self.nan_wins:
            return builder.keep(tir.select(tir.is_nan(x), best, self._turned(builder.keep(ordered))))
        return self._turned(builder.keep(tir.select(tir.is_nan(x), best, builder.keep(ordered))))

    def _turned(self, key: Expr) -> Expr:
        return key if self.greatest else const(-1, self.dtype) - key  # which does not overflow, as -key does

    def _integer(self, builder: KernelBuilder, x: Expr) -> Expr:
        if self.element == "bool":
            x = tir.cast(x, "int8")
        if self.element != "uint64":
            return tir.cast(x, self.dtype)
        top = -(1 << 63)
        # Kept before, too: TVM takes the bits of a constant 0 for those of a pointer.
        held = builder.keep(tir.reinterpret(builder.keep(x), "int64"))
        upper, lower = tir.bitwise_and(held, (1 << 63) - 1), tir.bitwise_or(held, top)
        return tir.select(tir.compare("less", held, const(0, "int64")), upper, lower)


@dataclass(frozen=True)
class _Axis:
    """An axis of `extent` elements, and the shapes before and behind it."""

    outer: tuple[int, ...]
    extent: int
    inner: tuple[int, ...]

    @staticmethod
    def of(node: Node) -> _Axis:
        shape, axis = static_shape(node.inputs[0].shape), node.attrs["axis"]
        return _Axis(shape[:axis], shape[axis], shape[axis + 1 :])


def lower_arg(body: Graph, node: Node, machine: Machine) -> Kernel:
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    (x,) = node.inputs
    axis = _Axis.of(node)
    order = Order(x.dtype, greatest=node.op == "arg_max", nan_wins=True)
    beats = "greater_equal" if node.attrs["last"] else "greater"
    lanes = lanes_of(machine, order.dtype)
    with builder.tasks() as task:
        outer = unravel(task, axis.outer)

        def scan(width: int, steps: int, element: Callable[[Expr, Expr], Expr]) -> tuple[Buffer, Buffer]:
            """The best key of `element(step, lane)` over the steps, and its step, for each lane."""
            best, found = builder.registers(order.dtype, width, "best"), builder.registers("int32", width, "found")
            with builder.vector(width) as lane:
                builder.store(best, order.key(builder, element(0, lane)), lane)
                builder.store(found, const(0, "int32"), lane)
            if steps > 1:
                with builder.serial(steps - 1, 1) as step, builder.vector(width) as lane:
                    update(best, found, lane, order.key(builder, element(step, lane)), step)
            return best, found

        def update(best: Buffer, found: Buffer, lane: Expr, key: Expr, place: Expr) -> None:
            key, known = builder.keep(key), builder.keep(builder.load(best, lane))
            at = builder.keep(builder.load(found, lane))
            better = tir.compare(beats, key, known)
            builder.store(best, tir.select(better, key, known), lane)
            builder.store(found, tir.select(better, tir.cast(place, "int32"), at), lane)

        def write(place: Expr, inner: list[Expr]) -> None:
            elements.define(node.output, tir.cast(place, "int64"))
            group.store_outputs([*outer, *([0] if node.attrs["keepdims"] else []), *inner])

        if math.prod(axis.inner) > 1:
            for first, width in vector_blocks(builder, math.prod(axis.inner), lanes):

                def column(step: Expr, lane: Expr, first: Expr = first) -> Expr:
                    return elements.evaluate(x, [*outer, step, *unravel(first + lane, axis.inner)])

                _, found = scan(width, axis.extent, column)
                with builder.vector(width) as lane:
                    write(builder.load(found, lane), unravel(first + lane, axis.inner))
        else:
            # Each lane has a run of neighbours, or the first of equal ones would be hard to tell across lanes.
            cut = lanes if axis.extent >= lanes * _LANE_ELEMENTS else 1
            run = axis.extent // cut
            none = [0] * len(axis.inner)

            def row(step: Expr, lane: Expr) -> Expr:
                return elements.evaluate(x, [*outer, lane * run + step, *none])

            best, found = scan(cut, run, row)
            top, place = builder.registers(order.dtype, 1, "top"), builder.registers("int32", 1, "place")
            builder.store(top, builder.load(best, 0), 0)
            builder.store(place, builder.load(found, 0), 0)
            for lane in range(1, cut):
                update(top, place, 0, builder.load(best, lane), builder.load(found, lane) + lane * run)
            rest = axis.extent - cut * run
            if rest:
                with builder.serial(rest, cut * run) as step:
                    update(top, place, 0, order.key(builder, elements.evaluate(x, [*outer, step, *none])), step)
            write(builder.load(place, 0), none)
    return group.finish(math.prod(axis.outer))


def lower_top_k(body: Graph, node: Node, machine: Machine) -> Kernel:
    """A heap of the k best elements that were met, the worst on top, which is sorted in the end: O(n log k).

    The thread's scratch memory holds the row's keys and behind them the heap, which is of places in the row.
    """
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    (x,) = node.inputs
    axis = _Axis.of(node)
    k, extent = node.attrs["k"], axis.extent
    order = Order(x.dtype, greatest=bool(node.attrs["largest"]))
    lanes = lanes_of(machine, order.dtype)
    scratch = group.scratch(order.dtype, extent + k)
    split = len(axis.outer)

    def entry(i: Expr) -> Expr:
        return builder.keep(builder.load(scratch, extent + i))

    def put(i: Expr, place: Expr) -> None:
        builder.store(scratch, tir.cast(place, order.dtype), extent + i)

    def worse(a: Expr, b: Expr) -> Expr:
        """Whether the element at place a comes after the one at b."""
        of_a, of_b = (builder.keep(builder.load(scratch, tir.cast(place, "int32"))) for place in (a, b))
        later = tir.logical("and", tir.compare("equal", of_a, of_b), tir.compare("greater", a, b))
        return tir.logical("or", tir.compare("less", of_a, of_b), later)

    def sift(start: Expr, end: Expr) -> None:
        """Make a heap of entries [start, end) whose only fault may be the one at `start`."""
        hole = builder.registers("int32", 1, "hole")
        builder.store(hole, start, 0)
        with builder.serial(k.bit_length(), name="level"):
            at = builder.keep(builder.load(hole, 0))
            left = builder.keep(at * 2 + 1)

            def step() -> None:
                right = builder.keep(tir.minimum(left + 1, end - 1))
                child = builder.keep(tir.select(worse(entry(right), entry(left)), right, left))
                upper, lower = entry(at), entry(child)

                def swap() -> None:
                    put(at, lower)
                    put(child, upper)
                    builder.store(hole, child, 0)

                builder.when(worse(lower, upper), swap, lambda: builder.store(hole, end, 0))

            builder.when(left < end, step)

    with builder.tasks() as task:
        index = unravel(task, [*axis.outer, *axis.inner])
        for first, width in vector_blocks(builder, extent, lanes):
            with builder.vector(width) as lane:
                element = elements.evaluate(x, [*index[:split], first + lane, *index[split:]])
                builder.store(scratch, order.key(builder, element), first + lane)
        with builder.serial(k) as i:
            put(i, tir.cast(i, order.dtype))
        if k > 1:
            with builder.serial(k // 2) as i:
                sift(k // 2 - 1 - i, const(k, "int32"))
        if k < extent:
            with builder.serial(extent - k, k) as place:

                def replace() -> None:
                    put(0, place)
                    if k > 1:
                        sift(const(0, "int32"), const(k, "int32"))

                builder.when(worse(entry(0), tir.cast(place, order.dtype)), replace)
        if k > 1:
            with builder.serial(k - 1) as i:
                end = builder.keep(tir.cast(k - 1 - i, "int32"))
                worst, last = entry(0), entry(end)
                put(0, last)
                put(end, worst)
                sift(const(0, "int32"), end)
        for first, width in vector_blocks(builder, k, lanes):
            with builder.vector(width) as lane:
                place = builder.load(scratch, extent + first + lane)
                elements.define(node.output, tir.cast(place, "int64"))
                group.store_outputs([*index[:split], first + lane, *index[split:]])
    return group.finish(math.prod(axis.outer) * math.prod(axis.inner))
