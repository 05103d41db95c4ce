"""L-Mul: integer additions that stand for products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorc.errors import UserError
from tensorc.formats import lmul

MANTISSAS = range(1, 12)


def operands(mantissa: int) -> np.ndarray:
    """All significands of so many bits, 1 up to 2."""
    return (1 + np.arange(2**mantissa) / 2**mantissa).astype(np.float32)


@pytest.mark.parametrize("mantissa", [1, 2, 3, 4, 5, 7])
def test_the_formula(mantissa: int) -> None:
    x = operands(mantissa)
    a = x[:, None].astype(np.float64) - 1
    b = x[None].astype(np.float64) - 1
    offset = {1: 0.5, 2: 0.25, 3: 0.125, 4: 0.125}.get(mantissa, 0.0625)
    total = a + b + offset
    expected = np.where(total < 1, 1 + total, np.where(total < 2, 2 * total, 4 * (total - 1)))
    np.testing.assert_array_equal(lmul.multiply(x[:, None], x[None], mantissa), expected)
    np.testing.assert_array_equal(lmul.multiply(-4 * x[:, None], x[None] / 8, mantissa), -expected / 2)


@pytest.mark.parametrize("mantissa", MANTISSAS)
def test_the_bounds_hold_and_are_reached(mantissa: int) -> None:
    x = operands(mantissa)
    ratio = lmul.multiply(x[:, None], x[None], mantissa) / (x[:, None].astype(np.float64) * x[None])
    least, largest = lmul.bounds(mantissa)
    assert least <= ratio.min()
    assert ratio.max() <= largest
    assert ratio[0, 0] == largest
    if mantissa > 6:
        assert ratio.min() < least * 1.001


@settings(max_examples=200, deadline=None)
@given(st.floats(-(2.0**50), 2.0**50, width=32), st.floats(-(2.0**50), 2.0**50, width=32), st.integers(1, 22))
def test_any_numbers_are_within_bounds(x: float, y: float, mantissa: int) -> None:
    product = float(lmul.multiply(np.float32(x), np.float32(y), mantissa))
    exact = x * y
    if min(abs(x), abs(y)) < 1e-18:  # the product can be below the normal numbers
        assert abs(product) <= abs(exact) * 3
        return
    least, largest = lmul.bounds(mantissa)
    rounding = 1 + 2.0 ** -(mantissa + 1)
    assert least / rounding**2 <= product / exact <= largest * rounding**2


def test_zeros_signs_and_ends() -> None:
    largest = np.finfo(np.float32).max
    x = np.array([0, -0.0, 1e-45, 3, -3, largest, -largest, 1e-30, largest], np.float32)
    y = np.array([5, 5, largest, -2, -2, largest, largest, 1e-30, 0], np.float32)
    result = lmul.multiply(x, y, 3)
    assert np.isfinite(result).all()
    assert result[:3].tolist() == [0, 0, 0]
    assert result[3] == -result[4] < 0
    assert result[5] == -result[6] == np.float32(1.875 * 2.0**127)
    assert result[7:].tolist() == [0, 0]
    with pytest.raises(ValueError, match="only finite numbers"):
        lmul.multiply(np.array([np.nan]), np.ones(1), 3)
    with pytest.raises(UserError, match="1 to 22 bits of mantissa, not 0"):
        lmul.multiply(x, y, 0)


def test_operands_are_rounded_to_even() -> None:
    # Two bits of mantissa: 1.125 lies between 1 and 1.25, 1.375 between 1.25 and 1.5, 1.9 is next to 2.
    rounded = [lmul.multiply(np.float32(v), np.float32(1), 2) for v in (1.125, 1.375, 1.9)]
    assert rounded == [lmul.multiply(np.float32(v), np.float32(1), 2) for v in (1.0, 1.5, 2.0)]


def test_products_of_matrices() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 300)).astype(np.float32), rng.standard_normal((300, 5)).astype(np.float32)
    exact = x.astype(np.float64) @ y
    error = {
        m: np.sqrt(np.mean(np.square(lmul.matmul(x, y, m) - exact)) / np.mean(np.square(exact))) for m in (3, 4, 7)
    }
    assert error[7] < 0.05
    assert error[4] < error[3] < 0.3
    by_hand = sum(lmul.multiply(x[0, k], y[k, 0], 3) for k in range(300))
    np.testing.assert_allclose(lmul.matmul(x, y, 3)[0, 0], by_hand, rtol=1e-5)
