"""Codes in bytes: exact round trips, and the order of the bits that kernels rely on."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tensorc.formats import bits
from tensorc.formats.bipolar import codes_of, planes
from tensorc.formats.ternary import pack_digits, unpack_digits

ROWS, LENGTHS, SEEDS = st.integers(0, 3), st.integers(0, 40), st.integers(0, 2**32 - 1)


@given(st.integers(1, 8), ROWS, LENGTHS, SEEDS)
def test_codes_come_back(width: int, rows: int, length: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**width, (rows, length), np.uint8)
    packed = bits.pack(codes, width)
    assert packed.dtype == np.uint8
    assert packed.shape == (rows, bits.packed_bytes(length, width))
    np.testing.assert_array_equal(bits.unpack(packed, width, length), codes)
    in_order = (codes[..., None] >> np.arange(width, dtype=np.uint8) & 1).reshape(rows, length * width)
    np.testing.assert_array_equal(packed, np.packbits(in_order, axis=1, bitorder="little"))


def test_low_codes_lie_in_low_bits() -> None:
    assert bits.pack(np.array([[1, 15, 2]], np.uint8), 4).tolist() == [[0xF1, 0x02]]
    assert bits.pack(np.array([[1, 2, 7]], np.uint8), 3).tolist() == [[0b11_010_001, 0b1]]


@given(ROWS, LENGTHS, SEEDS)
def test_ternary_digits_come_back(rows: int, length: int, seed: int) -> None:
    digits = np.random.default_rng(seed).integers(0, 3, (rows, length), np.uint8)
    packed = pack_digits(digits)
    assert packed.shape == (rows, -(-length // 5))
    np.testing.assert_array_equal(unpack_digits(packed, length), digits)


@given(st.integers(1, 8), ROWS, LENGTHS, SEEDS)
def test_bit_planes_come_back(width: int, rows: int, length: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**width, (rows, length), np.uint8)
    packed = planes(codes, width)
    assert packed.shape == (width, rows, -(-length // 8))
    np.testing.assert_array_equal(codes_of(packed, length), codes)
