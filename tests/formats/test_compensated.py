"""Rounding that is compensated for: nearer in the result, the same where inputs say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tensorc.errors import UserError
from tensorc.formats import find_format
from tensorc.formats.compensated import compensated

RNG = np.random.default_rng(2)
WEIGHTS = RNG.standard_normal((24, 100)).astype(np.float32)
#: Inputs that depend on each other, as activations do, with channels of different size and one that is never used.
INPUTS = (np.abs(RNG.standard_normal((500, 20))) @ RNG.standard_normal((20, 100))) * np.geomspace(0.1, 3, 100)
INPUTS[:, 7] = 0


def noise(weights, inputs=INPUTS):
    return float(np.square(inputs @ (weights - WEIGHTS).T).sum() / np.square(inputs @ WEIGHTS.T).sum())


@pytest.mark.parametrize("name", ["int4", "int4-g32", "int3-g64", "int2", "int8", "int4-g128"])
def test_results_are_nearer_and_the_format_is_the_same(name):
    format = find_format(name)
    plain = format.quantize(WEIGHTS)
    made = compensated(format, WEIGHTS, INPUTS.T @ INPUTS)
    assert {key: (part.shape, part.dtype) for key, part in made.parts.items()} == {
        key: (part.shape, part.dtype) for key, part in plain.parts.items()
    }
    assert noise(made.dequantize()) < 0.1 * noise(plain.dequantize())


@pytest.mark.parametrize("name", ["int4", "int4-g32", "int2-g64"])
def test_independent_inputs_of_one_size_change_nothing(name):
    format = find_format(name)
    plain, made = format.quantize(WEIGHTS), compensated(format, WEIGHTS, 3 * np.eye(100))
    for key, part in plain.parts.items():
        np.testing.assert_array_equal(made.parts[key], part)


def test_another_axis_and_moments_of_nothing():
    format = find_format("int4-g32")
    moments = INPUTS.T @ INPUTS
    along_columns = compensated(format, WEIGHTS.T, moments, axis=0).dequantize()
    np.testing.assert_array_equal(along_columns.T, compensated(format, WEIGHTS, moments).dequantize())
    nothing = compensated(format, WEIGHTS, np.zeros((100, 100))).dequantize()
    np.testing.assert_array_equal(nothing, format.quantize(WEIGHTS).dequantize())
    for shape in ((0, 100), (4, 0), (0, 0), (3, 1)):
        empty = compensated(format, np.zeros(shape), np.ones((shape[1], shape[1])))
        assert empty.dequantize().shape == shape
        assert empty.nbytes == format.nbytes(shape)


def test_what_cannot_be_compensated():
    with pytest.raises(UserError, match="int4-asym has zero points"):
        compensated(find_format("int4-asym"), WEIGHTS, np.eye(100))
    for wrong in (np.eye(99), np.full((100, 100), np.nan)):
        with pytest.raises(UserError, match=r"moments of 100 inputs are finite numbers of shape \[100, 100\]"):
            compensated(find_format("int4"), WEIGHTS, wrong)
