"""Products by L-Mul: how far off they are, and that sums of them are what operators give."""

from __future__ import annotations

import numpy as np

from tensorc.ir import OPS
from tensorc.ir.ops.lmul import greatest, lmul
from tensorc.quantization.scheme import FixedBits, Quantization


def test_products_are_nearly_right():
    numbers = np.arange(-128, 128.0)
    a, b = (x.reshape(-1) for x in np.meshgrid(numbers, numbers))
    exact, found = a * b, lmul(a, b)
    assert not found[exact == 0].any()
    ratio = found[exact != 0] / exact[exact != 0]
    assert np.abs(ratio - 1).max() <= 0.125
    assert 0.02 < ratio.mean() - 1 < 0.03
    assert np.sqrt(np.mean((ratio - 1) ** 2)) < 0.05
    assert np.abs(found).max() * 16 == greatest(128, 128)
    np.testing.assert_array_equal(lmul(a / 64, b * 8), found / 8)


def test_operators_sum_products():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-20, 20, shape).astype(float) for shape in ((3, 5), (5, 4)))
    (found,) = OPS["lmul_matmul"].evaluate([a, b.T], {"transpose_b": 1})
    np.testing.assert_array_equal(found, lmul(a[:, :, None], b[None]).sum(1))
    x, w = (rng.integers(-20, 20, shape).astype(float) for shape in ((1, 4, 5, 6), (6, 2, 2, 3)))
    attrs = {"strides": (2, 1), "pads": (1, 0, 0, 2), "dilations": (1, 2), "groups": 2}
    (found,) = OPS["lmul_conv"].evaluate([x, w], attrs)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 2)])
    assert found.shape == (1, 6, 3, 4)
    for which in range(6):
        source = padded[0, 2 * (which // 3) : 2 * (which // 3) + 2]
        for row in range(3):
            for column in range(4):
                window = source[:, 2 * row : 2 * row + 2, column : column + 5 : 2]
                assert found[0, which, row, column] == lmul(window, w[which]).sum()


def test_the_scheme_has_a_name():
    assert Quantization("fixed8w4:lmul").fixed == FixedBits(8, 4, True)
    assert FixedBits(8, 8, True).scheme == "fixed8:lmul"
