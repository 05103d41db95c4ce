"""Operators that compute one output element from one element of each input, after broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorc.ir.dims import broadcast
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, Meaning, TypeRule, register
from tensorc.ir.types import TensorType, is_integer


def _same(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    return [types[0]]


def _promote(types: Sequence[TensorType]) -> TensorType:
    dtypes = {t.dtype for t in types}
    if len(dtypes) != 1:
        raise TypeError(f"operands have different element types: {', '.join(map(str, types))}")
    return TensorType(types[0].dtype, broadcast(*(t.shape for t in types)))


def _arithmetic(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    return [_promote(types)]


def _comparison(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    return [TensorType("bool", _promote(types).shape)]


def _where(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    condition, *branches = types
    if condition.dtype != "bool":
        raise TypeError(f"the condition must be bool, not {condition}")
    return [TensorType(_promote(branches).dtype, broadcast(*(t.shape for t in types)))]


def _typed(function: Callable[..., Any]) -> Meaning:
    """Compute in the input's own type: numpy would promote small integers or float16 in places. Of bfloat16, most of
    whose functions numpy lacks, in float32."""

    def meaning(x: np.ndarray, *rest: np.ndarray, **attrs: Any) -> np.ndarray:
        dtype = x.dtype
        if dtype.name == "bfloat16":
            x, *rest = (array.astype(np.float32) for array in (x, *rest))  # type: ignore[assignment]
        return np.asarray(np.asarray(function(x, *rest, **attrs)).astype(dtype, copy=False))

    return meaning


def _erf(x: np.ndarray) -> np.ndarray:
    from math import erf

    return np.asarray(np.vectorize(erf, otypes=[np.float64])(x.astype(np.float64))) if x.size else x


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # exp of a negative number only: no overflow on either side.
    z = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + z), z / (1 + z)))


def _gelu_type(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    if attrs["approximate"] not in ("none", "tanh"):
        raise TypeError(f"approximate is none or tanh, not {attrs['approximate']!r}")
    return [types[0]]


def _gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    wide = x.astype(np.float64)
    if approximate == "tanh":
        return np.asarray(0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))))
    return np.asarray(0.5 * wide * (1 + _erf(wide / np.sqrt(2))))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if not np.issubdtype(a.dtype, np.integer):
        return np.asarray(np.divide(a, b))
    # ONNX divides integers towards zero, numpy's floor_divide goes down: they differ by one where the signs
    # differ and something remains. A division by zero has no meaning; here it gives zero.
    quotient, remainder = np.divmod(a, b)
    return np.where((remainder != 0) & ((a < 0) != (b < 0)) & (b != 0), quotient + 1, quotient)


def _power(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # numpy refuses integers to negative powers; as everywhere else with integers, the fraction is dropped.
    if np.issubdtype(a.dtype, np.signedinteger) and (b < 0).any():
        return np.asarray(np.trunc(np.power(a, b, dtype=np.float64)))
    return np.asarray(np.power(a, b))


def _shift(x: np.ndarray, count: np.ndarray, left: int) -> np.ndarray:
    """By as many bits as there are or more, or by a negative number, nothing but the sign is left."""
    bits = 8 * x.dtype.itemsize
    inside = (count >= 0) & (count < bits)
    kept = np.where(inside, count, 0).astype(x.dtype)
    if left:
        return np.where(inside, np.left_shift(x, kept), 0)
    return np.where(inside, np.right_shift(x, kept), np.where(x < 0, -1, 0).astype(x.dtype))


def _integers(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    result = _promote(types)
    if not is_integer(result.dtype):
        raise TypeError(f"an operation on bits takes integers, not {', '.join(map(str, types))}")
    return [result]


def _unary(name: str, function: Callable[..., Any], infer: TypeRule = _same, doc: str = "", **attrs: Any) -> None:
    register(name, Kind.ELEMENTWISE, 1, infer, _typed(function), doc, **attrs)


def _binary(name: str, function: Callable[..., Any], doc: str = "", **attrs: Any) -> None:
    register(name, Kind.ELEMENTWISE, 2, _arithmetic, _typed(function), doc, **attrs)


def _compare(name: str, function: Callable[..., Any]) -> None:
    register(name, Kind.ELEMENTWISE, 2, _comparison, function)


_unary("abs", np.abs)
_unary("ceil", np.ceil)
_unary("clip", lambda x, min, max: np.clip(x, min, max), doc="min <= x <= max", min=REQUIRED, max=REQUIRED)
_unary("cos", np.cos)
_unary("elu", lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), alpha=1.0)
_unary("erf", _erf)
_unary("exp", np.exp)
_unary("floor", np.floor)
_unary(
    "gelu",
    _gelu,
    _gelu_type,
    doc='Gaussian error linear unit; approximate is "none" (erf) or "tanh"',
    approximate="none",
)
_unary("hard_sigmoid", lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), alpha=0.2, beta=0.5)
_unary("hard_swish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1))
_unary("leaky_relu", lambda x, alpha: np.where(x >= 0, x, alpha * x), alpha=0.01)
_unary("log", np.log)
_unary("neg", np.negative)
_unary("not", np.logical_not)
_unary("reciprocal", np.reciprocal)
_unary("relu", lambda x: np.maximum(x, 0))
_unary("round", np.round, doc="half to even")
_unary("rsqrt", lambda x: 1 / np.sqrt(x))
_unary("sigmoid", _sigmoid)
_unary("sign", np.sign)
_unary("silu", lambda x: x * _sigmoid(x), doc="x * sigmoid(x)")
_unary("sin", np.sin)
_unary("softplus", lambda x: np.logaddexp(x, 0))
_unary("sqrt", np.sqrt)
_unary("tanh", np.tanh)

_binary("add", np.add)
_binary("sub", np.subtract)
_binary("mul", np.multiply)
_binary("div", _divide, doc="integers towards zero")
_binary("pow", _power, doc="integers drop the fraction")
_binary("max", np.maximum)
_binary("min", np.minimum)
_binary("mod", lambda a, b, fmod: np.fmod(a, b) if fmod else np.mod(a, b), doc="sign of b, or of a with fmod", fmod=0)
_binary("and", np.logical_and)
_binary("or", np.logical_or)
_binary("xor", np.logical_xor)
register("bit_and", Kind.ELEMENTWISE, 2, _integers, _typed(np.bitwise_and))
register("bit_or", Kind.ELEMENTWISE, 2, _integers, _typed(np.bitwise_or))
register("bit_xor", Kind.ELEMENTWISE, 2, _integers, _typed(np.bitwise_xor))
register("bit_not", Kind.ELEMENTWISE, 1, _integers, _typed(np.bitwise_not))
register(
    "bit_shift", Kind.ELEMENTWISE, 2, _integers, _typed(_shift),
    "by the second operand, to the left or (keeping the sign) to the right", left=REQUIRED,
)  # fmt: skip
_compare("equal", np.equal)
_compare("less", np.less)
_compare("less_equal", np.less_equal)
_compare("greater", np.greater)
_compare("greater_equal", np.greater_equal)
register("where", Kind.ELEMENTWISE, 3, _where, np.where, "second operand where the first is true, else the third")
