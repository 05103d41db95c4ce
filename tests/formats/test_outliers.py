"""Formats made for outliers: block floats, rearranged channels, outlier-victim pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorc.errors import UserError
from tensorc.formats import bits, find_format, measure
from tensorc.formats.rearranged import Rearranged, inverse


def outlier_channels(seed: int, rows: int = 64, channels: int = 512, share: float = 0.03) -> np.ndarray:
    """Normal numbers; the same few channels of each row are 20 times as large."""
    rng = np.random.default_rng(seed)
    array = rng.standard_normal((rows, channels)).astype(np.float32)
    array[:, rng.random(channels) < share] *= 20
    return array


@pytest.mark.parametrize(
    "name", ["bfp4-b16", "bfp4-b32", "bfp6-b64", "mxfp4", "mxfp6", "int4-g32", "nvfp4", "olive4-g64"]
)
@pytest.mark.parametrize("seed", range(3))
def test_rearranging_is_never_worse(name: str, seed: int) -> None:
    array = outlier_channels(seed)
    plain, sorted_ = find_format(name).error(array), find_format(f"{name}-rearranged").error(array)
    assert sorted_.relative_mse <= plain.relative_mse
    if name in ("bfp4-b32", "bfp6-b64", "mxfp4", "int4-g32"):
        assert sorted_.snr_db > plain.snr_db + 1
        calm = np.abs(array).max(axis=0) < 10
        of_others = [
            measure(array[:, calm], find_format(n).quantize(array).dequantize()[:, calm]).snr_db
            for n in (name, f"{name}-rearranged")
        ]
        assert of_others[1] > of_others[0] + 3


def test_a_permutation_that_does_not_help_is_none() -> None:
    array = np.ones((2, 64), np.float32)
    assert find_format("bfp4-b16-rearranged").quantize(array).parts["permutation"].tolist() == list(range(64))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_permutations_are_undone_exactly(seed: int, length: int) -> None:
    array = np.random.default_rng(seed).standard_normal((2, length)).astype(np.float32)
    permutation = np.random.default_rng(seed).permutation(length)
    np.testing.assert_array_equal(array[:, permutation][:, inverse(permutation)], array)
    np.testing.assert_array_equal(array[:, inverse(permutation)][:, permutation], array)


def test_a_product_does_not_see_the_permutation() -> None:
    """What the compiler does: the producer's columns are permuted, the codes are used as they lie."""
    weights = outlier_channels(1, rows=8)
    format = find_format("bfp8-b16-rearranged")
    assert isinstance(format, Rearranged)
    encoded = format.quantize(weights)
    lying = format.inner.decode(encoded.parts, 512)
    x = np.random.default_rng(2).integers(-8, 8, (4, 512)).astype(np.float64)  # sums are exact
    np.testing.assert_array_equal(x[:, encoded.parts["permutation"]] @ lying.T, x @ encoded.dequantize().T)
    np.testing.assert_array_equal(lying[:, inverse(encoded.parts["permutation"])], encoded.dequantize())


def test_a_permutation_from_before_serves_later_values() -> None:
    format = find_format("bfp4-b32-rearranged")
    assert isinstance(format, Rearranged)
    everything = outlier_channels(3, rows=256)
    permutation = format.quantize(everything[:64]).parts["permutation"]
    later = everything[64:]
    as_before = measure(later, format.quantize_as(later, permutation).dequantize())
    assert as_before.snr_db > find_format("bfp4-b32").error(later).snr_db + 1
    same = format.quantize(later)
    np.testing.assert_array_equal(format.quantize_as(later, same.parts["permutation"]).dequantize(), same.dequantize())
    with pytest.raises(UserError, match="a permutation of 512 channels holds each of 0 to 511 once"):
        format.quantize_as(later, np.zeros(512, int))


def test_block_floats_by_hand() -> None:
    row = np.array([[1.75, -0.9, 0.25, 0.125, 0, 0, 0, 0]], np.float32)
    encoded = find_format("bfp4-b8").quantize(row)
    assert encoded.parts["scales"].tolist() == [[127 - 2]]  # the peak has three bits: steps of a quarter
    assert encoded.dequantize().tolist() == [[1.75, -1, 0.25, 0, 0, 0, 0, 0]]
    cut_off = np.array([[1.99, 1, 1, 1, 1, 1, 1, 1]], np.float32)
    assert find_format("bfp3-b8").quantize(cut_off).dequantize().tolist() == [[2, *[1] * 7]]  # not 1.5, the most of 0.5


def olive_by_hand(codes: np.ndarray, bias: int) -> np.ndarray:
    """As the paper's decoder reads pairs, one after the other."""

    def integer(code: int) -> int:
        return code - 16 if code > 7 else code

    def outlier(code: int) -> int:
        magnitude = (2 + (code & 1)) << ((code >> 1 & 3) + bias) if code & 7 else 0
        return -magnitude if code & 8 else magnitude

    numbers = []
    for first, second in codes.reshape(-1, 2).tolist():
        if second == 8:
            numbers += [outlier(first), 0]
        elif first == 8:
            numbers += [0, outlier(second)]
        else:
            numbers += [integer(first), integer(second)]
    return np.array(numbers, np.float32)


@pytest.mark.parametrize("largest", [1, 10, 40, 150, 1000])
def test_olive_is_decoded_as_in_the_paper(largest: float) -> None:
    array = np.random.default_rng(4).standard_normal((1, 128)).astype(np.float32)
    array[0, 5], array[0, 70] = largest, -largest
    parts = find_format("olive4").quantize(array).parts
    by_hand = olive_by_hand(bits.unpack(parts["codes"], 4, 128), int(parts["biases"][0, 0])) * parts["scales"][0, 0]
    result = find_format("olive4").quantize(array).dequantize()[0]
    np.testing.assert_array_equal(result, by_hand)
    if largest >= 40:
        np.testing.assert_allclose(result[[5, 70]], [largest, -largest], rtol=0.2)
        assert result[4] == result[71] == 0  # the victims


@pytest.mark.parametrize(("outlier", "bias"), [(12, 2), (96, 2), (128, 3), (192, 3), (256, 4), (384, 4)])
def test_olive_takes_the_least_bias_that_reaches(outlier: int, bias: int) -> None:
    row = np.resize(np.arange(-7.0, 8), 300)[None]
    row[0, 20:22] = [0, -outlier]
    encoded = find_format("olive4").quantize(row)
    assert encoded.parts["scales"].tolist() == [[1]]
    assert encoded.parts["biases"].tolist() == [[bias]]
    np.testing.assert_array_equal(encoded.dequantize(), row)


def test_olive_of_odd_length_and_of_two_outliers_side_by_side() -> None:
    array = np.random.default_rng(5).standard_normal((1, 2001)).astype(np.float32)
    array[0, [10, 11, 2000]] = [20, -30, 25]
    result = find_format("olive4").quantize(array).dequantize()[0]
    assert result[10] == 0
    np.testing.assert_allclose(result[[11, 2000]], [-30, 25], rtol=0.2)


@pytest.mark.parametrize("pair", [("olive4", "int4"), ("olive4-g128", "int4-g128")])
@pytest.mark.parametrize("seed", range(3))
def test_olive_beats_integers_where_there_are_outliers(pair: tuple[str, str], seed: int) -> None:
    array = outlier_channels(seed)
    olive, integers = (find_format(name).error(array) for name in pair)
    assert olive.snr_db > integers.snr_db + 5
