"""Conversions between element types, and operations on bits."""

from __future__ import annotations

import onnx

from tensorc.frontend.call import Call
from tensorc.frontend.reader import element_type
from tensorc.frontend.registry import Result, Rule, operator
from tensorc.frontend.scope import OnHost
from tensorc.ir.graph import Value

_BITWISE = {"BitwiseAnd": "bit_and", "BitwiseOr": "bit_or", "BitwiseXor": "bit_xor"}


def converted(call: Call, value: Value, dtype: str) -> Value:
    """`value` as a `dtype`, by the node's own `saturate` and `round_mode` where it becomes a float8."""
    saturate, round_mode = call.attr("saturate", 1), call.attr("round_mode", "up")
    if value.dtype == dtype or not dtype.startswith("float8") or (saturate and round_mode == "up"):
        return call.cast(value, dtype)
    return call("cast_float8", value, to=dtype, saturate=int(bool(saturate)), round_mode=round_mode)


@operator("Cast")
def _cast(call: Call) -> Result:
    x, to = call.input(0), call.required("to")
    if to == onnx.TensorProto.STRING:
        return OnHost("cast_to_string", [x])
    if x.dtype == "string":
        return OnHost("cast_from_string", [x], {"to": element_type(to)})
    return converted(call, x, element_type(to))


@operator("CastLike")
def _cast_like(call: Call) -> Value:
    return converted(call, call.input(0), call.input(1).dtype)


@operator("BitCast")
def _bitcast(call: Call) -> Value:
    return call("bitcast", call.input(0), to=element_type(call.required("to")))


def _bitwise(op: str) -> Rule:
    return lambda call: call(op, call.input(0), call.input(1))


for _name, _op in _BITWISE.items():
    operator(_name)(_bitwise(_op))


@operator("BitwiseNot")
def _bitwise_not(call: Call) -> Value:
    return call("bit_not", call.input(0))


@operator("BitShift")
def _bit_shift(call: Call) -> Value:
    direction = call.required("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise ValueError(f"direction is LEFT or RIGHT, not {direction!r}")
    return call("bit_shift", call.input(0), call.input(1), left=int(direction == "LEFT"))
