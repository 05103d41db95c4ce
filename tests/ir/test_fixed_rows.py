"""Softmax, normalisation and attention of fixed-point numbers: as near to the real functions as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorc.ir import OPS, Graph, TensorType
from tensorc.ir.ops.curves import Reciprocal, exponentials, leading_bit, weight_bits
from tensorc.ir.ops.fixed_rows import attention_scale, norm_epsilon

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def numbers(seed: int, shape: tuple[int, ...], bits: int, fraction: int, spread: float = 1.0) -> np.ndarray:
    """Signed fixed-point numbers, `spread` of the range that they have."""
    most = max(int(spread * 2 ** (bits - 1)), 1)
    return np.random.default_rng(seed).integers(-most, most, shape) * 2.0**-fraction


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@given(st.lists(st.integers(1, 2**62), min_size=1, max_size=50), st.integers(2, 17), st.booleans())
def test_reciprocals(x, bits, root):
    number = np.array(x, np.int64)
    y, power = Reciprocal(bits, root).of(number)
    exact = number ** -(0.5 if root else 1.0)
    assert (np.abs(y * 2.0 ** -(Reciprocal(bits, root).fraction + power) - exact) <= exact * 2.0**-bits).all()


@pytest.mark.parametrize("root", [False, True])
def test_reciprocals_fall(root):
    y, power = Reciprocal(9, root).of(np.arange(1, 1 << 14))
    assert (np.diff(y * 2.0 ** -power.astype(float)) <= 0).all()


@given(st.integers(1, 2**62))
def test_leading_bit(x):
    assert leading_bit(np.array([x]))[0] == x.bit_length() - 1


def test_exponentials_end_with_the_first_that_is_nothing():
    table = exponentials(3, 10)
    assert table[0] == 1024
    assert (table[:-1] > 0).all()
    assert table[-1] == 0
    np.testing.assert_allclose(table, np.exp(-np.arange(len(table)) / 8) * 1024, atol=0.5)


@quick
@given(seeds, st.integers(1, 70), st.integers(3, 10), st.integers(2, 8), st.integers(4, 12), st.floats(0.01, 1))
def test_softmax_is_within_a_step(seed, count, bits, fraction, width, spread):
    x = numbers(seed, (20, count), bits, fraction, spread)
    got = OPS["fixed_softmax"].numpy(x, fraction=fraction, width=width)
    assert np.abs(got - softmax(x)).max() <= 2.0**-width
    np.testing.assert_array_equal(got * 2**width % 1, 0)


@pytest.mark.parametrize("rows", [np.arange(64)[None] / 16, -np.arange(64)[None] / 16, np.zeros((1, 64))])
def test_softmax_of_rows_that_only_rise_or_only_fall(rows):
    got = OPS["fixed_softmax"].numpy(rows, fraction=4, width=8)
    assert np.abs(got - softmax(rows)).max() <= 2.0**-8


@quick
@given(seeds, st.integers(2, 30), st.integers(3, 10))
def test_softmax_keeps_the_order(seed, count, width):
    x = numbers(seed, (20, count), 7, 4)
    got = OPS["fixed_softmax"].numpy(x, fraction=4, width=width)
    order = np.argsort(x, axis=-1)
    assert (np.diff(np.take_along_axis(got, order, -1), axis=-1) >= 0).all()
    assert (np.take_along_axis(got, x.argmax(-1)[:, None], -1)[:, 0] == got.max(-1)).all()


def test_softmax_of_what_stands_alone_saturates():
    got = OPS["fixed_softmax"].numpy(np.array([[0.0, 30.0], [-3.0, -3.0]]), fraction=0, width=8)
    np.testing.assert_array_equal(got * 256, [[0, 255], [128, 128]])


@quick
@given(seeds, st.integers(1, 80), st.integers(3, 10), st.integers(0, 6), st.integers(4, 10), st.booleans())
def test_norms_are_within_a_step(seed, count, bits, fraction, result, centred):
    x = numbers(seed, (20, count), bits, fraction, np.random.default_rng(seed).uniform(0.02, 1))
    got = OPS["fixed_norm"].numpy(
        x, axis=1, epsilon=1e-5, centred=int(centred), fraction=fraction, result=result
    )  # fmt: skip
    middle = x - x.mean(1, keepdims=True) if centred else x
    epsilon = norm_epsilon(1e-5, count, fraction) / (count**2 * 4.0**fraction)
    exact = middle / np.sqrt((middle**2).mean(1, keepdims=True) + epsilon)
    assert np.abs(got - exact).max() <= 2.0**-result


def test_a_norm_of_equal_numbers_is_nothing():
    got = OPS["fixed_norm"].numpy(np.full((2, 5), 0.75), axis=1, epsilon=0.0, centred=1, fraction=2, result=8)
    np.testing.assert_array_equal(got, 0)


def test_a_norm_over_several_axes():
    x = numbers(1, (3, 4, 5), 8, 4)
    attrs = {"epsilon": 1e-5, "centred": 1, "fraction": 4, "result": 8}
    got = OPS["fixed_norm"].numpy(x, axis=1, **attrs)
    np.testing.assert_array_equal(got.reshape(3, 20), OPS["fixed_norm"].numpy(x.reshape(3, 20), axis=1, **attrs))


ATTENTION = {"scale": 0.3, "fractions": (5, 5, 6), "scores": 6, "bits": 8, "width": 10, "result": 8}


def attention(*operands, **attrs):
    return OPS["fixed_attention"].numpy(*operands, **{"signed": 1, **ATTENTION, **attrs})


@quick
@given(seeds, st.integers(1, 40), st.sampled_from([(2, 2), (4, 2), (3, 1)]), st.sampled_from([0.3, 0.25, 2.7, 0.01]))
def test_attention_is_as_near_as_its_scores(seed, keys, heads, scale):
    asked, shared = heads
    q, k = numbers(seed, (2, 3, asked, 8), 8, 5), numbers(seed + 1, (2, keys, shared, 8), 8, 5, 0.5)
    v = numbers(seed + 2, (2, keys, shared, 4), 8, 6)
    got = attention(q, k, v, scale=scale)
    exact = OPS["attention"].numpy(q, k, v, scale=scale)
    most = np.abs(np.einsum("bqhd,bkhd->bhqk", q, np.repeat(k, asked // shared, 2))).max() * scale
    off = 2.0**-7 + most * 2.0**-16  # of a score
    assert np.abs(got - exact).max() <= (np.exp(2 * off) - 1 + 2.0**-8) * np.abs(v).max() + 2.0**-9


def test_attention_does_not_look_where_the_mask_says():
    q, k, v = (numbers(n, (1, 4, 2, 8), 8, 5 + (n == 2)) for n in range(3))
    mask = np.where(np.tri(4, dtype=bool), 0.0, -200.0)
    got = attention(q, k, v, mask)
    for query in range(3):
        hidden = np.arange(4)[:, None, None] > query
        others = np.where(hidden, -k, k), np.where(hidden, 1.5, v)
        np.testing.assert_array_equal(attention(q, *others, mask)[:, query], got[:, query])
    exact = OPS["attention"].numpy(q, k, v, mask, scale=ATTENTION["scale"])
    np.testing.assert_allclose(got, exact, atol=0.06)


@given(seeds)
def test_attention_takes_keys_in_any_order(seed):
    q, k, v = numbers(seed, (1, 4, 2, 8), 8, 5), numbers(seed, (1, 9, 2, 8), 8, 5), numbers(seed, (1, 9, 2, 8), 8, 6)
    order = np.random.default_rng(seed).permutation(9)
    np.testing.assert_array_equal(attention(q, k, v), attention(q, k[:, order], v[:, order]))


@pytest.mark.parametrize(("scale", "wanted"), [(0.25, (1, 2)), (1.0, (1, 0)), (6.0, (3, -1)), (0.0, (0, 0))])
def test_scales_are_odd_numbers_and_places(scale, wanted):
    assert attention_scale(scale) == wanted


@given(st.floats(1e-6, 1e6), st.sampled_from([-1, 1]))
def test_scales_have_16_bits(scale, sign):
    factor, places = attention_scale(sign * scale)
    assert abs(factor) <= 1 << 16
    assert abs(factor * 2.0**-places - sign * scale) <= scale * 2.0**-16


def test_weights_of_many_keys_have_more_bits():
    assert [weight_bits(n, 9) for n in (1, 2, 3, 64, 65)] == [9, 10, 11, 15, 16]


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("fixed_norm", [(2, 3)], {"axis": 2, "epsilon": 0.0, "fraction": 1, "result": 1}, "axis 2"),
        ("fixed_attention", [(1, 2, 1, 4), (1, 0, 1, 4), (1, 0, 1, 4)], ATTENTION, "no keys"),
        ("fixed_attention", [(1, 2, 1, 4), (1, 3, 1, 5), (1, 3, 1, 4)], ATTENTION, "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(op, shapes, attrs, message):
    graph = Graph()
    inputs = [graph.add_input("x", TensorType("float64", shape)) for shape in shapes]
    with pytest.raises(TypeError, match=message):
        graph.add(op, inputs, attrs)
