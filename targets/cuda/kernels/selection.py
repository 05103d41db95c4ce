"""Kernels of groups that find where the greatest or least element of a row is."""

from __future__ import annotations

import math

from targets.cpu.kernels.selection import Order
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import Kernel
from targets.cuda.kernels.rows import Rows
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import Expr, const
from tensorc.search.schedule import Schedule


def lower_arg(body: Graph, node: Node, gpu: Gpu, schedule: Schedule | None) -> Kernel:  # noqa: ARG001
    """First what the best key is, then the first place, or the last one, that has it."""
    (x,) = node.inputs
    shape, axis = static_shape(x.shape), node.attrs["axis"]
    outer, inner = shape[:axis], shape[axis:]
    if math.prod(inner) != shape[axis] or not x.type.size:
        raise UnsupportedError(f"{node.op} along an axis that is not the last has no kernel of rows")
    order = Order(x.dtype, greatest=node.op == "arg_max", nan_wins=True)
    rows = Rows(body, gpu, node, outer, inner, order.dtype, read=order.key)
    builder = rows.builder
    rows.keep_row()
    top = rows.fold("max", rows.at)
    nowhere = const(-1 if node.attrs["last"] else shape[axis], "int32")

    def place(j: Expr, k: Expr) -> Expr:
        return builder.keep(tir.select(tir.compare("equal", rows.at(j, k), top), tir.cast(j, "int32"), nowhere))

    found = rows.fold("max" if node.attrs["last"] else "min", place, "int32")

    def store() -> None:
        rows.group.elements.define(node.output, tir.cast(found, "int64"))
        reduced = [0] * (len(inner) if node.attrs["keepdims"] else len(inner) - 1)
        rows.group.store_outputs([*unravel(rows.row, outer), *reduced])

    builder.when(rows.team.rank < 1, lambda: rows.where_real(store))
    return rows.group.launched(rows.blocks)
