"""Ranges from histograms that grow: what each method chooses, and that no order of samples matters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorc.errors import UserError
from tensorc.quantization.observers import METHODS, Observer
from tensorc.quantization.params import QuantParams, Range
from tensorc.quantization.scheme import METHODS as NAMED

FINITE = st.floats(-1e6, 1e6, width=32)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 50), elements=FINITE)


def observed(*arrays):
    observer = Observer()
    for array in arrays:
        observer.update(np.asarray(array, np.float32))
    return observer


def quantized(values, params):
    """What the integers stand for."""
    info = np.iinfo(params.dtype)
    q = np.clip(np.round(values / params.scale) + params.zero, info.min, info.max)
    return (q - params.zero) * params.scale


def test_every_method_has_a_name_for_users():
    assert METHODS.keys() == NAMED.keys()


@settings(max_examples=50, deadline=None)
@given(st.lists(ARRAYS, min_size=1, max_size=4), st.randoms())
def test_the_order_of_samples_does_not_matter(arrays, random):
    shuffled = list(arrays)
    random.shuffle(shuffled)
    for method in METHODS.values():
        assert method(observed(*arrays)) == method(observed(*shuffled))


@settings(max_examples=50, deadline=None)
@given(ARRAYS)
def test_nothing_is_lost_when_the_bins_grow(array):
    observer = observed(array / 1000, array)
    assert observer.counts.sum() == 2 * array.size
    assert (observer.low, observer.high) == (min(array.min(), 0), max(array.max(), 0))


@settings(max_examples=50, deadline=None)
@given(ARRAYS)
def test_ranges_lie_within_what_was_seen_and_hold_zero(array):
    for method in METHODS.values():
        found = method(observed(array))
        assert min(float(array.min()), 0) <= found.low <= 0 <= found.high <= max(float(array.max()), 0)


def test_outliers_are_cut_off_but_by_the_least_and_the_greatest():
    rng = np.random.default_rng(0)
    observer = observed(rng.standard_normal(100_000), [400.0])
    assert METHODS["minmax"](observer).high == 400
    for name in ("percentile", "entropy"):
        assert METHODS[name](observer).high < 120, name


def test_the_mean_square_error_is_the_least():
    values = np.concatenate([np.random.default_rng(1).laplace(size=20_000), [60.0]]).astype(np.float32)
    observer = observed(values)

    def error(name):
        params = QuantParams.of(METHODS[name](observer))
        return ((values - quantized(values, params)) ** 2).mean()

    assert error("mse") <= min(error(name) for name in METHODS) * 1.02


def test_values_that_no_range_holds():
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match="not finite"):
            observed([1.0, value])


def test_nothing_but_zeros():
    for method in METHODS.values():
        assert method(observed(np.zeros(5))) == Range(0, 0)


@settings(max_examples=100, deadline=None)
@given(FINITE, FINITE, st.sampled_from(["uint8", "int8"]), st.booleans())
def test_parameters_fit_their_range(a, b, dtype, symmetric):
    found = Range.of(min(a, b), max(a, b))
    params = QuantParams.of(found, dtype, symmetric)
    assert quantized(np.zeros(1), params) == 0
    ends = np.array([found.low, found.high])
    if max(abs(ends)) > 1e-30:
        assert np.abs(quantized(ends, params) - ends).max() <= params.scale * 1.001
