"""Elementwise arithmetic, comparison and logic: mostly one IR operator for one of ONNX's."""

from __future__ import annotations

import functools
import math

from tensorc.frontend.call import Call
from tensorc.frontend.registry import Rule, operator
from tensorc.ir.graph import Constant, Value
from tensorc.ir.types import TensorType, is_float

_UNARY = {
    "Abs": "abs", "Ceil": "ceil", "Cos": "cos", "Erf": "erf", "Exp": "exp", "Floor": "floor", "Log": "log",
    "Neg": "neg", "Not": "not", "Reciprocal": "reciprocal", "Round": "round", "Sign": "sign", "Sin": "sin",
    "Sqrt": "sqrt",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or", "Xor": "xor",
    "Equal": "equal", "Less": "less", "LessOrEqual": "less_equal", "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
}  # fmt: skip
_VARIADIC = {"Sum": "add", "Max": "max", "Min": "min"}


def _unary(op: str) -> Rule:
    return lambda call: call(op, call.input(0))


def _binary(op: str) -> Rule:
    return lambda call: call(op, call.input(0), call.input(1))


def _chain(op: str) -> Rule:
    def rule(call: Call) -> Value:
        return functools.reduce(lambda a, b: call(op, a, b), call.all_inputs())

    return rule


for _name, _op in _UNARY.items():
    operator(_name)(_unary(_op))
for _name, _op in _BINARY.items():
    operator(_name)(_binary(_op))
for _name, _op in _VARIADIC.items():
    operator(_name)(_chain(_op))


@operator("Mean")
def _mean(call: Call) -> Value:
    total = _chain("add")(call)
    assert isinstance(total, Value)
    return call("mul", total, call.like(1 / len(call.inputs), total))


@operator("Pow")
def _pow(call: Call) -> Value:
    base, exponent = call.input(0), call.input(1)
    if base.dtype == exponent.dtype:
        return call("pow", base, exponent)
    if is_float(exponent.dtype) and not is_float(base.dtype):
        # The power is fractional, the result is an integer as the base is.
        return call.cast(call("pow", call.cast(base, exponent.dtype), exponent), base.dtype)
    return call("pow", base, call.cast(exponent, base.dtype))


@operator("Mod")
def _mod(call: Call) -> Value:
    return call("mod", call.input(0), call.input(1), fmod=call.attr("fmod", 0))


@operator("IsNaN")
def _is_nan(call: Call) -> Value:
    return call("not", call("equal", call.input(0), call.input(0)))


@operator("IsInf")
def _is_inf(call: Call) -> Value:
    x = call.input(0)
    positive, negative = bool(call.attr("detect_positive", 1)), bool(call.attr("detect_negative", 1))
    if positive and negative:
        return call("equal", call("abs", x), call.like(math.inf, x))
    if not positive and not negative:
        return call.constant(Constant.full(TensorType("bool", x.shape), False))
    return call("equal", x, call.like(math.inf if positive else -math.inf, x))


@operator("Where")
def _where(call: Call) -> Value:
    return call("where", call.input(0), call.input(1), call.input(2))
