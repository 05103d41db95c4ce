"""OliVe: integers of 4 bits where an outlier takes the place of its neighbour.

Neighbours along the reduction axis are pairs. In a usual pair both codes are integers -7 .. 7. The code -8 (1000)
says that its own number is given up (a "victim", read as 0) and that the other code is an outlier: a float with a
sign, two bits of exponent and one of mantissa and an adaptive bias ("abfloat"),

    sign * (2 + mantissa) * 2**(exponent + bias):  3, 4, 6, 8, 12, 16, 24 * 2**bias;  code 0 is not used.

All are times a scale for each group or row. Bias 2 begins at 12, where integers end. Here each pair takes the kind of
least squared error, the scale is the one of least squared error among those with which the largest magnitude is a
value of the format (and some between), and the bias the least with which it is in reach.

Source: Guo et al., "OliVe: Accelerating Large Language Models via Hardware-friendly Outlier-Victim Pair Quantization"
(ISCA 2023), sections 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tensorc.formats import bits, blocks
from tensorc.formats.base import Format, Parts

WIDTH = 4
VICTIM = 0b1000
TOP = 7
LEAST_BIAS = 2
MOST_BIAS = 4
#: What the three lower bits of an outlier's code stand for, before the bias. 0 is no outlier.
_OUTLIERS = np.array([0, 3, 4, 6, 8, 12, 16, 24], np.float32)
#: From where on a number is nearer to the next one of them: outliers are not 0.
_BOUNDS = (_OUTLIERS[1:-1] + _OUTLIERS[2:]) / 2
#: Numbers up to here are nearer to the largest integer than to any outlier.
_NEAREST_TO_TOP = (TOP + 3 * 2**LEAST_BIAS) / 2
#: Largest magnitude over scale.
_DIVISORS = (7, 9, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 384)


@dataclass(frozen=True)
class Olive(Format):
    group: int | None = None

    @property
    def name(self) -> str:
        return f"olive{WIDTH}" + ("" if self.group is None else f"-g{self.group}")

    @property
    def summary(self) -> str:
        return f"4-bit integers, outliers in place of neighbours, a scale for each {self.group or 'row'}"

    @property
    def block(self) -> int | None:
        return self.group

    def encode(self, rows: np.ndarray) -> Parts:
        length = rows.shape[1]
        # A row of odd length has half a pair at its end; that half is stored only where whole bytes have room for it.
        even = np.pad(rows, ((0, 0), (0, length % 2)))
        cut = blocks.cut(even, self.group)
        kind = blocks.scale_type(self.group)
        scales = blocks.best_scales(cut, _DIVISORS, _nearest, kind)
        codes, bias = _encode(blocks.divide(cut, scales))
        return {
            "codes": bits.pack(blocks.join(codes, even.shape[1]), WIDTH),
            "scales": scales.astype(kind)[..., 0],
            "biases": bias[..., 0],
        }

    def decode(self, parts: Parts, length: int) -> np.ndarray:
        codes = blocks.cut(bits.unpack(parts["codes"], WIDTH, length + length % 2), self.group)
        steps = _decode(codes, parts["biases"][..., None])
        return blocks.join(steps * parts["scales"].astype(np.float32)[..., None], length)

    def size(self, rows: int, length: int) -> int:
        scales = blocks.scale_bytes(rows, length, self.group) + rows * blocks.block_count(length, self.group)
        return rows * bits.packed_bytes(length, WIDTH) + scales


def _nearest(steps: np.ndarray) -> np.ndarray:
    """What numbers [rows, blocks, even] that were divided by their scale become."""
    numbers = np.clip(np.rint(steps, order="C"), -TOP, TOP)
    found = _outlier_pairs(steps, _biases(steps))
    numbers.reshape(-1, 2)[found.pairs] = 0
    numbers.reshape(-1)[2 * found.pairs + found.second] = found.numbers
    return np.asarray(numbers)


def _encode(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the same, and the bias of each block."""
    codes = np.clip(np.rint(steps, order="C"), -TOP, TOP).astype(np.int8).view(np.uint8) & 0b1111
    biases = _biases(steps)
    found = _outlier_pairs(steps, biases)
    codes.reshape(-1, 2)[found.pairs] = VICTIM
    codes.reshape(-1)[2 * found.pairs + found.second] = found.codes
    return codes, biases


def _decode(codes: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Numbers before they are multiplied by their scale."""
    usual = ((codes ^ VICTIM).astype(np.int8) - VICTIM).astype(np.float32)
    unit = np.ldexp(np.float32(1), biases.astype(np.int32))
    outliers = np.where(codes & VICTIM, -unit, unit) * _OUTLIERS[codes & 0b111]
    victims = codes == VICTIM
    beside = np.empty_like(victims)
    beside[..., 0::2], beside[..., 1::2] = victims[..., 1::2], victims[..., 0::2]
    return np.asarray(np.where(victims, np.float32(0), np.where(beside, outliers, usual)))


def _biases(steps: np.ndarray) -> np.ndarray:
    """The least bias of each block with which its peak is in reach: uint8 [rows, blocks, 1]."""
    peak = np.abs(blocks.peaks(steps))
    # Up to 28, between 24 and the next one there would be, the nearest is 24.
    reach = 28 * 2**LEAST_BIAS
    return np.asarray(LEAST_BIAS + (peak > reach).astype(np.uint8) + (peak > 2 * reach).astype(np.uint8))


class _Outliers(NamedTuple):
    #: Which pairs of all hold an outlier, whether it is their second number, its code and what that stands for.
    pairs: np.ndarray
    second: np.ndarray
    codes: np.ndarray
    numbers: np.ndarray


def _outlier_pairs(steps: np.ndarray, biases: np.ndarray) -> _Outliers:
    """The pairs that have a smaller squared error with an outlier than as two integers; none in blocks full of them."""
    large = np.abs(steps) > _NEAREST_TO_TOP
    # Where many numbers are large the scale is too small, and it is not worth the time to say how bad it is.
    large &= large.sum(axis=-1, keepdims=True) <= max(1, steps.shape[-1] // 4)
    pairs = np.flatnonzero(large[..., 0::2] | large[..., 1::2])
    both = steps.reshape(-1, 2)[pairs]
    unit = np.ldexp(np.float32(1), biases.reshape(-1)[pairs // (steps.shape[-1] // 2)].astype(np.int32))
    index = 1 + np.searchsorted(_BOUNDS, np.abs(both) / unit[:, None])
    numbers = np.copysign(_OUTLIERS[index] * unit[:, None], both)
    one = np.square(both - numbers) + np.square(both[:, ::-1])
    none = np.square(both - np.clip(np.rint(both), -TOP, TOP)).sum(axis=1)
    second = (one[:, 1] < one[:, 0]).astype(np.int64)
    row = np.arange(len(pairs))
    kept = one[row, second] < none
    codes = index.astype(np.uint8) | np.where(both < 0, np.uint8(VICTIM), np.uint8(0))
    return _Outliers(pairs[kept], second[kept], codes[row, second][kept], numbers[row, second][kept])
