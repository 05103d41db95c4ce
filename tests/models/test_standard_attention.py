"""ONNX's own Attention and what stands around it, compiled and compared with ONNX Runtime; rows along any axis."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import helper

from passes.canonical import canonical_passes
from tensorc.frontend import import_model
from tensorc.pipeline import run_passes

pytestmark = pytest.mark.compiler

NUMBERS = {"q_num_heads": 4, "kv_num_heads": 2}


def operators(net, *outputs):
    graph = import_model(net.model(*outputs)).graph
    run_passes(graph, canonical_passes())
    return Counter(node.op for node in graph.nodes)


def test_heads_in_one_axis_that_share_keys(net, agrees):
    net.opset = 23
    results = []
    for mask, attributes in ((None, {"is_causal": 1}), ((5, 11), {}), ((2, 1, 5, 11), {"is_causal": 1, "scale": 0.2})):
        operands = [net.input(2, 5, 64), net.input(2, 11, 32), net.input(2, 11, 40)]
        masks = [net.input(*mask)] if mask else []
        results.append(net.Attention(*operands, *masks, **NUMBERS, **attributes))
    counts = operators(net, *results)
    assert counts["attention"] == 3
    assert counts["softmax"] == counts["matmul"] == 0
    assert counts["transpose"] == 0  # the kernel takes the heads where they are
    agrees(net, *results)


def test_masks_that_leave_nothing(net, agrees):
    """Rows that are masked wholly are zeros, whatever the mask is made of."""
    net.opset = 23
    numbers = np.where(np.arange(5)[:, None] % 2, 0, -np.inf) + np.zeros((5, 9))
    choice = np.arange(45).reshape(1, 5, 9) % 4 * (np.arange(5)[:, None] > 1) > 0
    results = []
    for mask in (
        net.constant(numbers),
        net.input(5, 9, kind="b"),
        net.input(2, 4, 5, 9, kind="b"),
        net.constant(choice),
    ):
        q, k, v = net.input(2, 4, 5, 8), net.input(2, 4, 9, 8), net.input(2, 4, 9, 6)
        results.append(net.Attention(q, k, v, mask))
    assert operators(net, *results)["attention"] == 4
    for high in (2, 1):
        agrees(net, *results, high=high)


def test_what_has_no_kernel_of_its_own(net, agrees):
    """A curve over the scores, and scores that are a result."""
    net.opset = 23
    q, k, v = net.input(1, 2, 5, 8), net.input(1, 2, 9, 8), net.input(1, 2, 9, 6)
    agrees(net, net.Attention(q, k, v, softcap=3.0))


def test_rotary_embedding_before_attention(net, agrees):
    net.opset = 23
    cos, sin = net.weight(20, 8), net.weight(20, 8)
    q, k, places = net.input(2, 5, 64), net.input(2, 5, 32), net.input(2, 5, kind="i")
    q = net.RotaryEmbedding(q, cos, sin, places, num_heads=4)
    k = net.RotaryEmbedding(k, cos, sin, places, num_heads=2, interleaved=1)
    y = net.Attention(q, k, k, **NUMBERS)
    assert operators(net, y)["attention"] == 1
    agrees(net, y, high=20)


def test_rows_along_any_axis(net, agrees):
    x = net.input(3, 21, 5, 18)
    again = net.Softmax(net.Relu(x), axis=-2)
    agrees(net, net.Softmax(x, axis=1), net.LogSoftmax(x, axis=0), again, net.Hardmax(x, axis=2))


def test_norms_with_all_their_results(net, agrees):
    x = net.input(3, 4, 19)
    net.nodes.append(_node("LayerNormalization", [x, net.weight(4, 19), net.weight(19)], ["y", "m", "d"], axis=1))
    stats = [net.weight(4), net.weight(4), net.weight(4), net.constant(net.rng.uniform(0.5, 2, 4))]
    net.nodes.append(_node("BatchNormalization", [x, *stats], ["b", "mean", "var"], training_mode=1))
    agrees(net, "y", "m", "d", "b", "mean", "var", net.LpNormalization(x, axis=1))


def _node(*row, **attributes):
    return helper.make_node(*row, **attributes)
