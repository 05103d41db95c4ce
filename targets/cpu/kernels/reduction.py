"""Kernels of groups around one reduction: sums and maxima, softmax, layer and RMS normalisation.

A task is one row (every element that is reduced to one). Elementwise work in front of the reduction is computed
while the row is first read; rows that are read several times are kept in the thread's scratch memory meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from targets.cpu.kernels.group import GroupKernel, Kernel, vector_blocks
from targets.cpu.machine import Machine
from targets.cpu.schedules import lanes_of
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Buffer, Expr, KernelBuilder, const

Combine = Callable[[KernelBuilder, Expr, Expr], Expr]


def _extremum(beyond: str) -> Combine:
    """As numpy has it: nan once one was met."""

    def combine(builder: KernelBuilder, old: Expr, new: Expr) -> Expr:
        old, new = builder.keep(old), builder.keep(new)
        taken = tir.compare(beyond, old, new)
        if is_float(tir.dtype_of(new)):
            taken = tir.logical("or", taken, tir.is_nan(new))
        return tir.select(taken, new, old)

    return combine


#: "max" and "min" are the machine's instructions, which may lose nan; "greatest" and "least" are exact.
COMBINE: dict[str, Combine] = {
    "sum": lambda _, a, b: a + b,
    "mean": lambda _, a, b: a + b,
    "max": lambda _, a, b: tir.maximum(a, b),
    "min": lambda _, a, b: tir.minimum(a, b),
    "greatest": _extremum("less"),
    "least": _extremum("greater"),
    "prod": lambda _, a, b: a * b,
}
_EXACT = {"max": "greatest", "min": "least"}


def gathering(node: Node) -> str:
    how = node.op.removeprefix("reduce_")
    return _EXACT.get(how, how)


def gathered_in(how: str, dtype: str) -> str:
    """The type that results are gathered in: one with room for them."""
    if dtype == "bool":
        return "int8"
    if dtype == "float16":
        return "float32"
    return "int64" if how == "mean" and not is_float(dtype) else dtype


def identity(how: str, dtype: str) -> Expr:
    if how in ("sum", "mean"):
        return const(0, dtype)
    if how == "prod":
        return const(1, dtype)
    lowest = how in ("max", "greatest")
    if is_float(dtype):
        return const(-math.inf if lowest else math.inf, dtype)
    limits = np.iinfo(dtype)
    return const(int(limits.min if lowest else limits.max), dtype)


def fold(builder: KernelBuilder, how: str, dtype: str, extent: int, lanes: int,
         element: Callable[[Expr], Expr]) -> Expr:  # fmt: skip
    """Reduce `element(j)` for j in [0, extent) to one number: a vector of partial results, then across it."""
    width = min(lanes, extent)
    combine = COMBINE[how]
    partial = builder.registers(dtype, width, "partial")
    with builder.vector(width) as lane:
        builder.store(partial, identity(how, dtype), lane)
    for first, count in vector_blocks(builder, extent, width):
        with builder.vector(count) as lane:
            builder.store(partial, combine(builder, builder.load(partial, lane), element(first + lane)), lane)
    total = builder.load(partial, 0)
    for lane in range(1, width):
        total = combine(builder, total, builder.load(partial, lane))
    return builder.keep(total)


def lower_reduction(body: Graph, node: Node, machine: Machine) -> Kernel:
    """Dispatch on the operator of the group's reduction."""
    if node.op.startswith("reduce_"):
        last = len(node.inputs[0].shape) - 1
        extents = static_shape(node.inputs[0].shape)
        if any(extents[axis] > 1 for axis in range(last + 1) if axis > max(node.attrs["axes"], default=-1)):
            return _reduce_columns(body, node, machine)
        return _reduce_rows(body, node, machine)
    if not is_float(node.output.dtype) or node.output.dtype == "float64":
        raise UnsupportedError(f"{node.op} of {node.output.dtype} is not lowered")
    if node.op in ("softmax", "log_softmax"):
        return _softmax(body, node, machine)
    return _normalize(body, node, machine)


