"""L-Mul: floats multiplied by one addition of integers, emulated. For the FPGA target; no CPU gains by it.

With mantissas of m bits, x = +-(1 + a) 2**e and y = +-(1 + b) 2**f,

    x y  is taken for  +-(1 + a + b + 2**-l) 2**(e+f),   l = m for m <= 3, 3 for m = 4, 4 for m > 4,

by adding exponents and mantissas as one integer: where 1 + a + b + 2**-l reaches 2, the carry goes into the exponent,
and 2 (a + b + 2**-l) 2**(e+f) is what comes out (Mitchell's logarithmic product, with the mean of a b in its
constant).

Error, relative to the product of the operands as rounded to m bits, with d = 2**-l: the approximation over the
product is (1 + a + b + d) / ((1 + a)(1 + b)) below the carry, falling in a + b, and least for a = b = (1 - d) / 2;
above it 2 (a + b + d) / ((1 + a)(1 + b)), which is no smaller; neither is more than 1 + d. So it lies in [8 / (3 -
d)**2, 1 + d].

Source: Luo and Sun, "Addition is All You Need for Energy-efficient Language Models" (2024), section 2.2; the bounds
above are worked out here, the paper has the expectation.
"""

from __future__ import annotations

import numpy as np

from tensorc.errors import UserError

SUMMARY = "L-Mul: floats multiplied by adding exponents and mantissas as integers"
#: Of float32, which holds the operands and the results.
_MANTISSA = 23
_BIAS = 127
_MAGNITUDE = np.int64(0x7FFFFFFF)


def offset_bits(mantissa: int) -> int:
    """l for m bits of mantissa: the constant that stands for the product of the mantissas is 2**-l."""
    return mantissa if mantissa <= 3 else 3 if mantissa == 4 else 4


def bounds(mantissa: int) -> tuple[float, float]:
    """Least and largest of the approximate over the exact product of operands with so many bits of mantissa."""
    d = 2.0 ** -offset_bits(_checked(mantissa))
    return 8 / (3 - d) ** 2, 1 + d


def multiply(x: np.ndarray, y: np.ndarray, mantissa: int) -> np.ndarray:
    """Elementwise in float32, operands rounded to `mantissa` bits first (1 to 22), ties to even.

    The exponents are float32's: results past its range are its largest number of m bits, those below its normal numbers
    are 0, as are operands. Numbers must be finite.
    """
    kept = _MANTISSA - _checked(mantissa)
    left, right = np.asarray(x, np.float32), np.asarray(y, np.float32)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise UserError("only finite numbers are multiplied by additions")
    least, largest = 1 << mantissa, (255 << mantissa) - 1
    first, second = _magnitude(left, kept, largest), _magnitude(right, kept, largest)
    total = first + second - (_BIAS << mantissa) + (1 << (mantissa - offset_bits(mantissa)))
    zero = (first < least) | (second < least) | (total < least)
    result = np.where(zero, 0, np.minimum(total, largest)) << kept
    magnitude = result.astype(np.int32).view(np.float32)
    return np.where(np.signbit(left) != np.signbit(right), -magnitude, magnitude)


def matmul(x: np.ndarray, y: np.ndarray, mantissa: int) -> np.ndarray:
    """[m, k] times [k, n]: products by `multiply`, sums in float32."""
    total = np.zeros((x.shape[0], y.shape[1]), np.float32)
    for k in range(x.shape[1]):
        total += multiply(x[:, k, None], y[None, k], mantissa)
    return total


def _magnitude(numbers: np.ndarray, dropped: int, largest: int) -> np.ndarray:
    """Exponent and mantissa as one integer, rounded to the bits that are kept."""
    whole = numbers.view(np.int32).astype(np.int64) & _MAGNITUDE
    even = whole >> dropped & 1
    return np.asarray(np.minimum(whole + (1 << (dropped - 1)) - 1 + even >> dropped, largest))


def _checked(mantissa: int) -> int:
    if not 1 <= mantissa < _MANTISSA:
        raise UserError(f"L-Mul takes 1 to {_MANTISSA - 1} bits of mantissa, not {mantissa}")
    return mantissa
