"""Operators that make constants or disappear: with static shapes most of them leave nothing in the graph."""

from __future__ import annotations

import math

import numpy as np

from tensorc.errors import UnsupportedError
from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.limits import check_computed, check_type
from tensorc.frontend.reader import element_type
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Constant, Value
from tensorc.ir.types import TensorType


@operator("Constant")
def _constant(call: Call) -> Value:
    if call.has("value"):
        return call.constant(call.tensor("value"))
    for name, dtype in (("value_float", "float32"), ("value_floats", "float32"),
                        ("value_int", "int64"), ("value_ints", "int64")):  # fmt: skip
        if call.has(name):
            return call.constant(np.asarray(call.attr(name), dtype))
    raise UnsupportedError(f"its value is {', '.join(a.name for a in call.node.attribute) or 'missing'}")


@operator("ConstantOfShape")
def _constant_of_shape(call: Call) -> Value:
    shape = call.ints(0)
    value = call.tensor("value") if call.has("value") else Constant.of(0, "float32")
    if value.type.size != 1:
        raise ValueError(f"the value must be one number, not {value.type}")
    type = check_type(TensorType(value.type.dtype, shape), "its result")
    return call.constant(Constant.full(type, value.numpy().reshape(())))


@operator("Shape")
def _shape(call: Call) -> Value:
    shape = shape_of(call.input(0))
    return call.constant(shape[call.attr("start", 0) : call.attr("end", len(shape))], "int64")


@operator("Size")
def _size(call: Call) -> Value:
    return call.constant(math.prod(shape_of(call.input(0))), "int64")


@operator("Range")
def _range(call: Call) -> Value:
    start, limit, step = call.number(0), call.number(1), call.number(2)
    if not step:
        raise ValueError("the step is 0")
    # Of integers exactly: a float64 does not hold all of them.
    whole = isinstance(step, int)
    size = max(-((start - limit) // step) if whole else math.ceil((limit - start) / step), 0)
    return call("range", start=start, step=step, size=size, dtype=call.input(0).dtype)


@operator("EyeLike")
def _eye_like(call: Call) -> Value:
    x = call.input(0)
    rows, columns = shape_of(x)
    dtype = element_type(call.attr("dtype")) if call.has("dtype") else x.dtype
    check_computed(TensorType("float64", (rows, columns)))
    return call.constant(np.eye(rows, columns, call.attr("k", 0)), dtype)
