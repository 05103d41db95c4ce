"""Bipolar integers: products of bit planes are products of integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorc.errors import UserError
from tensorc.formats import bipolar, find_format
from tensorc.formats.bipolar import Bipolar

WIDTHS, SEEDS = st.integers(1, 8), st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None)
@given(WIDTHS, WIDTHS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 40), SEEDS)
def test_products_are_exact(a: int, b: int, m: int, n: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 2**a, (m, length), np.uint8), rng.integers(0, 2**b, (n, length), np.uint8)
    p, q = bipolar.planes(left, a), bipolar.planes(right, b)
    x, y = left.astype(np.int64), right.astype(np.int64)
    np.testing.assert_array_equal(bipolar.unsigned_product(p, q), x @ y.T)
    odd_x, odd_y = 2 * x - (2**a - 1), 2 * y - (2**b - 1)
    np.testing.assert_array_equal(bipolar.signed_product(p, q, length), odd_x @ odd_y.T)


@pytest.mark.parametrize("width", range(1, 9))
def test_numbers_are_sums_of_signed_powers(width: int) -> None:
    format = Bipolar(width)
    top = 2**width - 1
    row = np.arange(-top, top + 1, 2, dtype=np.float32)[None] * 0.5
    encoded = format.quantize(row)
    np.testing.assert_array_equal(format.integers(encoded), row * 2)
    np.testing.assert_array_equal(encoded.dequantize(), row)
    signs = 2 * np.unpackbits(encoded.parts["codes"], axis=-1, count=row.size, bitorder="little").astype(int) - 1
    np.testing.assert_array_equal((signs[:, 0] * 2 ** np.arange(width)[:, None]).sum(axis=0), row[0] * 2)


def test_products_of_encoded_values() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 100)), rng.standard_normal((7, 100))
    left, right = find_format("bipolar4").quantize(x), find_format("bipolar3").quantize(w)
    np.testing.assert_allclose(
        bipolar.matmul(left, right), left.dequantize().astype(np.float64) @ right.dequantize().T, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(UserError, match="rows of 100 and of 99 elements"):
        bipolar.matmul(left, find_format("bipolar3").quantize(w[:, :99]))
    with pytest.raises(UserError, match="bit planes multiply bipolar integers, not int4"):
        bipolar.matmul(left, find_format("int4").quantize(w))


def test_one_bit_is_the_mean_magnitude() -> None:
    row = np.random.default_rng(1).standard_normal((1, 1000)).astype(np.float32)
    row[0, 0] = 60
    best = np.square(row - np.sign(row) * np.abs(row).mean()).sum()
    assert np.square(row - find_format("bipolar1").quantize(row).dequantize()).sum() < best * 1.005
