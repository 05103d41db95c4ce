"""Encoded weights as codes and scales mean what their format says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorc.formats import LISTED, find_format
from tensorc.formats.coded import coded, is_coded
from tensorc.ir.ops.coded import decode

CODED = [name for name in LISTED if is_coded(find_format(name))]


def decoded(made, depth):
    weights = made.factor * decode(made.codes, made.scales, made.zeros, depth=depth, width=made.width, group=made.group,
                                   element=made.element, zero=made.zero)  # fmt: skip
    if made.permutation is None:
        return weights
    plain = np.empty_like(weights)
    plain[:, made.permutation] = weights
    return plain


def test_all_but_pairs_are_codes_and_scales():
    assert set(LISTED) - set(CODED) == {"olive4", "olive4-g128"}
    with pytest.raises(TypeError, match="olive4 is not codes times scales"):
        coded(find_format("olive4").quantize(np.ones((2, 4), np.float32)))


@pytest.mark.parametrize("name", CODED)
@given(data=st.data())
def test_codes_and_scales_are_the_format(name, data):
    rows, depth = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 150))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    weights = rng.standard_normal((rows, depth)).astype(np.float32)
    weights[:, rng.integers(depth)] *= 30
    encoded = find_format(name).quantize(weights)
    wanted = encoded.dequantize()
    np.testing.assert_allclose(decoded(coded(encoded), depth), wanted, rtol=1e-6, atol=1e-7 * np.abs(wanted).max())


def test_the_axis_of_the_sum_may_be_the_first():
    weights = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32)
    encoded = find_format("int4-g16").quantize(weights, axis=0)
    np.testing.assert_array_equal(decoded(coded(encoded), 40), encoded.dequantize().T)
