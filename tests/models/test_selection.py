"""Small models that select, scatter and reduce, compiled, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

pytestmark = pytest.mark.compiler


def top_k(net, x, k, **attributes):
    names = [f"v{len(net.nodes)}_values", f"v{len(net.nodes)}_places"]
    net.nodes.append(helper.make_node("TopK", [x, net.constant([k], "int64")], names, **attributes))
    return names


def test_a_router_of_experts(net, agrees):
    """The best two of eight scores, turned into weights that are scattered back."""
    net.opset = 18
    x = net.input(13, 16)
    scores = net.MatMul(x, net.weight(16, 8))
    values, places = top_k(net, scores, 2, axis=-1)
    weights = net.Softmax(values, axis=-1)
    spread = net.ScatterElements(net.constant(np.zeros((13, 8))), places, weights, axis=1)
    agrees(net, spread, net.Relu(net.Sub(spread, net.constant(0.5))), places, net.ArgMax(scores, axis=1))


def test_greedy_sampling(net, agrees):
    """The next token, the running sum of what is likely, and a cache with the token's row in its place."""
    net.opset = 18
    logits, cache, place = net.input(3, 501), net.input(3, 20, 8), net.input(3, 2, kind="i")
    values, places = top_k(net, logits, 40, axis=1)
    likely = net.CumSum(net.Softmax(values, axis=1), net.constant(1, "int64"), exclusive=1)
    kept = net.Less(likely, net.constant(0.7))
    row = net.Gather(net.weight(501, 8), net.ArgMin(logits, axis=1, keepdims=0))
    agrees(net, places, kept, net.ScatterND(cache, place, row), high=3)


def test_turned_and_picked(net, agrees):
    x, lengths = net.input(5, 4, 3), net.input(4, kind="i")
    turned = net.ReverseSequence(x, lengths, batch_axis=1, time_axis=0)
    picked = net.OneHot(lengths, net.constant(6, "int64"), net.constant([-1.0, 2.0]), axis=0)
    agrees(net, net.Neg(turned), picked, net.Atan(net.Sinh(turned)), high=6)


def test_nothing(net, agrees):
    """Inputs without elements, next to some with."""
    net.opset = 18
    x, empty = net.input(2, 3), net.input(2, 0)
    joined = net.Concat(empty, x, empty, axis=1)
    axes = net.constant([1], "int64")
    sums = [net.ReduceSum(empty, axes), net.ReduceLogSumExp(empty, axes), net.ReduceProd(empty, axes, keepdims=0)]
    padded = net.Pad(empty, net.constant([0, 1, 0, 2], "int64"))
    agrees(net, joined, *sums, net.Add(x, sums[0]), net.Add(x, padded), net.Relu(empty),
           net.Slice(x, axes, axes, axes))  # fmt: skip