class Axes:
    """Which axes of a reduction's input are kept and which go, and the index of an element from both parts."""

    def __init__(self, shape: Sequence[int], reduced: Sequence[int], keepdims: bool):
        self.shape = tuple(shape)
        self.reduced = sorted(reduced)
        self.kept = [axis for axis in range(len(self.shape)) if axis not in self.reduced]
        self.keepdims = keepdims

    @staticmethod
    def of(node: Node) -> Axes:
        return Axes(static_shape(node.inputs[0].shape), node.attrs["axes"], bool(node.attrs["keepdims"]))

    def extents(self, axes: Sequence[int]) -> list[int]:
        return [self.shape[axis] for axis in axes]

    def index(self, kept: Sequence[Expr], reduced: Sequence[Expr]) -> list[Expr]:
        index: list[Expr] = [0] * len(self.shape)
        for axis, i in zip([*self.kept, *self.reduced], [*kept, *reduced], strict=True):
            index[axis] = i
        return index

    def output_index(self, kept: Sequence[Expr]) -> list[Expr]:
        return self.index(kept, [0] * len(self.reduced)) if self.keepdims else list(kept)


def _reduce_rows(body: Graph, node: Node, machine: Machine) -> Kernel:
    """The last axis is reduced: vectors along it."""
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    axes = Axes.of(node)
    (x,) = node.inputs
    how = gathering(node)
    wide = gathered_in(how, x.dtype)
    extent = math.prod(axes.extents(axes.reduced))
    kept_extents = axes.extents(axes.kept)
    with builder.tasks() as task:
        kept = unravel(task, kept_extents)

        def element(j: Expr) -> Expr:
            index = axes.index(kept, unravel(j, axes.extents(axes.reduced)))
            return tir.cast(elements.evaluate(x, index), wide)

        total = fold(builder, how, wide, extent, lanes_of(machine, wide), element)
        elements.define(node.output, finished(how, total, extent, wide, x.dtype))
        group.store_outputs(axes.output_index(kept))
    return group.finish(math.prod(kept_extents))


def finished(how: str, total: Expr, count: int, wide: str, dtype: str) -> Expr:
    """The result, of type `dtype`, from what was gathered in type `wide`."""
    if how == "mean":
        divided = total * const(1 / count, wide) if is_float(wide) else tir.truncated_div(total, const(count, wide))
        return tir.cast(divided, dtype)
    return tir.compare("not_equal", total, const(0, wide)) if dtype == "bool" else tir.cast(total, dtype)


def _reduce_columns(body: Graph, node: Node, machine: Machine) -> Kernel:
    """The last axis is kept: vectors along it, one serial loop over what is reduced."""
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    axes = Axes.of(node)
    (x,) = node.inputs
    how = gathering(node)
    wide = gathered_in(how, x.dtype)
    combine = COMBINE[how]
    reduced_extents = axes.extents(axes.reduced)
    extent = math.prod(reduced_extents)
    *outer_extents, inner = axes.extents(axes.kept)
    with builder.tasks() as task:
        outer = unravel(task, outer_extents)
        for first, width in vector_blocks(builder, inner, lanes_of(machine, wide)):
            partial = builder.registers(wide, width, "partial")
            with builder.vector(width) as lane:
                builder.store(partial, identity(how, wide), lane)
            with builder.serial(extent) as j:
                reduced = unravel(j, reduced_extents)
                with builder.vector(width) as lane:
                    element = elements.evaluate(x, axes.index([*outer, first + lane], reduced))
                    builder.store(partial, combine(builder, builder.load(partial, lane), tir.cast(element, wide)), lane)
            with builder.vector(width) as lane:
                total = builder.load(partial, lane)
                elements.define(node.output, finished(how, total, extent, wide, x.dtype))
                group.store_outputs(axes.output_index([*outer, first + lane]))
    return group.finish(math.prod(outer_extents))


