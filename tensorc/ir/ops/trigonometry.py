"""The tangent, the hyperbolic functions and the inverses of all of them, elementwise. sin, cos and tanh, which models
are full of, are among the other elementwise operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tensorc.ir.ops.table import Attrs, Kind, register
from tensorc.ir.types import TensorType, is_float

#: Operators -> numpy's functions.
_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "cosh": np.cosh,
    "sinh": np.sinh,
    "tan": np.tan,
}
TRIGONOMETRIC = frozenset(_FUNCTIONS)


def _float(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    (x,) = types
    if not is_float(x.dtype):
        raise TypeError(f"angles are floats, not {x}")
    return [x]


def _meaning(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.asarray(function(x.astype(np.float64)).astype(x.dtype))


for _name, _function in _FUNCTIONS.items():
    register(_name, Kind.ELEMENTWISE, 1, _float, _meaning(_function))
