"""What holds for each format: sizes, bounds of the error, what is refused, numbers at the edges."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorc.errors import UserError
from tensorc.formats import LISTED, Format, blocks, find_format, listed_formats, measure
from tensorc.formats.bipolar import Bipolar
from tensorc.formats.block_float import BlockFloat
from tensorc.formats.integers import Integers
from tensorc.formats.microscaling import Microscaling
from tensorc.formats.nvfp4 import NvFp4
from tensorc.formats.olive import Olive
from tensorc.formats.rearranged import Rearranged
from tensorc.formats.ternary import Ternary

EVERY = pytest.mark.parametrize("format", listed_formats(), ids=LISTED)
#: Smaller numbers may become 0: scales below float32's normal numbers are.
VANISHING = float(np.finfo(np.float32).smallest_normal)
LARGEST = float(np.finfo(np.float32).max)

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 70)),
    elements=st.floats(-LARGEST, LARGEST, width=32),
)


def rms_bound(format: Format, cut: np.ndarray) -> np.ndarray:
    """Of each block [rows, blocks, block], float64: what the root of its mean square error cannot exceed."""
    peak = np.abs(cut).max(axis=-1)
    match format:
        case Integers(symmetric=True):
            return peak / (2 ** (format.width - 1) - 1) / 2
        case Integers():
            # Half a step for the number and half for the zero point, which cuts off one end.
            return (np.maximum(cut.max(axis=-1), 0) - np.minimum(cut.min(axis=-1), 0)) / (2**format.width - 1)
        case Ternary():
            return np.sqrt(np.square(cut).mean(axis=-1))
        case BlockFloat():
            return peak / 2 ** (format.width - 2)
        case Microscaling(element):
            step = 2.0 ** (element.largest_exponent - element.mantissas)
            past = 2.0 ** (element.largest_exponent + 1) - element.largest
            return peak / 2.0**element.largest_exponent * max(step / 2, past)
        case NvFp4():
            # The second: scales near the least E4M3 number are coarse.
            return peak / 4 + peak.max() * 6 * 2.0**-10 / (6 * 448)
        case Olive():
            return peak / 7 / 2
        case Bipolar():
            return peak / (2**format.width - 1)
    raise AssertionError(f"no bound is known for {format.name}")


@EVERY
@settings(max_examples=25, deadline=None)
@given(array=MATRICES)
def test_the_error_has_a_bound(format: Format, array: np.ndarray) -> None:
    approximation = format.quantize(array).dequantize()
    assert approximation.dtype == np.float32
    assert approximation.shape == array.shape
    assert np.isfinite(approximation).all()
    exact, noise = array.astype(np.float64), approximation.astype(np.float64) - array
    if isinstance(format, Rearranged):
        worst = np.square(format.inner.quantize(array).dequantize().astype(np.float64) - exact).sum()
        assert np.square(noise).sum() <= worst * 1.0001
        return
    cut = blocks.cut(exact, format.block)
    filled = np.minimum(cut.shape[-1], array.shape[1])
    rms = np.sqrt(np.square(blocks.cut(noise, format.block)).sum(axis=-1) / cut.shape[-1])
    assert (rms <= rms_bound(format, cut) * 1.01 + VANISHING * math.sqrt(filled)).all()


@EVERY
@given(shape=st.lists(st.integers(0, 40), min_size=1, max_size=3), data=st.data())
@settings(max_examples=25, deadline=None)
def test_storage_is_what_was_computed(format: Format, shape: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    encoded = format.quantize(array, axis)
    assert encoded.nbytes == format.nbytes(shape, axis)
    assert encoded.nbytes == sum(part.size * part.itemsize for part in encoded.parts.values())
    assert format.bits_per_element(shape, axis) == 8 * encoded.nbytes / max(array.size, 1)
    assert encoded.dequantize().shape == tuple(shape)


@EVERY
def test_the_axis_is_where_scales_are_shared(format: Format) -> None:
    array = np.random.default_rng(1).standard_normal((3, 96, 2)).astype(np.float32)
    along = format.quantize(array, 1)
    moved = format.quantize(np.moveaxis(array, 1, 2))
    assert along.axis == 1
    assert all(np.array_equal(along.parts[name], moved.parts[name]) for name in moved.parts)
    np.testing.assert_array_equal(np.moveaxis(along.dequantize(), 1, 2), moved.dequantize())
    np.testing.assert_array_equal(format.quantize(array, -2).dequantize(), along.dequantize())


@EVERY
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-60, 60), outlier=st.sampled_from([1.0, 20.0, 100.0]))
def test_what_was_dequantized_is_quantized_to_itself(format: Format, seed: int, exponent: int, outlier: float) -> None:
    rng = np.random.default_rng(seed)
    array = np.ldexp(rng.standard_normal((3, 75)).astype(np.float32), exponent)
    array[:, 7] *= np.float32(outlier)
    once = format.quantize(array).dequantize()
    error = measure(once, format.quantize(once).dequantize())
    if isinstance(format, Integers) and not format.symmetric:
        assert error.largest <= np.ptp(array, axis=1).max() / (2**format.width - 1)
    elif not isinstance(format, Rearranged):  # another order may be better for what was dequantized
        assert error.largest <= 1e-6 * np.abs(once).max()


@EVERY
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40, 1.0, -3.7, 3e38, LARGEST, -LARGEST])
def test_constants(format: Format, value: float) -> None:
    array = np.full((2, 64), value, np.float32)
    result = format.quantize(array).dequantize()
    assert np.isfinite(result).all()
    if value == 0:
        assert not result.any()
    elif abs(value) > VANISHING:
        # The coarsest are powers of two with a largest element short of the next one: 7.99 is taken for 6.
        np.testing.assert_allclose(result, array, rtol=0.25)


@EVERY
def test_one_outlier_costs_only_its_block(format: Format) -> None:
    array = np.random.default_rng(2).uniform(0.5, 1, (2, 256)).astype(np.float32)
    spoiled = array.copy()
    spoiled[0, 0] = 50
    plain, with_outlier = format.quantize(array).dequantize(), format.quantize(spoiled).dequantize()
    assert 0.7 * 50 <= with_outlier[0, 0] <= 50 * 1.01 or isinstance(format, (Bipolar, Ternary, Integers))
    if isinstance(format, Rearranged):
        return
    touched = format.block or 256
    if not isinstance(format, NvFp4):  # the whole tensor has a scale there
        np.testing.assert_array_equal(with_outlier[0, touched:], plain[0, touched:])
        np.testing.assert_array_equal(with_outlier[1], plain[1])


@EVERY
@pytest.mark.parametrize(
    ("value", "named"), [(math.nan, "holds nan"), (math.inf, "infinity"), (-math.inf, "infinity"), (1e39, "past")]
)
def test_only_finite_numbers_are_taken(format: Format, value: float, named: str) -> None:
    with pytest.raises(ValueError, match=f"only finite numbers are quantized.*{named}"):
        format.quantize(np.array([[1.0, value]]))


def test_other_arrays_that_are_refused() -> None:
    format = find_format("int4")
    with pytest.raises(UserError, match="a scalar has no axis"):
        format.quantize(np.float32(1))
    with pytest.raises(UserError, match="axis 2 is not one of an array of shape"):
        format.quantize(np.ones((2, 2)), 2)
    with pytest.raises(UserError, match="numbers are quantized, not complex"):
        format.quantize(np.ones(2, complex))
    with pytest.raises(UserError, match="a value in the format int4 is not one in int3"):
        find_format("int3").dequantize(format.quantize(np.ones(4)))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint16])
def test_numbers_of_other_types(dtype: type) -> None:
    array = np.arange(64).reshape(2, 32).astype(dtype)
    format = find_format("int8")
    np.testing.assert_array_equal(
        format.quantize(array).dequantize(), format.quantize(array.astype(np.float32)).dequantize()
    )


def test_more_bits_are_more_accurate() -> None:
    array = np.random.default_rng(3).standard_normal((64, 256)).astype(np.float32)
    for family in ("int{}", "int{}-g32", "int{}-g64-asym", "bfp{}-b16", "bipolar{}"):
        levels = [find_format(family.format(bits)).error(array).snr_db for bits in range(2, 9)]
        steps = np.diff(levels)
        assert (steps > 4).all(), (family, levels)  # 6 dB a bit, once there are some


def test_names() -> None:
    for name in (*LISTED, "int5-g48-asym", "bfp3-b64", "olive4-g64-rearranged", "int4-g32-asym-rearranged"):
        assert find_format(name).name == name
        assert find_format(name).summary
    assert find_format("mxfp8-e4m3") == find_format("mxfp8")
    assert find_format("mxfp4-e2m1").name == "mxfp4"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("int9", "no format 'int9' \\(did you mean int8\\?\\); formats: int2..int8"),
        ("int4-g", "no format 'int4-g'"),
        ("int4-g20", "a multiple of 8 elements, up to 1024, not 20"),
        ("bfp8-b0", "a multiple of 8 elements, up to 1024, not 0"),
        ("ternary-g4096", "up to 1024, not 4096"),
        ("int4-rearranged", "int4 has no blocks: rearranging channels changes nothing"),
        ("mxfp4-rearranged-rearranged", "no format"),
        ("", "no format ''; formats"),
    ],
)
def test_names_that_are_none(name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        find_format(name)


def test_measures() -> None:
    exact = np.array([3.0, 4.0], np.float32)
    error = measure(exact, exact + np.array([0.0, 0.5], np.float32))
    assert error.relative_mse == pytest.approx(0.25 / 25)
    assert error.snr_db == pytest.approx(20)
    assert error.largest == 0.5
    assert measure(exact, exact).snr_db == math.inf
    assert measure(exact * 0, exact).snr_db == -math.inf
    assert measure(exact[:0], exact[:0]).relative_mse == 0
    tiny = np.array([1e-45, 3e-45], np.float32)
    assert measure(tiny, tiny * 0).relative_mse == pytest.approx(1)