class _Rows:
    """The rows of a normalisation over trailing axes, the one at hand kept in scratch memory."""

    def __init__(self, body: Graph, node: Node, machine: Machine):
        self.group = GroupKernel(body, machine)
        self.builder = self.group.builder
        self.node = node
        self.x = node.inputs[0]
        self.shape = static_shape(self.x.shape)
        axis = node.attrs["axis"]
        self.outer, self.inner = self.shape[:axis], self.shape[axis:]
        self.rows, self.extent = math.prod(self.outer), math.prod(self.inner)
        self.lanes = lanes_of(machine, "float32")
        self.row: Buffer = self.group.scratch("float32", self.extent)

    def index(self, task: Expr, j: Expr) -> list[Expr]:
        return [*unravel(task, self.outer), *unravel(j, self.inner)]

    def read(self, task: Expr, j: Expr) -> Expr:
        """The input's element, kept in the row."""
        element = self.builder.keep(tir.cast(self.group.elements.evaluate(self.x, self.index(task, j)), "float32"))
        self.builder.store(self.row, element, j)
        return element

    def kept(self, j: Expr) -> Expr:
        return self.builder.load(self.row, j)

    def fold(self, how: str, element: Callable[[Expr], Expr]) -> Expr:
        return fold(self.builder, how, "float32", self.extent, self.lanes, element)

    def write(self, task: Expr, value: Callable[[Expr], Expr]) -> None:
        """Store the group's outputs, the normalised element at j being `value(j)`."""
        for first, width in vector_blocks(self.builder, self.extent, self.lanes):
            with self.builder.vector(width) as lane:
                j = first + lane
                result = tir.cast(value(j), self.x.dtype)
                self.group.elements.define(self.node.output, result)
                self.group.store_outputs(self.index(task, j))


def _softmax(body: Graph, node: Node, machine: Machine) -> Kernel:
    if any(extent != 1 for extent in static_shape(node.output.shape)[node.attrs["axis"] + 1 :]):
        raise UnsupportedError("softmax along an axis that is not the last is not lowered")
    rows = _Rows(body, node, machine)
    builder, exp = rows.builder, rows.group.elements.math.exp
    with builder.tasks() as task:
        top = rows.fold("max", lambda j: rows.read(task, j))

        def shifted(j: Expr) -> Expr:
            power = builder.keep(exp(rows.kept(j) - top))
            if node.op == "softmax":
                builder.store(rows.row, power, j)
            return power

        total = rows.fold("sum", shifted)
        if node.op == "softmax":
            scale = builder.keep(const(1, "float32") / total)
            rows.write(task, lambda j: rows.kept(j) * scale)
        else:
            # One after the other: their sum has the roundings of the maximum, which may be much the greater.
            log = builder.keep(rows.group.elements.math.log(total))
            rows.write(task, lambda j: rows.kept(j) - top - log)
    return rows.group.finish(rows.rows)


def _normalize(body: Graph, node: Node, machine: Machine) -> Kernel:
    """Layer norm in two passes over the kept row (the variance of centred values: exact), RMS norm in one."""
    rows = _Rows(body, node, machine)
    builder, elements = rows.builder, rows.group.elements
    _, *parameters = node.inputs
    share = const(1 / rows.extent, "float32")
    epsilon = const(node.attrs["epsilon"], "float32")
    with builder.tasks() as task:
        if node.op == "layer_norm":
            mean = builder.keep(rows.fold("sum", lambda j: rows.read(task, j)) * share)

            def square(j: Expr) -> Expr:
                centred = builder.keep(rows.kept(j) - mean)
                return centred * centred

            total = rows.fold("sum", square)
        else:
            mean = const(0, "float32")

            def square(j: Expr) -> Expr:
                element = rows.read(task, j)
                return element * element

            total = rows.fold("sum", square)
        factor = builder.keep(const(1, "float32") / tir.intrinsic("sqrt", total * share + epsilon))

        def normal(j: Expr) -> Expr:
            inner = unravel(j, rows.inner)
            value = (rows.kept(j) - mean) * factor
            value = value * tir.cast(elements.evaluate(parameters[0], inner), "float32")
            if len(parameters) > 1:
                value = value + tir.cast(elements.evaluate(parameters[1], inner), "float32")
            return value

        rows.write(task, normal)
    return rows.group.finish(rows.rows)
