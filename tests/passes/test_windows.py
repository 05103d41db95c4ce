"""Convolutions and pools over any number of axes, before and after they are put in terms of two: the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from passes.layout import BlockLayout
from tensorc.ir import Graph, TensorType, evaluate, verify

KEYS = ("strides", "dilations", "pads")
CONVOLUTIONS = {
    "3-D": ((2, 3, 5, 6, 7), (4, 3, 2, 3, 2), 1, (2, 1, 2), (1, 2, 1), (1, 0, 1, 0, 2, 1)),
    "3-D, one plane each": ((1, 2, 4, 5, 5), (3, 2, 1, 3, 3), 1, (2, 1, 1), (1, 1, 1), (0, 1, 1, 0, 1, 1)),
    "3-D in groups": ((1, 4, 3, 4, 5), (6, 2, 3, 3, 3), 2, (1, 1, 1), (1, 1, 1), (1, 1, 1, 1, 1, 1)),
    "3-D, depthwise": ((1, 4, 3, 4, 5), (4, 1, 2, 2, 2), 4, (1, 2, 1), (1, 1, 2), (0, 0, 0, 0, 0, 0)),
    "4-D": ((1, 2, 3, 4, 3, 4), (2, 2, 2, 2, 3, 1), 1, (1, 2, 1, 2), (1, 1, 1, 1), (1, 0, 0, 0, 0, 1, 0, 0)),
    "2-D": ((2, 3, 6, 7), (4, 3, 3, 2), 1, (2, 1), (1, 2), (1, 0, 0, 2)),
    "2-D, one pixel": ((2, 3, 6, 7), (4, 3, 1, 1), 1, (1, 2), (1, 1), (0, 0, 0, 0)),
    "2-D in groups": ((1, 6, 5, 5), (4, 3, 3, 3), 2, (1, 1), (1, 1), (1, 1, 1, 1)),
    "1-D": ((2, 4, 9), (6, 2, 3), 2, (2,), (2,), (1, 2)),
}
POOLS = {
    "1-D": ((2, 3, 11), (3,), (2,), (2,), (1, 1), 1),
    "3-D": ((1, 2, 6, 5, 7), (2, 3, 2), (2, 1, 2), (2, 1, 1), (0, 1, 1, 1, 1, 0), 0),
    "3-D, rounded up": ((1, 2, 6, 5, 7), (3, 3, 2), (2, 2, 2), (1, 1, 2), (1, 1, 0, 1, 0, 1), 1),
    "4-D": ((1, 1, 4, 3, 5, 4), (2, 2, 3, 2), (1, 1, 2, 2), (2, 1, 1, 1), (0, 0, 1, 1, 0, 1, 1, 0), 1),
}


def type_of(shape):
    return TensorType("float64", shape)


def check(graph: Graph, gone: str | None = None) -> None:
    verify(graph)
    rng = np.random.default_rng(0)
    arrays = {value.name: rng.standard_normal(value.shape) for value in graph.inputs}
    wanted = evaluate(graph, arrays)
    assert BlockLayout(block=4).run(graph)
    verify(graph)
    assert all(node.op != gone for node in graph.nodes)
    assert all(len(node.attrs["kernel"]) == 2 for node in graph.nodes if node.op.endswith("_pool"))
    for a, b in zip(evaluate(graph, arrays), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("filters", ["constant", "computed"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case, filters):
    x_shape, w_shape, groups, *rest = CONVOLUTIONS[case]
    graph = Graph("g")
    x = graph.add_input("x", type_of(x_shape))
    data = np.random.default_rng(1).standard_normal(w_shape)
    w = graph.constant(data, "float64") if filters == "constant" else graph.add_input("w", type_of(w_shape))
    graph.outputs = [graph.add("conv", [x, w], {"groups": groups, **dict(zip(KEYS, rest, strict=True))})]
    check(graph, gone="conv")


@pytest.mark.parametrize("op", ["max_pool", "avg_pool", "avg_pool with padding"])
@pytest.mark.parametrize("case", POOLS)
def test_pool(case, op):
    shape, kernel, *rest, ceil = POOLS[case]
    name, *padded = op.split(" with ")
    attrs = {"kernel": kernel, "ceil": ceil, **dict(zip(KEYS, rest, strict=True))}
    if name == "avg_pool":
        attrs["count_include_pad"] = int(bool(padded))
    graph = Graph("g")
    graph.outputs = [graph.add(name, [graph.add_input("x", type_of(shape))], attrs)]
    check(graph)
