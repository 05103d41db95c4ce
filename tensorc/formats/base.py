"""What every number format can do: quantize, dequantize, say its size and its error.

A format sees an array as rows: the axis that a product sums over (the reduction axis) comes last, all other axes are
one. Codes and scales of a row lie together, so that a kernel reads them in order. numpy only: this is what kernels
are tested against, and what packs weights when a model is compiled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tensorc.errors import UserError
from tensorc.formats.measures import Error, measure

#: The arrays of an encoded value by name. Those every format has: `codes`, packed, and nearly every one: `scales`.
Parts = Mapping[str, np.ndarray]

#: The shape that sizes are told for where there is no array: rows, length.
SHAPE = (4096, 4096)
_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True, eq=False)
class Encoded:
    """An array of `shape` in `format`; `axis`, not negative, is the reduction axis."""

    format: Format
    shape: tuple[int, ...]
    axis: int
    parts: Parts

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def dequantize(self) -> np.ndarray:
        """As float32, in the shape of the array that was quantized."""
        return self.format.dequantize(self)


class Format(ABC):
    """A number format. Subclasses are frozen dataclasses: equal fields are the same format."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What `tensorc.formats.find_format` makes this format of."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What it is, in a line."""

    @property
    @abstractmethod
    def block(self) -> int | None:
        """How many neighbours along the reduction axis share a scale; None: all of a row."""

    @abstractmethod
    def encode(self, rows: np.ndarray) -> Parts:
        """Finite float32 rows [rows, length] to arrays whose first axis is not always that of the rows."""

    @abstractmethod
    def decode(self, parts: Parts, length: int) -> np.ndarray:
        """float32 [rows, length]; what is larger than float32's largest number may be infinite here."""

    @abstractmethod
    def size(self, rows: int, length: int) -> int:
        """Bytes of what `encode` gives."""

    def quantize(self, array: np.ndarray, axis: int = -1) -> Encoded:
        """The array, which must be of finite numbers in float32's range, with scales shared along `axis`."""
        array = np.asarray(array)
        rows, axis = as_rows(array, axis)
        return Encoded(self, array.shape, axis, self.encode(rows))

    def dequantize(self, encoded: Encoded) -> np.ndarray:
        if encoded.format != self:
            raise UserError(f"a value in the format {encoded.format.name} is not one in {self.name}")
        rows = self.decode_finite(encoded.parts, encoded.shape[encoded.axis])
        return from_rows(rows, encoded.shape, encoded.axis)

    def decode_finite(self, parts: Parts, length: int) -> np.ndarray:
        """As `decode`: a code times a scale that was rounded up can pass float32's largest number, which it is then."""
        with np.errstate(over="ignore"):
            return np.asarray(np.clip(self.decode(parts, length), -_LARGEST, _LARGEST))

    def nbytes(self, shape: Sequence[int], axis: int = -1) -> int:
        """Bytes of an encoded array of this shape, scales included."""
        axis = _checked_axis(shape, axis)
        return self.size(_others(shape, axis), shape[axis])

    def bits_per_element(self, shape: Sequence[int] = SHAPE, axis: int = -1) -> float:
        """Of an encoded array of this shape, scales included."""
        return 8 * self.nbytes(shape, axis) / max(math.prod(shape), 1)

    def error(self, array: np.ndarray, axis: int = -1) -> Error:
        """What quantizing this array costs in accuracy."""
        return measure(array, self.quantize(array, axis).dequantize())


def as_rows(array: np.ndarray, axis: int) -> tuple[np.ndarray, int]:
    """The array as float32 rows along `axis`, and that axis, not negative."""
    if array.dtype.kind not in "fiuV" or array.dtype.names is not None:  # V: bfloat16 and other small floats
        raise UserError(f"numbers are quantized, not {array.dtype}")
    axis = _checked_axis(array.shape, axis)
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        wrong = "nan" if np.isnan(numbers).any() else "an infinity or a number past float32's largest"
        raise UserError(f"only finite numbers are quantized; the array holds {wrong}")
    moved = np.ascontiguousarray(np.moveaxis(numbers, axis, -1))
    return moved.reshape(_others(array.shape, axis), array.shape[axis]), axis


def from_rows(rows: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """What `as_rows` made rows of."""
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), -1, axis))


def _others(shape: Sequence[int], axis: int) -> int:
    return math.prod(shape[:axis]) * math.prod(shape[axis + 1 :])


def _checked_axis(shape: Sequence[int], axis: int) -> int:
    if not shape:
        raise UserError("a scalar has no axis along which scales could be shared")
    if not -len(shape) <= axis < len(shape):
        raise UserError(f"axis {axis} is not one of an array of shape {list(shape)}")
    return axis % len(shape)
