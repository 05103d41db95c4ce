"""Tensors that are wanted in another order than they come in."""

from __future__ import annotations

import numpy as np
import pytest

from targets.hls.layers.rearrange import Rearrange
from targets.hls.simulation import rtl
from tensorc.ir import Graph, TensorType


def graph_of_pixels() -> tuple[Graph, list[np.ndarray]]:
    """An image that a convolution gives channels last; two products read its rows of pixels, which are the model's."""
    rng = np.random.default_rng(0)
    graph = Graph("orders")
    x = graph.add_input("x", TensorType("float64", (1, 2, 4, 4)))
    attrs = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1}
    image = graph.add("conv", [x, graph.constant(rng.standard_normal((3, 2, 1, 1)), name="w")], attrs, name="image")
    rows = graph.add("reshape", [image], {"shape": (1, 3, 16)}, name="rows")
    for name in ("a", "b"):
        matrix = graph.constant(rng.standard_normal((16, 4)), name=f"{name}.matrix")
        graph.outputs = [*graph.outputs, graph.add("matmul", [rows, matrix], {"transpose_b": 0}, name=name)]
    graph.outputs = [*graph.outputs, graph.add("reduce_sum", [rows], {"axes": (1,), "keepdims": 0}, name="total")]
    return graph, [rng.standard_normal((4, 1, 2, 4, 4))]


@pytest.mark.compiler
def test_one_rearrangement_is_for_all_who_want_it(fixed):
    made = fixed(*graph_of_pixels())
    assert sum(isinstance(layer, Rearrange) for layer in made.network.layers) == 1
    program = made.program("orders")
    inputs, wanted = made.vectors(program, 4)
    for port, one, other in zip(program.outputs, rtl.simulate(program, inputs).outputs, wanted, strict=True):
        np.testing.assert_array_equal(one.reshape(4, -1), other, err_msg=port.name)
