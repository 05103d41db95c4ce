"""Quantized numbers: an integer q stands for (q - zero point) * scale.

`scale` and `zero` broadcast to the tensor: one number, or one for each index of an axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.ir.dims import broadcast
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType, integer_limits

#: What is multiplied by instructions for bytes.
BYTES = ("int8", "uint8")
#: The integers that numbers are quantized to here; a sum of products in int32 has a scale, too.
QUANTIZED = (*BYTES, "int16", "uint16", "int32")


def is_kept(op: str, types: Sequence[TensorType]) -> bool:
    """Whether a node on constants of these types is not folded: what multiplies bytes, or codes, asks for it as it
    is."""
    return op == "decode" or (op == "dequantize" and types[0].dtype in BYTES)


def _check(q: str, scale: TensorType, zero: Sequence[TensorType]) -> None:
    if q not in QUANTIZED:
        raise TypeError(f"numbers are quantized to {', '.join(QUANTIZED)}, not {q}")
    if scale.dtype != "float32":
        raise TypeError(f"a scale is float32, not {scale}")
    if any(z.dtype != q for z in zero):
        raise TypeError(f"the zero point of {q} is {q}, not {zero[0]}")


def _quantize(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, scale, *zero = types
    _check(attrs["to"], scale, zero)
    if attrs["to"] == "int32":
        raise TypeError("numbers are not quantized to int32, whose limits no float32 holds")
    if x.dtype != "float32" or broadcast(*(t.shape for t in types)) != x.shape:
        raise TypeError(f"quantize takes float32 that its parameters broadcast to, not {', '.join(map(str, types))}")
    return [TensorType(attrs["to"], x.shape)]


def _quantize_numpy(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, *, to: str) -> np.ndarray:
    low, high = integer_limits(to)
    offset = np.int32(0) if zero is None else zero.astype(np.int32)
    # Limited as a float: an integer could not hold every number. What is no number is the zero point.
    whole = np.clip(np.round(x / scale), low - offset, high - offset)
    return np.asarray((np.where(np.isnan(whole), 0, whole).astype(np.int32) + offset).astype(to))


def _dequantize(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    q, scale, *zero = types
    _check(q.dtype, scale, zero)
    if broadcast(*(t.shape for t in types)) != q.shape:
        raise TypeError(f"the parameters must broadcast to what is dequantized: {', '.join(map(str, types))}")
    return [TensorType("float32", q.shape)]


def _dequantize_numpy(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
    value = q.astype(np.float32)
    return np.asarray((value if zero is None else value - zero.astype(np.float32)) * scale)


register(
    "quantize", Kind.ELEMENTWISE, (2, 3), _quantize, _quantize_numpy,
    "inputs x, scale and zero point: x / scale, rounded to even, plus the zero point, as the nearest `to`", to=REQUIRED,
)  # fmt: skip
register(
    "dequantize", Kind.ELEMENTWISE, (2, 3), _dequantize, _dequantize_numpy,
    "inputs q, scale and zero point: (q - zero point) * scale",
)  # fmt: skip
