"""Conversions between element types, by value and by bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import SMALL_FLOATS, STORED, TensorType, bits_of, is_integer, numpy_dtype

#: How a number between two powers of two becomes a float8_e8m0fnu.
ROUND_MODES = ("up", "down", "nearest")


def _cast(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    return [TensorType(attrs["to"], types[0].shape)]


def _cast_float8(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    if not attrs["to"].startswith("float8"):
        raise TypeError(f"cast_float8 makes float8, not {attrs['to']}")
    if attrs["round_mode"] not in ROUND_MODES:
        raise TypeError(f"round_mode is {', '.join(ROUND_MODES)}, not {attrs['round_mode']!r}")
    return _cast(types, attrs)


def _bitcast(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    if bits_of(types[0].dtype) != bits_of(attrs["to"]):
        raise TypeError(f"the bits of {types[0]} are not those of a {attrs['to']}: they are not as many")
    return _cast(types, attrs)


def cast_numpy(x: np.ndarray, to: str) -> np.ndarray:
    """By value. What is out of range saturates in float8, as ONNX has it, and is infinite in wider floats."""
    if to.startswith("float8"):
        return cast_float8_numpy(x, to, saturate=1, round_mode="up")
    if is_integer(to) and bits_of(to) < 32 and not is_integer(x.dtype.name) and x.dtype != bool:
        # Through a wider integer: from there too large numbers wrap, as those that are integers from the start do.
        x = x.astype(np.float64).astype(np.int32)
    if to in STORED and not is_integer(to):
        x = x.astype(np.float32)
    return np.asarray(x.astype(numpy_dtype(to)))


def cast_float8_numpy(x: np.ndarray, to: str, saturate: int, round_mode: str) -> np.ndarray:
    wide = x.astype(np.float32)
    if to == "float8_e8m0fnu":
        return _powers_of_two(wide, bool(saturate), round_mode).view(numpy_dtype(to))
    if saturate:
        largest = np.array(SMALL_FLOATS[to].largest, np.uint8).view(numpy_dtype(to)).astype(np.float32)
        wide = np.clip(wide, -largest, largest)
    return wide.astype(numpy_dtype(to))


def _powers_of_two(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """The exponents of float32 numbers as the codes of a float8_e8m0fnu, which holds nothing else; signs are dropped.

    As the operator's conversion in ONNX: below the smallest power stands that, and infinities are nan.
    """
    bits = x.view(np.uint32)
    exponent = (bits >> 23 & 0xFF).astype(np.int32)
    fraction = bits & 0x7FFFFF
    if round_mode == "up":
        exceeds = fraction > 0
    elif round_mode == "nearest":  # ties go up, but for the one below the smallest power
        exceeds = np.where(exponent > 0, fraction >= 0x400000, fraction > 0x400000)
    else:
        exceeds = np.zeros_like(fraction, bool)
    limit = 0xFE if saturate else 0xFF
    return np.minimum(exponent + exceeds, np.where(exponent == 0xFF, 0xFF, limit)).astype(np.uint8)


def _bitcast_numpy(x: np.ndarray, to: str) -> np.ndarray:
    return np.ascontiguousarray(x).view(numpy_dtype(to)).reshape(x.shape)


register("cast", Kind.ELEMENTWISE, 1, _cast, cast_numpy, "convert the element type; float8 saturates", to=REQUIRED)
register(
    "cast_float8", Kind.ELEMENTWISE, 1, _cast_float8, cast_float8_numpy,
    "cast to a float8; without `saturate` large numbers are infinite or nan; `round_mode` is float8_e8m0fnu's",
    to=REQUIRED, saturate=1, round_mode="up",
)  # fmt: skip
register("bitcast", Kind.ELEMENTWISE, 1, _bitcast, _bitcast_numpy, "the same bits as another type", to=REQUIRED)
