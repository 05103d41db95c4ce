"""Element types and the one value type of the graph IR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorc.ir.dims import Dim, Shape, element_count, format_shape

#: Short name in the text form -> numpy's name. bfloat16 is ml_dtypes' and is resolved on demand.
DTYPES: dict[str, str] = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8",
    "bool": "bool",
}  # fmt: skip
#: Text is known to the IR so that graphs on the host can hold it; no kernel can.
SHORT_NAMES = {name: short for short, name in DTYPES.items()} | {"string": "str"}


def numpy_dtype(name: str) -> np.dtype:
    """numpy's dtype for one of the names in `DTYPES`' values."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(object if name == "string" else name)


def is_float(dtype: str) -> bool:
    return dtype in ("float64", "float32", "float16", "bfloat16")


def limits(array: np.ndarray) -> tuple[float, float]:
    """The least and the greatest element there can be: infinities for floats."""
    if array.dtype == bool:
        return False, True
    if is_float(array.dtype.name):
        return -np.inf, np.inf
    info = np.iinfo(array.dtype)
    return int(info.min), int(info.max)


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
