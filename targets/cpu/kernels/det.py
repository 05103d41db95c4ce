"""Determinants: elimination with the largest element of each column as its pivot. A task is one matrix.

The matrix is copied to scratch memory in float64, so that float32 results are rounded once.
"""

from __future__ import annotations

import math

from targets.cpu.kernels.group import GroupKernel, Kernel
from targets.cpu.machine import Machine
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Expr, const

_TYPE = "float64"


def lower_det(body: Graph, node: Node, machine: Machine) -> Kernel:
    (x,) = node.inputs
    *batch, size, _ = static_shape(x.shape)
    group = GroupKernel(body, machine)
    builder = group.builder
    matrix = group.scratch(_TYPE, max(size * size, 1))

    def at(row: Expr, column: Expr) -> Expr:
        return builder.load(matrix, row * size + column)

    with builder.tasks() as task:
        where = unravel(task, batch)
        product, largest = builder.registers(_TYPE, 1, "product"), builder.registers(_TYPE, 1, "largest")
        row = builder.registers("int32", 1, "row")
        with builder.serial(size) as i, builder.serial(size) as j:
            element = tir.cast(group.elements.evaluate(x, [*where, i, j]), _TYPE)
            builder.store(matrix, element, i * size + j)
        builder.store(product, const(1, _TYPE), 0)
        with builder.serial(size, name="k") as k:
            builder.store(largest, const(-1, _TYPE), 0)
            builder.store(row, tir.cast(k, "int32"), 0)
            with builder.serial(size - k, k) as i:
                here = builder.keep(tir.intrinsic("abs", at(i, k)))

                def take(here: Expr = here, i: Expr = i) -> None:
                    builder.store(largest, here, 0)
                    builder.store(row, i, 0)

                builder.when(here > builder.load(largest, 0), take)
            best = builder.load(row, 0)
            with builder.serial(size) as j:
                upper = builder.keep(at(k, j))
                builder.store(matrix, at(best, j), k * size + j)
                builder.store(matrix, upper, best * size + j)
            pivot = builder.keep(at(k, k))
            swapped = tir.compare("not_equal", best, tir.cast(k, "int32"))
            turned = tir.select(swapped, const(0, _TYPE) - pivot, pivot)
            builder.store(product, builder.load(product, 0) * turned, 0)
            # A column of zeros makes the product zero, whatever follows: nothing is divided by it.
            divisor = builder.keep(tir.select(tir.compare("equal", pivot, const(0, _TYPE)), const(1, _TYPE), pivot))
            with builder.serial(size - 1 - k, k + 1) as i:
                factor = builder.keep(at(i, k) / divisor)
                with builder.serial(size) as j:
                    builder.store(matrix, at(i, j) - factor * at(k, j), i * size + j)
        group.elements.define(node.output, tir.cast(builder.load(product, 0), x.dtype))
        group.store_outputs(where)
    return group.finish(math.prod(batch))
