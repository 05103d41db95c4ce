"""Expressions know the intervals of their values, and the printers write what they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.hls.expressions import (
    FALSE,
    TRUE,
    Binary,
    Const,
    Counter,
    Select,
    Shift,
    clamp,
    greater,
    round_to,
    select,
    smaller,
)
from targets.hls.layers.elements import Number, floor_divide, rounded
from tensorc.fixed_point import bits_for

SMALL = st.integers(-40, 40)


def value_of(x, names):
    """What an expression is for values of its counters."""
    match x:
        case Const():
            return x.value
        case Counter():
            return names[x.name]
        case Binary():
            a, b = value_of(x.a, names), value_of(x.b, names)
            return {"add": a + b, "sub": a - b, "mul": a * b, "min": min(a, b), "max": max(a, b), "lt": int(a < b),
                    "le": int(a <= b), "eq": int(a == b), "and": int(a and b)}[x.op]  # fmt: skip
        case Shift():
            inner = value_of(x.x, names)
            return inner << x.count if x.count > 0 else inner >> -x.count
        case Select():
            return value_of(x.a if value_of(x.condition, names) else x.b, names)
    raise TypeError(x)


@st.composite
def _expressions(draw, depth=3):
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.one_of(SMALL.map(Const.of), st.sampled_from([Counter(0, 6, "i"), Counter(-9, 4, "j")])))
    a, b = (draw(_expressions(depth=depth - 1)) for _ in range(2))
    return draw(st.sampled_from([
        a + b, a - b, a * b, smaller(a, b), greater(a, b), a << 2, a >> 1, select(a < b, a, b),
        select(a.equals(b), b, a), clamp(a, -5, 17), round_to(a, 3, 1, -8, 7), select((a <= b) & (b < 9), a, b),
    ]))  # fmt: skip


@given(_expressions(), st.integers(0, 6), st.integers(-9, 4))
def test_values_lie_in_their_intervals(x, i, j):
    value = value_of(x, {"i": i, "j": j})
    assert x.low <= value <= x.high
    assert bits_for(value, value) <= x.bits or x.signed


@given(st.integers(-5000, 5000), st.integers(1, 300))
def test_division_by_a_constant_is_exact(value, by):
    x = Counter(-5000, 5000, "i")
    assert value_of(floor_divide(x, by), {"i": value}) == value // by


@given(st.integers(-(1 << 12), 1 << 12), st.integers(0, 6), st.integers(0, 6), st.sampled_from([1, 3, 7, 49]))
def test_rounding_is_that_of_fix(value, have, wanted, divisor):
    from fractions import Fraction
    from math import floor

    number = Number(Counter(-(1 << 12), 1 << 12, "i"), have, divisor)
    exact = floor(Fraction(value, 2**have * divisor) * 2**wanted + Fraction(1, 2))
    got = value_of(rounded(number, wanted, -100, 100), {"i": value})
    assert got == min(max(exact, -100), 100)


def test_what_intervals_tell_is_a_constant():
    i = Counter.of("i", 8)
    assert (i < 8) == TRUE
    assert i.equals(9) == FALSE
    assert ((i < 8) & (i < 3)) == (i < 3)
    assert Counter.of("once", 1) * 5 + i == i
    assert i - 0 == i
    assert smaller(i, 10) == i


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 0, 1), (0, 1, 1), (0, 255, 8), (-1, 0, 1), (-128, 127, 8),
                                                   (-129, 0, 9), (-1, 128, 9)])  # fmt: skip
def test_bits(low, high, bits):
    assert bits_for(low, high) == bits
