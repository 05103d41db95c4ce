"""Element types and the one value type of the graph IR."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from tensorc.ir.dims import Dim, Shape, element_count, format_shape

#: Short name in the text form -> numpy's name. Those that numpy itself does not know are ml_dtypes'.
DTYPES: dict[str, str] = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16",
    "f8e4m3fn": "float8_e4m3fn", "f8e4m3fnuz": "float8_e4m3fnuz", "f8e5m2": "float8_e5m2",
    "f8e5m2fnuz": "float8_e5m2fnuz", "f8e8m0fnu": "float8_e8m0fnu", "f6e2m3fn": "float6_e2m3fn",
    "f6e3m2fn": "float6_e3m2fn", "f4e2m1fn": "float4_e2m1fn",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "i4": "int4", "i2": "int2",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "u4": "uint4", "u2": "uint2",
    "bool": "bool",
}  # fmt: skip
#: Text is known to the IR so that graphs on the host can hold it; no kernel can.
SHORT_NAMES = {name: short for short, name in DTYPES.items()} | {"string": "str"}


@dataclass(frozen=True, slots=True)
class SmallFloat:
    """A float format that no instruction computes with: a sign, `exponent` bits and `mantissa` bits, from the top.

    `infinity` and `nan` are the codes of those without the sign, None where the format has none. Of an `unsigned_zero`
    format the sign alone is the one nan.
    """

    exponent: int
    mantissa: int
    bias: int
    infinity: int | None = None
    nan: int | None = None
    unsigned_zero: bool = False

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def largest(self) -> int:
        """The code of the largest finite number."""
        specials = [code for code in (self.infinity, self.nan) if code is not None]
        return min(specials, default=1 << (self.bits - 1)) - 1


#: bfloat16 is the upper half of a float32, and float8_e8m0fnu only its exponent: conversions know them by name.
SMALL_FLOATS: dict[str, SmallFloat] = {
    "float8_e4m3fn": SmallFloat(4, 3, 7, nan=0x7F),
    "float8_e4m3fnuz": SmallFloat(4, 3, 8, unsigned_zero=True),
    "float8_e5m2": SmallFloat(5, 2, 15, infinity=0x7C, nan=0x7E),
    "float8_e5m2fnuz": SmallFloat(5, 2, 16, unsigned_zero=True),
    "float6_e2m3fn": SmallFloat(2, 3, 1),
    "float6_e3m2fn": SmallFloat(3, 2, 3),
    "float4_e2m1fn": SmallFloat(2, 1, 1),
}

#: Element types that kernels hold as the plain integers of the same bytes -> those integers. Numbers of less than 8
#: bits have a byte each; what stands in its upper bits means nothing.
STORED: dict[str, str] = {
    "bfloat16": "uint16",
    "float8_e8m0fnu": "uint8",
    **dict.fromkeys(SMALL_FLOATS, "uint8"),
    **dict.fromkeys(("int4", "uint4", "int2", "uint2"), "uint8"),
}


@cache
def numpy_dtype(name: str) -> np.dtype:
    """numpy's dtype for one of the names in `DTYPES`' values."""
    if name in STORED:
        import ml_dtypes

        small: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return small
    return np.dtype(object if name == "string" else name)


def is_float(dtype: str) -> bool:
    """Whether the type is of the floats that are computed with."""
    return dtype in ("float64", "float32", "float16", "bfloat16")


def is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def bits_of(dtype: str) -> int:
    """Bits that an element holds; fewer than a byte's for the smallest types."""
    if dtype in SMALL_FLOATS:
        return SMALL_FLOATS[dtype].bits
    narrow = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
    return narrow.get(dtype, 8 * numpy_dtype(dtype).itemsize)


def limits(array: np.ndarray) -> tuple[float, float]:
    """The least and the greatest element there can be: infinities for floats."""
    if array.dtype == bool:
        return False, True
    if is_float(array.dtype.name):
        return -np.inf, np.inf
    return integer_limits(array.dtype.name)


def integer_limits(dtype: str) -> tuple[int, int]:
    """The least and the greatest number of an integer type."""
    bits = bits_of(dtype)
    return (0, (1 << bits) - 1) if dtype.startswith("uint") else (-(1 << bits - 1), (1 << bits - 1) - 1)


def widened(array: np.ndarray) -> np.ndarray:
    """`array` in float32 when it holds 16-bit floats, whose long sums would drift; else itself."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type (numpy's name) and shape of a value."""

    dtype: str
    shape: Shape

    def __post_init__(self) -> None:
        if self.dtype not in SHORT_NAMES:
            raise ValueError(f"unknown element type {self.dtype!r}; known: {', '.join(SHORT_NAMES)}")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements; the shape must be static."""
        return element_count(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense row-major buffer; the shape must be static."""
        return self.size * numpy_dtype(self.dtype).itemsize

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(self.dtype, shape)

    def __str__(self) -> str:
        return SHORT_NAMES[self.dtype] + format_shape(self.shape)
