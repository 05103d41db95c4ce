"""Gathers that repeat elements, and what the layout pass makes of them."""

from __future__ import annotations

import numpy as np

from passes.layout import BlockLayout
from tensorc.ir import Graph, TensorType, Value, clone, evaluate
from tensorc.pipeline import run_passes


def upsampled(graph: Graph, x: Value, rows: int, columns: int) -> Value:
    for axis, times in ((3, columns), (2, rows)):
        index = np.arange(x.shape[axis] * times) // times
        x = graph.add("gather", [x, graph.constant(index, "int64")], {"axis": axis})
    return x


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def check(graph: Graph, wanted: list[str]) -> Graph:
    """`wanted` are the operators left of `graph`, which means what it meant."""
    before = clone(graph)
    run_passes(graph, [BlockLayout(4)])
    assert ops(graph) == wanted
    x = np.random.default_rng(0).standard_normal(graph.inputs[0].shape).astype(np.float32)
    for old, new in zip(evaluate(before, {"x": x}), evaluate(graph, {"x": x}), strict=True):
        np.testing.assert_allclose(new, old, 1e-5, 1e-5)
    return graph


def image(channels: int = 3) -> Graph:
    graph = Graph("main")
    graph.add_input("x", TensorType("float32", (1, channels, 4, 5)))
    return graph


def test_a_chain_becomes_one_expansion():
    graph = image()
    graph.outputs = [upsampled(graph, graph.inputs[0], 2, 3)]
    expand = check(graph, ["reshape", "expand", "reshape"]).nodes[1]
    assert expand.output.shape == (1, 3, 4, 2, 5, 3)


def test_values_between_that_others_read_stay():
    graph = image()
    columns = upsampled(graph, graph.inputs[0], 1, 2)
    rows = graph.add("gather", [columns, graph.constant(np.arange(8) // 2, "int64")], {"axis": 2})
    graph.outputs = [rows, graph.add("relu", [columns])]
    before = clone(graph)
    run_passes(graph, [BlockLayout(4)])
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    for old, new in zip(evaluate(before, {"x": x}), evaluate(graph, {"x": x}), strict=True):
        np.testing.assert_array_equal(new, old)
    assert ops(graph).count("expand") == 2


def test_blocks_of_channels_stay_blocks():
    graph = image(8)
    rng = np.random.default_rng(1)
    attrs = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1}

    def conv(x: Value) -> Value:
        w = graph.constant(rng.standard_normal((8, 8, 1, 1)).astype(np.float32))
        return graph.add("conv", [x, w], attrs)

    graph.outputs = [conv(upsampled(graph, conv(graph.inputs[0]), 2, 2))]
    check(graph, ["block", "conv_blocked", "reshape", "expand", "reshape", "conv_blocked", "unblock"])


def test_other_gathers_stay():
    graph = image()
    index = graph.constant(np.array([0, 0, 1, 1, 2, 2, 2, 3]), "int64")
    graph.outputs = [graph.add("gather", [graph.inputs[0], index], {"axis": 2})]
    check(graph, ["gather"])
