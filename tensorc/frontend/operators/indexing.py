"""Operators that pick elements by index."""

from __future__ import annotations

import numpy as np

from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.limits import check_computed
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value
from tensorc.ir.types import TensorType, is_float


@operator("Gather")
def _gather(call: Call) -> Value:
    x = call.input(0)
    return call("gather", x, call.input(1), axis=axis_of(call.attr("axis", 0), len(x.shape)))


@operator("GatherElements")
def _gather_elements(call: Call) -> Value:
    x = call.input(0)
    return call("gather_elements", x, call.input(1), axis=axis_of(call.attr("axis", 0), len(x.shape)))


@operator("GatherND")
def _gather_nd(call: Call) -> Value:
    return call("gather_nd", call.input(0), call.input(1), batch_dims=call.attr("batch_dims", 0))


@operator("Trilu")
def _trilu(call: Call) -> Value:
    x = call.input(0)
    diagonal = 0 if call.optional(1) is None else call.number(1)
    *_, rows, columns = shape_of(x)
    check_computed(TensorType("bool", (rows, columns)))
    keep = np.triu if call.attr("upper", 1) else np.tril
    mask = keep(np.ones((rows, columns), dtype=bool), diagonal)
    return call("where", call.constant(mask), x, call.like(0, x))


@operator("OneHot")
def _one_hot(call: Call) -> Value:
    indices, values = call.input(0), call.input(2)
    depth = int(call.number(1))
    if not is_float(indices.dtype):
        indices = call.cast(indices, "int64")  # which has room for the depth
    rank = len(indices.shape)
    axis = axis_of(call.attr("axis", -1), rank + 1)
    check_computed(TensorType("int64", (depth,)))
    wanted = call.constant(np.arange(depth).reshape(-1, *(1,) * (rank - axis)), indices.dtype)
    # Negative indices count from the end; what is outside on either side matches nothing.
    wrapped = call("where", call("less", indices, call.like(0, indices)),
                   call("add", indices, call.like(depth, indices)), indices)  # fmt: skip
    shape = shape_of(indices)
    hit = call("equal", call.reshape(wrapped, (*shape[:axis], 1, *shape[axis:])), wanted)
    off, on = (call("slice", values, starts=(i,), sizes=(1,), steps=(1,)) for i in (0, 1))
    return call("where", hit, call.reshape(on, ()), call.reshape(off, ()))
