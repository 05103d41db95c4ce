"""Microscaling formats and NVFP4 against casts by ml_dtypes, and the OCP specification's rules."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tensorc.formats import find_format
from tensorc.formats.elements import E2M1, E2M3, E3M2, E4M3, E5M2, Element

ELEMENTS = {"mxfp8": E4M3, "mxfp8-e5m2": E5M2, "mxfp6": E2M3, "mxfp6-e3m2": E3M2, "mxfp4": E2M1}
EACH = pytest.mark.parametrize(("name", "element"), ELEMENTS.items(), ids=ELEMENTS)


def values(element: Element) -> np.ndarray:
    """All finite numbers of the type, worked out from its bits: the specification's table."""
    bias = 2 ** (element.exponents - 1) - 1
    found = []
    for code in range(2 ** (element.width - 1)):
        exponent, mantissa = code >> element.mantissas, code & (2**element.mantissas - 1)
        fraction = mantissa / 2**element.mantissas
        if exponent:
            found.append((1 + fraction) * 2.0 ** (exponent - bias))
        else:
            found.append(fraction * 2.0 ** (1 - bias))
    # The last ones of the types of eight bits are infinite or no numbers.
    return np.array(found[: {"e4m3": 127, "e5m2": 124}.get(element.name)])


@pytest.mark.parametrize(
    ("element", "largest", "exponent"), [(E4M3, 448, 8), (E5M2, 57344, 15), (E2M3, 7.5, 2), (E3M2, 28, 4), (E2M1, 6, 2)]
)
def test_the_element_types(element: Element, largest: float, exponent: int) -> None:
    known = values(element)
    assert element.largest == known.max() == largest
    assert element.largest_exponent == exponent
    np.testing.assert_array_equal(element.decode(np.arange(len(known))), known)
    np.testing.assert_array_equal(element.encode(known.astype(np.float32)), np.arange(len(known)))
    middles = ((known[1:] + known[:-1]) / 2).astype(np.float32)
    even = np.arange(len(middles)) + np.arange(len(middles)) % 2
    np.testing.assert_array_equal(element.encode(middles), even)  # ties to even
    np.testing.assert_array_equal(element.encode(np.nextafter(middles, np.float32(0))), np.arange(len(middles)))
    past = np.array([largest * 1.1, 1e30, -1e30], np.float32)
    np.testing.assert_array_equal(element.decode(element.encode(past)), [largest, largest, -largest])


@EACH
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-140, 120))
@example(seed=0, exponent=-130)
@example(seed=0, exponent=-145)
def test_blocks_are_those_of_the_specification(name: str, element: Element, seed: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    array = np.ldexp(rng.standard_normal((2, 70)) * np.exp(rng.standard_normal((2, 70))), exponent).astype(np.float32)
    encoded = find_format(name).quantize(array)
    result = encoded.dequantize()
    for row in range(2):
        for block, start in enumerate(range(0, 70, 32)):
            part = array[row, start : start + 32].astype(np.float64)
            shared = int(np.clip(np.floor(np.log2(np.abs(part).max())) - element.largest_exponent, -127, 127))
            scale = encoded.parts["scales"][row, block].view(ml_dtypes.float8_e8m0fnu)
            assert float(scale) == 2.0**shared
            limited = np.clip(part / 2.0**shared, -element.largest, element.largest)
            cast = limited.astype(np.float32).astype(element.dtype).astype(np.float64)
            np.testing.assert_array_equal(result[row, start : start + 32], cast * 2.0**shared)


@EACH
def test_what_a_format_holds_comes_back_exactly(name: str, element: Element) -> None:
    known = values(element)
    for power in (-100, 0, 90):
        block = np.resize(np.concatenate([known[-16:], -known[-16:]]), 32) * 2.0**power
        np.testing.assert_array_equal(find_format(name).quantize(block).dequantize(), block)


def test_nvfp4_by_hand() -> None:
    array = np.zeros((1, 48), np.float32)
    array[0, :16] = 6 * 448  # the tensor's peak: its scale is 1
    array[0, 16:32] = [6, 5, -5, 3.5, 2.5, 1.75, 1.25, 0.75, 0.25, 0.26, -6, 0, 1, 2, 3, 4]
    encoded = find_format("nvfp4").quantize(array)
    assert encoded.parts["tensor_scale"].tolist() == [1]
    assert encoded.parts["scales"].view(ml_dtypes.float8_e4m3fn).astype(float).tolist() == [[448, 1, 0]]
    result = encoded.dequantize()[0]
    assert (result[:16] == 6 * 448).all()
    assert result[16:32].tolist() == [6, 4, -4, 4, 2, 2, 1, 1, 0, 0.5, -6, 0, 1, 2, 3, 4]
    assert not result[32:].any()


def test_nvfp4_is_nearer_than_mxfp4() -> None:
    array = np.random.default_rng(0).standard_normal((32, 256)).astype(np.float32)
    assert find_format("nvfp4").error(array).snr_db > find_format("mxfp4").error(array).snr_db + 1
