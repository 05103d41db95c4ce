"""What counts as right: errors in proportion to an output's scale, exact integers, NaNs in their places."""

import numpy as np
import pytest

from tensorc.verification import ATOL, check_outputs, compare, tolerance_of

WANT = np.array([1000.0, 1.0, 0.0], np.float32)


@pytest.mark.parametrize(
    ("error", "ok"),
    [([0, 0, 0], True), ([1.05, 0, 0], True), ([1.2, 0, 0], False), ([0, 0.1, 0], True), ([0, 0, 0.11], False)],
)
def test_tolerances(error, ok):
    check = compare(WANT + np.array(error, np.float32), WANT, rtol=1e-3, atol=1e-4)
    assert check.ok is ok
    assert check.max_abs_error == pytest.approx(max(error), rel=1e-3)
    assert check.max_rel_error == pytest.approx(max(error) / 1000, rel=1e-3)


def test_integers_and_booleans_are_equal_or_wrong():
    assert compare(np.array([999]), np.array([999])).ok
    assert not compare(np.array([999_999]), np.array([1_000_000])).ok
    assert not compare(np.array([True]), np.array([False])).ok


def test_nan_and_infinity_belong_in_their_places():
    odd = np.array([np.nan, np.inf, 1.0], np.float32)
    assert compare(odd, odd).ok
    assert not compare(np.array([np.nan, -np.inf, 1.0], np.float32), odd).ok
    assert not compare(np.array([0.0, np.inf, 1.0], np.float32), odd).ok
    assert not compare(np.array([np.nan, np.inf, np.nan], np.float32), odd).ok


def test_zero_and_empty_outputs():
    zero = np.zeros(3, np.float32)
    assert compare(zero, zero).cosine == 1.0
    assert not compare(zero + 1, zero).ok
    assert compare(zero[:0], zero[:0]).ok


def test_type_shape_and_presence_count():
    assert "float64[3]" in compare(WANT.astype(np.float64), WANT).note
    assert not compare(WANT[None], WANT).ok
    verdict = check_outputs({"a": WANT}, {"a": WANT, "b": WANT})
    assert (verdict.ok, verdict.outputs["a"].ok, verdict.outputs["b"].note) == (False, True, "missing")


def test_lower_precisions_may_be_off_by_some_roundings():
    assert tolerance_of("float32") == ATOL
    assert tolerance_of("float16") == tolerance_of("tf32") == 16 * 2.0**-11
    assert tolerance_of("bfloat16") == 8 * tolerance_of("float16")
