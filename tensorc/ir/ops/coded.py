"""Products by weights in few bits: codes times the scales of blocks.

A weight is (level - zero) * scale: the level that its code of `width` bits stands for, and the zero point and the
scale of its block of `group` neighbours along the sum. That is what integers, small floats, block floating point and
bit planes have in common; `tensorc.formats.coded` says it of each format.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.formats import bits
from tensorc.formats.elements import ELEMENTS
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType

#: The element whose level is its code.
INTEGER = "integer"


def levels(element: str, width: int) -> np.ndarray:
    """The level of each code: float32 [2**width]."""
    codes = np.arange(1 << width, dtype=np.uint8)
    return codes.astype(np.float32) if element == INTEGER else ELEMENTS[element].decode(codes)


def group_count(depth: int, group: int) -> int:
    """Blocks of a row; a `group` of 0 is the whole row."""
    return -(-depth // group) if group else 1


def _matmul_coded(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, *weights = types
    if x.dtype not in ("float32", "float64") or x.rank < 1:
        raise TypeError(f"matmul_coded takes float32 [..., K], not {x}")
    columns = _check(weights, static_shape(x.shape[-1:])[0], attrs)
    return [x.with_shape((*x.shape[:-1], columns))]


def _decode(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    return [TensorType("float32", (_check(types, attrs["depth"], attrs), attrs["depth"]))]


def _check(weights: Sequence[TensorType], depth: int, attrs: Attrs) -> int:
    """The number of rows of encoded weights. Raises TypeError."""
    codes, *parameters = weights
    width, group, element = attrs["width"], attrs["group"], attrs["element"]
    if not 1 <= width <= 8 or group < 0:
        raise TypeError(f"codes of 1 to 8 bits in groups of 0 (a whole row) or more, not {width} in {group}")
    if element != INTEGER and (element not in ELEMENTS or ELEMENTS[element].width != width):
        raise TypeError(f"codes of {width} bits are {INTEGER} or a small float of as many, not {element!r}")
    if codes.rank != 2 or codes.dtype != "uint8" or codes.shape[1] != bits.packed_bytes(depth, width):
        raise TypeError(f"{codes} does not hold {depth} codes of {width} bits a row, packed in bytes")
    (columns,) = static_shape(codes.shape[:1])
    for parameter in parameters:
        if parameter.shape != (columns, group_count(depth, group)) or "float" not in parameter.dtype:
            raise TypeError(
                f"scales and zero points are floats [{columns}, {group_count(depth, group)}], not {parameter}"
            )
    return columns


def decode(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None = None, *, depth: int, width: int,
           group: int, element: str, zero: float, dtype: str = "float32") -> np.ndarray:  # fmt: skip
    """The weights [N, depth]."""
    values = levels(element, width).astype(dtype)[bits.unpack(codes, width, depth)]
    size = group or max(depth, 1)
    offsets = np.asarray(zero, dtype) if zeros is None else np.repeat(zeros.astype(dtype), size, axis=1)[:, :depth]
    return np.asarray((values - offsets) * np.repeat(scales.astype(dtype), size, axis=1)[:, :depth])


def _matmul_coded_numpy(x: np.ndarray, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None = None, *,
                        width: int, group: int, element: str, zero: float) -> np.ndarray:  # fmt: skip
    weights = decode(codes, scales, zeros, depth=x.shape[-1], width=width, group=group, element=element, zero=zero,
                     dtype=x.dtype.name)  # fmt: skip
    return np.asarray(np.matmul(x, weights.T))


register(
    "matmul_coded", Kind.ANCHOR, (3, 4), _matmul_coded, _matmul_coded_numpy,
    "x [..., K] times the transpose of weights in few bits: inputs x, packed codes [N, bytes], scales [N, groups] and "
    "zero points; a weight is (level of its code - zero) * scale", width=REQUIRED, group=0, element=INTEGER, zero=0.0,
)  # fmt: skip
register(
    "decode", Kind.OPAQUE, (2, 3), _decode, decode,
    "weights in few bits as float32 [N, K]; inputs and the rest as `matmul_coded`, which products by it become",
    depth=REQUIRED, width=REQUIRED, group=0, element=INTEGER, zero=0.0,
)  # fmt: skip
