"""Operators over whole rows: reductions, normalisations over trailing axes, softmax, running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorc.ir.dims import Dim, format_shape
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType, limits, widened


def _reduce(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    axes = attrs["axes"]
    if any(not 0 <= axis < x.rank for axis in axes) or len(set(axes)) != len(axes):
        raise TypeError(f"axes {axes} are not axes of {x}, each once")
    shape: list[Dim] = []
    for axis, dim in enumerate(x.shape):
        if axis not in axes:
            shape.append(dim)
        elif attrs["keepdims"]:
            shape.append(1)
    return [x.with_shape(tuple(shape))]


def _same(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    axis = attrs.get("axis", 0)
    if not 0 <= axis < types[0].rank:
        raise TypeError(f"axis {axis} is not an axis of {types[0]}")
    return [types[0]]


def _norm(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, *parameters = types
    if not 0 <= attrs["axis"] < x.rank:
        raise TypeError(f"axis {attrs['axis']} is not an axis of {x}")
    for p in parameters:
        if p.shape != x.shape[attrs["axis"] :]:
            raise TypeError(f"scale and bias must be {format_shape(x.shape[attrs['axis'] :])}, not {p}")
    return [x]


def _register_reduction(name: str, function: Callable[..., Any]) -> None:
    def meaning(x: np.ndarray, axes: tuple[int, ...], keepdims: int) -> np.ndarray:
        result = np.asarray(function(widened(x), axis=tuple(axes), keepdims=bool(keepdims)))
        return np.asarray(result.astype(x.dtype, copy=False))

    register(name, Kind.REDUCTION, 1, _reduce, meaning, axes=REQUIRED, keepdims=1)


def _softmax_numpy(x: np.ndarray, axis: int) -> np.ndarray:
    wide = widened(x)
    e = np.exp(wide - wide.max(axis=axis, keepdims=True))
    return np.asarray((e / e.sum(axis=axis, keepdims=True)).astype(x.dtype, copy=False))


def _log_softmax_numpy(x: np.ndarray, axis: int) -> np.ndarray:
    wide = widened(x)
    shifted = wide - wide.max(axis=axis, keepdims=True)
    return np.asarray((shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))).astype(x.dtype, copy=False))


def _layer_norm_numpy(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None = None, *, axis: int, epsilon: float
) -> np.ndarray:
    axes = tuple(range(axis, x.ndim))
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=axes, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + epsilon)
    return np.asarray((normal * scale + (0 if bias is None else bias)).astype(x.dtype))


def _rms_norm_numpy(x: np.ndarray, scale: np.ndarray, *, axis: int, epsilon: float) -> np.ndarray:
    axes = tuple(range(axis, x.ndim))
    wide = x.astype(np.float64)
    return np.asarray((wide / np.sqrt((wide**2).mean(axis=axes, keepdims=True) + epsilon) * scale).astype(x.dtype))


def _cumulate(function: Callable[..., np.ndarray], identity: int) -> Callable[..., np.ndarray]:
    def meaning(x: np.ndarray, axis: int, exclusive: int, reverse: int) -> np.ndarray:
        way = slice(None, None, -1) if reverse else slice(None)
        rows = np.moveaxis(widened(x), axis, -1)[..., way]
        if exclusive:
            rows = np.concatenate([np.full_like(rows[..., :1], identity), rows[..., :-1]], -1)
        total = function(rows, axis=-1, dtype=rows.dtype)[..., way]
        return np.ascontiguousarray(np.moveaxis(total, -1, axis)).astype(x.dtype, copy=False)

    return meaning


_register_reduction("reduce_sum", np.sum)
_register_reduction("reduce_mean", np.mean)
_register_reduction("reduce_max", lambda x, axis, keepdims: np.max(x, axis, keepdims=keepdims, initial=limits(x)[0]))
_register_reduction("reduce_min", lambda x, axis, keepdims: np.min(x, axis, keepdims=keepdims, initial=limits(x)[1]))
_register_reduction("reduce_prod", np.prod)
register("softmax", Kind.REDUCTION, 1, _same, _softmax_numpy, "exp(x) normalised along `axis`", axis=REQUIRED)
register("log_softmax", Kind.REDUCTION, 1, _same, _log_softmax_numpy, axis=REQUIRED)
register(
    "layer_norm", Kind.REDUCTION, (2, 3), _norm, _layer_norm_numpy,
    "(x - mean) / sqrt(variance + epsilon) * scale + bias over the axes from `axis` on; inputs x, scale, bias",
    axis=REQUIRED, epsilon=1e-5,
)  # fmt: skip
register(
    "rms_norm", Kind.REDUCTION, 2, _norm, _rms_norm_numpy,
    "x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on; inputs x, scale",
    axis=REQUIRED, epsilon=1e-5,
)  # fmt: skip
for _name, _function, _identity in (("cumsum", np.cumsum, 0), ("cumprod", np.cumprod, 1)):
    register(
        _name, Kind.REDUCTION, 1, _same, _cumulate(_function, _identity),
        "each element with all before it along `axis`; exclusive leaves the element out, reverse goes from the end",
        axis=REQUIRED, exclusive=0, reverse=0,
    )  # fmt: skip
