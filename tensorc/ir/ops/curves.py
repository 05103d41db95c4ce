"""Tables that integer hardware computes functions with, and the arithmetic on them, in numpy's integers.

Exponentials come from a table of every difference that matters. Reciprocals and reciprocal roots of whole numbers are
normalised by their leading bit, then read from a short table with linear interpolation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

#: Arithmetic is done in int64.
MOST_INTEGER_BITS = 63


@lru_cache(maxsize=64)
def exponentials(fraction: int, bits: int) -> np.ndarray:
    """exp(-d / 2^fraction) * 2^bits for d = 0, 1, ... to the first that is 0, rounded: int64. Not to be written to."""
    last = math.ceil((bits + 1) * math.log(2) * 2.0**fraction)
    table = np.rint(np.exp(-np.arange(last + 1) * 2.0**-fraction) * 2.0**bits).astype(np.int64)
    table = table[: int(np.argmin(table)) + 1]
    table.flags.writeable = False
    return np.asarray(table)


def weight_bits(count: int, bits: int) -> int:
    """Bits behind the point of exponentials, `count` of which are summed up: their errors of half a step each make no
    more than 2^-(bits + 1) of the sum, which is 1 at least."""
    return max(bits + math.ceil(math.log2(count)), 1)


@dataclass(frozen=True)
class Reciprocal:
    """1 / x, or 1 / sqrt(x), of whole numbers x > 0, off by a part in 2^bits at most.

    x is m 4^j or m 2^j with m in [1, 4) or [1, 2), cut to `bits` + 1 bits behind the point (an error of 2^-(bits + 1)).
    Those in front choose a piece, 2^-pieces wide; the line through the values at its ends is off by 2^-(bits + 2), and
    the values' rounding by as much.
    """

    bits: int
    root: bool = False

    @property
    def mantissa(self) -> int:
        """Bits of m behind the point."""
        return self.bits + 1

    @property
    def pieces(self) -> int:
        return (self.bits + 1) // 2

    @property
    def within(self) -> int:
        """Bits that say where in a piece m lies."""
        return self.mantissa - self.pieces

    @property
    def fraction(self) -> int:
        """Bits of the result behind the point, its power of two apart."""
        return self.bits + 2 + self.within

    @cached_property
    def values(self) -> np.ndarray:
        """At the ends of pieces, int64, with `bits` + 2 bits behind the point."""
        m = 1 + np.arange((3 if self.root else 1) * (1 << self.pieces) + 1) * 2.0**-self.pieces
        return np.asarray(np.rint((m**-0.5 if self.root else 1 / m) * 2.0 ** (self.bits + 2)).astype(np.int64))

    @cached_property
    def slopes(self) -> np.ndarray:
        return np.diff(self.values)

    def of(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(y, j): the result is y / 2^(fraction + j)."""
        j = leading_bit(x) >> int(self.root)
        drop = (j << int(self.root)) - self.mantissa
        m = np.where(drop > 0, x >> np.maximum(drop, 0), x << np.maximum(-drop, 0))  # no number leaves its 64 bits
        piece = (m >> self.within) - (1 << self.pieces)
        along = m & ((1 << self.within) - 1)
        return (self.values[piece] << self.within) + along * self.slopes[piece], j


def leading_bit(x: np.ndarray) -> np.ndarray:
    """The number of the highest bit that is set in each of some numbers > 0."""
    found = np.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        far = (x >> (found + step)) > 0
        found = np.where(far, found + step, found)
    return found


def halved(x: np.ndarray, shift: int) -> np.ndarray:
    """x / 2^shift, rounded: half is rounded up."""
    return (x + (1 << shift - 1)) >> shift if shift > 0 else x << -shift
