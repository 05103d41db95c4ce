"""What `experts` means, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest

from tensorc.ir import OPS, Graph, TensorType


@pytest.mark.parametrize("own", [False, True])
def test_each_row_meets_the_matrices_that_it_chose(own):
    rng = np.random.default_rng(0)
    which = np.array([[3, 0], [1, 3], [9, -1]])
    x = rng.standard_normal((3, 2 if own else 1, 4))
    weights, bias = rng.standard_normal((5, 4, 6)), rng.standard_normal((5, 6))
    (found,) = OPS["experts"].evaluate([x, which, weights, bias], {})
    for row in range(3):
        for slot in range(2):
            expert = min(max(which[row, slot], 0), 4)
            wanted = x[row, slot if own else 0] @ weights[expert] + bias[expert]
            np.testing.assert_allclose(found[row, slot], wanted)


@pytest.mark.parametrize(("shapes", "which", "what"), [
    ([(3, 1, 4), (3, 2), (5, 4, 6), (5, 6)], "float64", "told by int32 or int64"),
    ([(3, 4), (3, 2), (5, 4, 6), (5, 6)], "int64", "experts take"),
    ([(3, 3, 4), (3, 2), (5, 4, 6), (5, 6)], "int64", "no operands of the same experts"),
    ([(3, 1, 4), (3, 2), (5, 4, 6), (4, 6)], "int64", "no operands of the same experts"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(shapes, which, what):
    graph = Graph("main")
    types = ["float64", which, "float64", "float64"]
    values = [graph.add_input(f"x{n}", TensorType(*pair)) for n, pair in enumerate(zip(types, shapes, strict=True))]
    with pytest.raises(TypeError, match=what):
        graph.add("experts", values)


def test_the_greatest_of_a_row_come_first_and_equal_ones_in_their_order():
    x = np.array([[1.0, 3, 3, -2, 3], [0, 0, 0, 0, 0]])
    (most,) = OPS["fixed_top_k"].evaluate([x], {"k": 3, "largest": 1})
    (least,) = OPS["fixed_top_k"].evaluate([x], {"k": 2, "largest": 0})
    np.testing.assert_array_equal(most, [[1, 2, 4], [0, 1, 2]])
    np.testing.assert_array_equal(least, [[3, 0], [0, 1]])
