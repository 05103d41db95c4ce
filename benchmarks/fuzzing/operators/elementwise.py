"""Operators that compute each element by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import helper

from benchmarks.fuzzing.graphs import FLOATS, INTS, TYPES, Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import place, schema, types

_SMOOTH = ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Erf", "Exp", "HardSwish", "Log", "Mish",
           "Reciprocal", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh")  # fmt: skip
_EXACT = ("Abs", "Identity", "Neg", "Not", "Relu")
_JUMPING = ("Ceil", "Floor", "IsNaN", "Round", "Sign")


@place(*_SMOOTH)
def _smooth(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))])


@place(*_EXACT)
def _exact(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))], exact=True)


@place(*_JUMPING)
def _jumping(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name), exact=True)], exact=True)


@place("BitwiseNot")
def _bitwise_not(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))], exact=True)


@place("IsInf")
def _is_inf(g: Graph, name: str) -> None:
    signs = {f"detect_{sign}": g.number(0, 1) for sign in ("negative", "positive") if g.chance(0.3)}
    g.node(name, [g.any(types(g, name), exact=True)], exact=True, **signs)


@place("Celu", "Elu", "HardSigmoid", "LeakyRelu", "Selu", "Shrink", "ThresholdedRelu", "Swish")
def _with_parameters(g: Graph, name: str) -> None:
    legal = [key for key in schema(name, g.opset).attributes if g.chance(0.6)]
    jumps = name in ("Shrink", "ThresholdedRelu")
    # The bodies of functions round to the type of the elements, engines do not: where it jumps, they are to be exact.
    parameters = {key: float(g.pick((0.25, 0.5, 1.0, 1.75) if jumps else (0.1, 0.5, 1.0, 1.7))) for key in legal}
    g.node(name, [g.any(types(g, name), exact=jumps)], **parameters)


@place("Gelu")
def _gelu(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))], approximate=g.pick((None, "none", "tanh")))


@place("PRelu")
def _prelu(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    slope = [size if g.chance(0.5) else 1 for size in x.shape][g.number(0, x.rank) :]
    g.node(name, [x, g.like(x.dtype, slope)])


@place("Clip")
def _clip(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    low = 0 if x.dtype.startswith("u") else -3
    bounds = [g.new(x.dtype, (), *ends) if g.chance(0.7) else None for ends in ((low, 1), (1, 5))]
    bounds = bounds[::-1] if g.chance(0.1) else bounds
    g.node(name, [x, *bounds], exact=True)


def _pair(g: Graph, dtypes: Sequence[str], exact: bool = False) -> tuple[Value, Value]:
    a = g.any(dtypes, exact=exact)
    shape = g.partner(a.shape)
    return a, g.like(a.dtype, shape, exact=exact)


def _either_way(g: Graph, a: Value, b: Value) -> list[Value]:
    return [a, b] if g.chance(0.5) else [b, a]


@place("Add", "Sub", "Mul")
def _arithmetic(g: Graph, name: str) -> None:
    g.node(name, _either_way(g, *_pair(g, types(g, name))))


@place("And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "BitwiseAnd", "BitwiseOr",
       "BitwiseXor")  # fmt: skip
def _comparison(g: Graph, name: str) -> None:
    g.node(name, _either_way(g, *_pair(g, types(g, name), exact=True)), exact=True)


def _divisor(g: Graph, a: Value) -> Value:
    """Not 0 if it is of integers, and not -1, whose quotient by the least number does not fit."""
    shape = g.partner(a.shape)
    if a.dtype in FLOATS:
        return g.like(a.dtype, shape)
    array = g.data(a.dtype, shape, 1, 9)
    signs = g.rng.integers(0, 2, shape) if a.dtype[0] == "i" else 0
    return g.given(np.where((signs > 0) & (array > 1), -array.astype(np.int64), array).astype(a.dtype), g.chance(0.3))


@place("Div")
def _div(g: Graph, name: str) -> None:
    a = g.any(types(g, name))
    g.node(name, [a, _divisor(g, a)])


@place("Mod")
def _mod(g: Graph, name: str) -> None:
    a = g.any([t for t in types(g, name) if t not in FLOATS] if g.chance(0.6) else types(g, name), exact=True)
    b = _divisor(g, a)
    if b.loose:
        raise UnfitError
    g.node(name, [a, b], fmod=1 if a.dtype in FLOATS or g.chance(0.3) else 0)


@place("BitShift")
def _bit_shift(g: Graph, name: str) -> None:
    a = g.any(types(g, name))
    by = g.new(a.dtype, g.partner(a.shape), 0, np.iinfo(a.dtype).bits - 1)
    g.node(name, [a, by], direction=g.pick(("LEFT", "RIGHT")))


@place("Pow")
def _pow(g: Graph, name: str) -> None:
    a = g.any([t for t in types(g, name) if t in types(g, name, 1)])
    if a.dtype in INTS:
        g.node(name, [g.new(a.dtype, a.shape, 0, 3), g.new(a.dtype, g.partner(a.shape), 0, 4)])
    elif g.chance(0.5):
        g.node(name, [a, g.given(np.asarray(g.pick((2, 0.5, -1, 3, 0, 1, -2)), a.dtype) if a.dtype != "bfloat16"
                                 else g.data(a.dtype, (), 0, 3))])  # fmt: skip
    else:
        g.node(name, [a, g.new(a.dtype, g.partner(a.shape), -2, 3)])


@place("Max", "Min", "Mean", "Sum")
def _variadic(g: Graph, name: str) -> None:
    a = g.any(types(g, name))
    rest = [g.like(a.dtype, g.partner(a.shape)) for _ in range(g.number(0, 3))]
    g.node(name, [a, *rest], exact=name in ("Max", "Min"))


@place("Where")
def _where(g: Graph, name: str) -> None:
    a, b = _pair(g, types(g, name, 1))
    g.node(name, [g.like("bool", g.partner(a.shape)), *_either_way(g, a, b)], exact=True)


@place("Cast", "CastLike")
def _cast(g: Graph, name: str) -> None:
    to = g.dtype(types(g, name))
    narrow = to in INTS
    # What does not fit, or has a fraction and a sign that the type lacks, is not defined.
    x = g.any(types(g, name), exact=True, tame=narrow) if to not in FLOATS else g.any(types(g, name))
    if narrow and to.startswith("u") and not x.dtype.startswith("u") and x.dtype != "bool":
        x = g.new(x.dtype, x.shape, 0, 9)
    if name == "CastLike":
        g.node(name, [x, g.any((to,))], exact=to not in FLOATS or x.dtype == to)
    else:
        code = helper.np_dtype_to_tensor_dtype(g.data(to, ()).dtype)
        g.node(name, [x], exact=to not in FLOATS or x.dtype == to, to=code)


@place("BitCast")
def _bit_cast(g: Graph, name: str) -> None:
    x = g.any(types(g, name), exact=True)
    if x.dtype == "bool":
        raise UnfitError
    bits = g.data(x.dtype, ()).dtype.itemsize
    # From and to integers: the bits of nan are not said.
    to = g.pick([t for t in (INTS if x.dtype in FLOATS or g.chance(0.5) else TYPES)
                 if t != "bool" and g.data(t, ()).dtype.itemsize == bits])  # fmt: skip
    if x.dtype in FLOATS and g.special:
        raise UnfitError
    g.node(name, [x], exact=True, to=helper.np_dtype_to_tensor_dtype(g.data(to, ()).dtype))
