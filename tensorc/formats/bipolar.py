"""Bipolar integers of any width: sums of +-2**i, kept as bit planes, multiplied by XOR and population counts.

A number of b bits is v = sum_i s_i 2**i with signs s_i in -1, 1: the odd integers -(2**b - 1) .. 2**b - 1. Bit i of
its code c is 1 where s_i is 1, so v = 2c - (2**b - 1). x = v * scale, a scale for each row, that of least squared
error. There is no 0, and no sign bit that needs a treatment of its own: all planes multiply alike. For planes p of x
and q of y, of K bits,

    sum_k s_k t_k = 2 popcount(XNOR(p, q)) - K = K - 2 popcount(p XOR q),
    x . y = sum_ij 2**(i+j) (K - 2 popcount(p_i XOR q_j)).

Unsigned codes multiply by AND: c . d = sum_ij 2**(i+j) popcount(p_i AND q_j). Both are exact.

Source: Ma et al., "Efficient Arbitrary Precision Acceleration for Large Language Models on GPU Tensor Cores" (2024),
section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tensorc.errors import UserError
from tensorc.formats import blocks
from tensorc.formats.base import Encoded, Format, Parts

#: How much of the range is kept. Without a 0 all small numbers suffer from a large scale, so very little of it may do.
_KEPT = tuple(0.86**k for k in range(36))
_ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class Bipolar(Format):
    """`codes` are uint8 [width, rows, bytes]: plane i holds bit i, as `planes` makes them."""

    width: int

    @property
    def name(self) -> str:
        return f"bipolar{self.width}"

    @property
    def summary(self) -> str:
        return f"sums of +-1 to +-{2 ** (self.width - 1)} in {self.width} bit planes, a scale for each row"

    @property
    def block(self) -> None:
        return None

    @property
    def _top(self) -> int:
        return (1 << self.width) - 1

    def encode(self, rows: np.ndarray) -> Parts:
        cut = blocks.cut(rows, None)
        divisors = [self._top / kept for kept in _KEPT]
        scales = blocks.best_scales(cut, divisors, self._nearest, blocks.scale_type(None))
        codes = (self._nearest(blocks.divide(cut, scales)) + self._top) / 2
        return {"codes": planes(codes[:, 0].astype(np.uint8), self.width), "scales": scales[:, :, 0]}

    def decode(self, parts: Parts, length: int) -> np.ndarray:
        return self._numbers(parts, length).astype(np.float32) * parts["scales"]

    def size(self, rows: int, length: int) -> int:
        return self.width * rows * -(-length // 8) + blocks.scale_bytes(rows, length, None)

    def integers(self, encoded: Encoded) -> np.ndarray:
        """The odd integers of an encoded value as int32 [rows, length]."""
        return self._numbers(encoded.parts, encoded.shape[encoded.axis])

    def _numbers(self, parts: Parts, length: int) -> np.ndarray:
        return 2 * codes_of(parts["codes"], length).astype(np.int32) - self._top

    def _nearest(self, steps: np.ndarray) -> np.ndarray:
        odd = 2 * np.rint((steps - 1) / 2) + 1
        return np.asarray(np.clip(odd, -self._top, self._top))


def planes(codes: np.ndarray, width: int) -> np.ndarray:
    """uint8 codes [rows, length] to their bits: uint8 [width, rows, ceil(length / 8)], lowest bits of a byte first."""
    shifts = np.arange(width, dtype=np.uint8)[:, None, None]
    return np.packbits(codes >> shifts & 1, axis=-1, bitorder="little")


def codes_of(bit_planes: np.ndarray, length: int) -> np.ndarray:
    """The codes that `planes` was given."""
    ones = np.unpackbits(bit_planes, axis=-1, count=length, bitorder="little")
    shifts = np.arange(len(bit_planes), dtype=np.uint8)[:, None, None]
    return np.asarray(np.bitwise_or.reduce(ones << shifts, axis=0))


def matmul(left: Encoded, right: Encoded) -> np.ndarray:
    """Rows of `left` times rows of `right`, float32 [m, n]: the integers' product, exact, times both scales."""
    for value in (left, right):
        if not isinstance(value.format, Bipolar):
            raise UserError(f"bit planes multiply bipolar integers, not {value.format.name}")
    length, other = left.shape[left.axis], right.shape[right.axis]
    if length != other:
        raise UserError(f"rows of {length} and of {other} elements have no product")
    whole = signed_product(left.parts["codes"], right.parts["codes"], length)
    return whole.astype(np.float32) * left.parts["scales"] * right.parts["scales"].T


def signed_product(left: np.ndarray, right: np.ndarray, length: int) -> np.ndarray:
    """Bit planes [a, m, bytes] and [b, n, bytes] of rows of `length` bits, as sums of +-2**i: int64 [m, n]."""
    # Bits past the end are 0 in both, hence never different.
    return _recombined(left, right, lambda p, q: length - 2 * _count(p ^ q))


def unsigned_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The same planes as sums of 2**i."""
    return _recombined(left, right, lambda p, q: _count(p & q))


def _recombined(
    left: np.ndarray, right: np.ndarray, product: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    total = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for i, p in enumerate(left):
        for j, q in enumerate(right):
            total += product(p[:, None], q[None]) << (i + j)
    return total


def _count(packed: np.ndarray) -> np.ndarray:
    return np.asarray(_ONES[packed].sum(axis=-1, dtype=np.int64))
