"""Products by L-Mul, see `tensorc.ir.ops.lmul`: an addition and a shift instead of a multiplication."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from targets.hls.expressions import Const, Expr, LeadingBit, ShiftBy, greater, select, within
from targets.hls.layers.kept import load
from targets.hls.program import Kind, Let, Memory
from tensorc.ir.ops.lmul import MANTISSA, OFFSET, pattern_of, patterns

_ONE = 1 << MANTISSA


class LogWeights:
    """Known weights as signs and patterns, to which the offset has been added. `words` gives them, `most` is the
    greatest absolute value; there are `depth` words of `lanes`."""

    def __init__(self, words: Callable[[], np.ndarray], most: int, lanes: int, depth: int):
        highest = pattern_of(most) + OFFSET
        self.signs = Memory("signs", Kind(-1, 1), lanes, depth, partial(_signs, words))
        self.patterns = Memory("weights", Kind(OFFSET, highest), lanes, depth, partial(_patterns, words))

    def product(self, number: int, x: tuple[Let, Let], at: Expr, lane: Expr) -> tuple[tuple[Let, Let], Expr]:
        """By what `taken` made of x: names for a lane, and the product, with `MANTISSA` bits behind the point."""
        value, pattern = x
        total = Let(f"total{number}", pattern.local + load(self.patterns, at, lane))
        exponent = total.local >> MANTISSA
        mantissa = within(total.local - (exponent << MANTISSA), 0, _ONE - 1) + _ONE
        most = total.value.high >> MANTISSA
        high = max((_ONE + (total.value.high & _ONE - 1)) << most, (2 * _ONE - 1) << most >> 1)
        size = Let(f"size{number}", _shifted(mantissa << most, Const.of(most) - exponent, high))
        sign = load(self.signs, at, lane)
        is_negative = (value.local < 0).equals(sign < 0)
        signed = select(is_negative, size.local, Const.of(0) - size.local)
        return (total, size), select(value.local.equals(0), 0, select(sign.equals(0), 0, signed))


def _shifted(x: Expr, count: Expr, high: int) -> Expr:
    if isinstance(count, Const):
        return x >> count.value
    return ShiftBy(x.low >> count.high, high, x, count)


def taken(number: int, x: Expr) -> Iterator[Let]:
    """Names for a number and its pattern; where it is 0, that of 1."""
    value = Let(f"x{number}", x)
    yield value
    known = value.local
    size = Let(f"size_of{number}", greater(select(known < 0, Const.of(0) - known, known), 1))
    yield size
    bit = Let(f"bit{number}", LeadingBit(0, size.value.high.bit_length() - 1, size.local))
    yield bit
    cut = ShiftBy(_ONE, 2 * _ONE - 1, size.local << MANTISSA, bit.local)
    highest = pattern_of(size.value.high)
    yield Let(f"pattern{number}", within((bit.local << MANTISSA) + (cut - _ONE), 0, highest))


def _signs(words: Callable[[], np.ndarray]) -> np.ndarray:
    return np.asarray(np.sign(words()))


def _patterns(words: Callable[[], np.ndarray]) -> np.ndarray:
    return patterns(words().astype(np.float64)) + OFFSET
