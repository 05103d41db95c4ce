"""Scatter: a copy of the data, into which the updates go one after the other.

A task is a batch, or some of its columns: two updates may meet in a row, never in two tasks. Without work behind it the
result is made where it is to be, else in the thread's scratch memory.
"""

from __future__ import annotations

from targets.cpu.kernels.group import GroupKernel, Kernel, vector_blocks
from targets.cpu.machine import Machine
from targets.cpu.schedules import lanes_of
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float
from tensorc.lowering import tir
from tensorc.lowering.indexing import ravel, unravel
from tensorc.lowering.tir import Expr, KernelBuilder, const

#: The columns of a task: indices are read once for each task, which is little beside that many elements.
_LEAST_COLUMNS, _MOST_COLUMNS = 64, 512


def lower_scatter(body: Graph, node: Node, machine: Machine) -> Kernel:
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    data, indices, updates = node.inputs
    batches, rows, columns = static_shape(data.shape)
    count = static_shape(updates.shape)[1]
    lanes = lanes_of(machine, data.dtype)
    piece = _piece(columns)
    pieces = columns // piece
    in_place = len(body.nodes) == 1
    target = group.outputs[0] if in_place else group.scratch(data.dtype, rows * piece)
    stored = "int8" if data.dtype == "bool" else data.dtype
    with builder.tasks() as task:
        batch, number = (builder.bind(i) for i in unravel(task, [batches, pieces]))

        def place(row: Expr, column: Expr) -> Expr:
            if in_place:
                return ravel([batch, row, number * piece + column], [batches, rows, columns])
            return row * piece + column

        # With all columns in hand a row's end is the next one's beginning: short rows are copied as one long one.
        lines = [1, rows * piece] if pieces == 1 else [rows, piece]
        with builder.serial(lines[0], name="row") as line:
            for first, width in vector_blocks(builder, lines[1], lanes):
                with builder.vector(width) as lane:
                    row, column = unravel(line * lines[1] + first + lane, [rows, piece])
                    element = elements.evaluate(data, [batch, row, number * piece + column])
                    builder.store(target, tir.cast(element, stored), place(row, column))
        with builder.serial(count, name="update") as update:
            index = builder.keep(elements.evaluate(indices, [batch, update]))

            def apply() -> None:
                row = builder.bind(tir.cast(index, "int32"))
                for first, width in vector_blocks(builder, piece, lanes):
                    with builder.vector(width) as lane:
                        column = first + lane
                        new = elements.evaluate(updates, [batch, update, number * piece + column])
                        new = builder.keep(tir.cast(new, stored))
                        if node.attrs["reduction"] != "none":
                            old = builder.keep(builder.load(target, place(row, column)))
                            new = _joined(builder, node.attrs["reduction"], old, new, data.dtype)
                        builder.store(target, new, place(row, column))

            at_least = tir.compare("greater_equal", index, const(0, indices.dtype))
            builder.when(tir.logical("and", at_least, tir.compare("less", index, const(rows, indices.dtype))), apply)
        if not in_place:
            with builder.serial(rows, name="row") as row:
                for first, width in vector_blocks(builder, piece, lanes):
                    with builder.vector(width) as lane:
                        element = builder.load(target, place(row, first + lane))
                        if data.dtype == "bool":
                            element = tir.compare("not_equal", element, const(0, "int8"))
                        elements.define(node.output, element)
                        group.store_outputs([batch, row, number * piece + first + lane])
    return group.finish(batches * pieces)


def _piece(columns: int) -> int:
    """How many columns a task takes: a divisor of all, so that tasks are alike."""
    return next((n for n in range(_MOST_COLUMNS, _LEAST_COLUMNS - 1, -1) if columns % n == 0), columns)


def _joined(builder: KernelBuilder, how: str, old: Expr, new: Expr, dtype: str) -> Expr:
    if how == "add":
        return builder.keep(old + new)
    if how == "mul":
        return builder.keep(old * new)
    beyond = tir.compare("less" if how == "max" else "greater", old, new)
    if is_float(dtype):  # nan stays and comes in, which a comparison would prevent
        beyond = tir.logical("or", beyond, tir.is_nan(new))
    return tir.select(beyond, new, old)
