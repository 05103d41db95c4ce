"""Integers and ternary numbers: their scales are the best there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorc.formats import bits, find_format


def squared(exact: np.ndarray, approximation: np.ndarray) -> float:
    return float(np.square(exact.astype(np.float64) - approximation).sum())


def test_eight_bits_are_the_usual_ones() -> None:
    row = np.array([[1.0, -2.54, 0.013]], np.float32)
    encoded = find_format("int8").quantize(row)
    assert encoded.parts["scales"][0, 0] == np.float32(2.54) / np.float32(127)
    assert (encoded.parts["codes"].astype(int) - 128).tolist() == [[50, -127, 1]]


def test_parts_of_groups() -> None:
    array = np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32)
    parts = find_format("int4-g32-asym").quantize(array).parts
    assert parts["codes"].shape == (3, 35)
    assert parts["scales"].shape == (3, 3)
    assert str(parts["scales"].dtype) == "bfloat16"
    assert parts["zeros"].shape == (3, 2)
    q = bits.unpack(parts["codes"], 4, 70).astype(np.float32)
    zero = bits.unpack(parts["zeros"], 4, 3).astype(np.float32)
    by_hand = (q - np.repeat(zero, 32, 1)[:, :70]) * np.repeat(parts["scales"].astype(np.float32), 32, 1)[:, :70]
    np.testing.assert_array_equal(find_format("int4-g32-asym").quantize(array).dequantize(), by_hand)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_search_beats_the_whole_range(width: int) -> None:
    rng = np.random.default_rng(width)
    top = 2 ** (width - 1) - 1
    for array in (rng.standard_normal((4, 256)), rng.standard_t(3, (4, 256))):
        scale = np.abs(array).max(axis=1, keepdims=True) / top
        plain = np.rint(array / scale) * scale
        found = find_format(f"int{width}").quantize(array).dequantize()
        assert squared(array, found) < 0.9 * squared(array, plain)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_search_beats_the_whole_range_with_zero_points(width: int) -> None:
    array = np.random.default_rng(width).standard_t(3, (4, 256))
    low, high = (end(array, axis=1, keepdims=True) for end in (np.min, np.max))
    scale = (high - low) / (2**width - 1)
    plain = np.rint((array - low) / scale) * scale + low
    found = find_format(f"int{width}-asym").quantize(array).dequantize()
    assert squared(array, found) < 0.9 * squared(array, plain)


def test_the_side_with_one_code_more_is_that_of_the_peak() -> None:
    for row in (np.arange(-8.0, 8), np.arange(-7.0, 9), np.arange(-7.0, 8)):
        np.testing.assert_array_equal(find_format("int4").quantize(row[None]).dequantize()[0], row)
        np.testing.assert_array_equal(find_format("int4-g32").quantize(row[None]).dequantize()[0], row)


@pytest.mark.parametrize("name", ["int8", "int4-g32", "int4-g32-asym", "ternary", "olive4", "bipolar3"])
def test_no_scale_is_below_the_normal_numbers(name: str) -> None:
    """Kernels may run where such numbers are taken for 0."""
    smallest = np.finfo(np.float32).smallest_normal
    for power in range(-149, -115):
        row = np.ldexp(np.linspace(-1, 1, 32, dtype=np.float32), power)[None]
        scales = np.abs(find_format(name).quantize(row).parts["scales"].astype(np.float32))
        assert ((scales == 0) | (scales >= smallest)).all()


def test_a_zero_point_suits_numbers_of_one_sign() -> None:
    array = np.abs(np.random.default_rng(5).standard_normal((8, 128))).astype(np.float32) + 0.5
    with_zero, without = find_format("int4-g32-asym").error(array), find_format("int4-g32").error(array)
    assert with_zero.snr_db > without.snr_db + 4
    assert find_format("int4-g32-asym").quantize(np.zeros((1, 3))).dequantize().tolist() == [[0, 0, 0]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=6))
def test_ternary_is_the_least_squared_error(values: list[int]) -> None:
    row = np.array([values], np.float32)
    found = squared(row, find_format("ternary").quantize(row).dequantize())
    for choice in itertools.product((-1, 0, 1), repeat=len(values)):
        t = np.array(choice)
        if t.any():
            scale = row[0] @ t / (t @ t)
            assert found <= squared(row, scale * t[None]) + 1e-3
