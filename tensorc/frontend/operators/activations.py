"""Activation functions: those the IR has, and those that a few of its operators make."""

from __future__ import annotations

import numpy as np

from tensorc.frontend.call import Call
from tensorc.frontend.emitter import scalar_of
from tensorc.frontend.registry import Rule, operator
from tensorc.ir.graph import Value
from tensorc.ir.types import is_float, limits, numpy_dtype

#: ONNX operator -> (IR operator, its attributes with ONNX's defaults).
_DIRECT: dict[str, tuple[str, dict[str, float]]] = {
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "HardSwish": ("hard_swish", {}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Relu": ("relu", {}),
    "Sigmoid": ("sigmoid", {}),
    "Softplus": ("softplus", {}),
    "Tanh": ("tanh", {}),
}


def _direct(op: str, defaults: dict[str, float]) -> Rule:
    return lambda call: call(op, call.input(0), **{key: call.attr(key, value) for key, value in defaults.items()})


for _name, (_op, _defaults) in _DIRECT.items():
    operator(_name)(_direct(_op, _defaults))


@operator("Clip")
def _clip(call: Call) -> Value:
    x = call.input(0)
    lowest, highest = limits(np.empty(0, numpy_dtype(x.dtype)))
    if call.opset < 11:  # the attributes have the limits of single precision when they are left out
        edge = float(np.finfo(np.float32).max)
        return call("clip", x, min=call.attr("min", max(lowest, -edge)), max=call.attr("max", min(highest, edge)))
    low, high = call.optional(1), call.optional(2)
    low_number = lowest if low is None else scalar_of(low)
    high_number = highest if high is None else scalar_of(high)
    if low_number is not None and high_number is not None:
        return call("clip", x, min=low_number, max=high_number)
    x = x if low is None else call("max", x, low)
    return x if high is None else call("min", x, high)


@operator("Gelu")
def _gelu(call: Call) -> Value:
    return call("gelu", call.input(0), approximate=call.attr("approximate", "none"))


@operator("PRelu")
def _prelu(call: Call) -> Value:
    x, slope = call.input(0), call.input(1)
    return call("where", call("less", x, call.like(0, x)), call("mul", x, slope), x)


@operator("Selu")
def _selu(call: Call) -> Value:
    alpha, gamma = call.attr("alpha", 1.6732632423543772), call.attr("gamma", 1.0507009873554805)
    result = call("elu", call.input(0), alpha=alpha)
    return call("mul", result, call.like(gamma, result))


@operator("Celu")
def _celu(call: Call) -> Value:
    x = call.input(0)
    alpha = call.like(call.attr("alpha", 1.0), x)
    return call("mul", call("elu", call("div", x, alpha)), alpha)


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Value:
    x = call.input(0)
    return call("where", call("greater", x, call.like(call.attr("alpha", 1.0), x)), x, call.like(0, x))


@operator("Softsign")
def _softsign(call: Call) -> Value:
    x = call.input(0)
    return call("div", x, call("add", call("abs", x), call.like(1, x)))


@operator("Mish")
def _mish(call: Call) -> Value:
    x = call.input(0)
    return call("mul", x, call("tanh", call("softplus", x)))


@operator("Swish")
def _swish(call: Call) -> Value:
    x, alpha = call.input(0), call.attr("alpha", 1.0)
    if alpha == 1:
        return call("silu", x)
    return call("mul", x, call("sigmoid", call("mul", x, call.like(alpha, x))))


@operator("Shrink")
def _shrink(call: Call) -> Value:
    """Integers are compared and shifted as real numbers: the standard's function body would wrap them."""
    given = call.input(0)
    x = given if is_float(given.dtype) else call.cast(given, "float64")
    limit, bias, zero = call.attr("lambd", 0.5), call.like(call.attr("bias", 0.0), x), call.like(0, x)
    above = call("where", call("greater", x, call.like(limit, x)), call("sub", x, bias), zero)
    result = call("where", call("less", x, call.like(-limit, x)), call("add", x, bias), above)
    return call.cast(result, given.dtype)
