"""Ternary numbers: x = scale * t, t in -1, 0, 1, with the threshold and the scale of least squared error.

With t = 1 for the k largest magnitudes the best scale is their mean, and the squared error is sum x**2 - (sum of the
k largest)**2 / k: the k that makes the second term largest is found from the sorted magnitudes, exactly. Five numbers
lie in a byte as digits to base 3 (3**5 = 243), the first one lowest.

Source: Li, Zhang and Liu, "Ternary Weight Networks" (2016), equations 3 to 6, without its assumption of a
distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorc.formats import blocks
from tensorc.formats.base import Format, Parts

#: Digits to base 3 in a byte.
DIGITS = 5
_POWERS = 3 ** np.arange(DIGITS, dtype=np.uint8)
#: Byte -> its digits.
_TABLE = (np.arange(3**DIGITS)[:, None] // _POWERS % 3).astype(np.uint8)


@dataclass(frozen=True)
class Ternary(Format):
    group: int | None = None

    @property
    def name(self) -> str:
        return "ternary" + ("" if self.group is None else f"-g{self.group}")

    @property
    def summary(self) -> str:
        return f"-1, 0 or 1, five in a byte, a scale for each {f'{self.group}' if self.group else 'row'}"

    @property
    def block(self) -> int | None:
        return self.group

    def encode(self, rows: np.ndarray) -> Parts:
        cut = blocks.cut(rows, self.group)
        kind = blocks.scale_type(self.group)
        threshold, scales = _best(np.abs(cut))
        scales = blocks.rounded(scales, kind)
        digits = np.where(np.abs(cut) >= threshold, np.sign(cut), 0) * (scales != 0) + 1
        codes = pack_digits(blocks.join(digits.astype(np.uint8), rows.shape[1]))
        return {"codes": codes, "scales": scales.astype(kind)[..., 0]}

    def decode(self, parts: Parts, length: int) -> np.ndarray:
        digits = blocks.cut(unpack_digits(parts["codes"], length).astype(np.float32) - 1, self.group)
        return blocks.join(digits * parts["scales"].astype(np.float32)[..., None], length)

    def size(self, rows: int, length: int) -> int:
        return rows * -(-length // DIGITS) + blocks.scale_bytes(rows, length, self.group)


def pack_digits(digits: np.ndarray) -> np.ndarray:
    """uint8 digits 0 to 2 [rows, length] to bytes; digits that are missing in the last byte are 0."""
    return np.asarray((blocks.cut(digits, DIGITS) * _POWERS).sum(axis=-1, dtype=np.uint8))


def unpack_digits(packed: np.ndarray, length: int) -> np.ndarray:
    return blocks.join(_TABLE[packed], length)


def _best(magnitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least magnitude that is not 0, and the scale, of each block: [rows, blocks, 1]."""
    if not magnitudes.shape[-1]:
        empty = np.zeros((*magnitudes.shape[:-1], 1), np.float32)
        return empty, empty
    falling = -np.sort(-magnitudes, axis=-1)
    sums = np.cumsum(falling, axis=-1, dtype=np.float64)
    counts = np.arange(1, falling.shape[-1] + 1)
    # Squares of float32's largest numbers, and of its smallest, fit in float64.
    best = np.argmax(np.square(sums) / counts, axis=-1)[..., None]
    scales = np.take_along_axis(sums, best, axis=-1) / (best + 1)
    return np.take_along_axis(falling, best, axis=-1), scales.astype(np.float32)
