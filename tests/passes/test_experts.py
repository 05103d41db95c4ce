"""Mixtures of experts, as exporters write them, become `experts`: nothing is computed of those that are not chosen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from benchmarks.hls.experts import every_expert, gathered_experts
from passes.canonical import canonical_passes
from passes.recognize import RecognizeExperts
from passes.simplify import Simplify
from tensorc.frontend.importer import open_model
from tensorc.ir import Graph, clone, evaluate
from tensorc.pipeline import run_passes

MODELS = {
    "every": lambda: every_expert(5, 6, 8, 4, 2),
    "task": lambda: every_expert(3, 4, 5, 3, 1, tasks=2),
    "all": lambda: every_expert(3, 4, 5, 3, 3),
    "gathered": lambda: gathered_experts(5, 6, 8, 4, 2),
}


def recognised(model: onnx.ModelProto, folder) -> tuple[Graph, Graph]:
    onnx.save(model, folder / "model.onnx")
    graph = open_model(str(folder / "model.onnx"), {}, False).static().graph
    run_passes(graph, canonical_passes())
    before = clone(graph)
    run_passes(graph, [RecognizeExperts(), Simplify()])
    return before, graph


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_mixtures_are_recognised(model, tmp_path):
    before, after = recognised(model(), tmp_path)
    ops = [node.op for node in after.nodes]
    gates = sum(value.name == "task" for value in after.inputs)
    assert ops.count("experts") == 2 + gates
    assert ops.count("matmul") == 2 - gates  # the gate, and the sum by shares
    assert not {"gather", "scatter", "div", "slice", "reduce_sum"} & set(ops)
    rng = np.random.default_rng(1)
    for number in range(4):
        feed = {"x": rng.standard_normal(before.inputs[0].shape).astype(np.float32), "task": np.array(number % 2)}
        feed = {value.name: feed[value.name] for value in before.inputs}
        for wanted, found in zip(evaluate(before, feed), evaluate(after, feed), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_experts_that_differ_in_more_than_constants_stay_apart(tmp_path):
    model = every_expert(5, 6, 8, 4, 2)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Tanh"
    _, after = recognised(model, tmp_path)
    assert "experts" not in [node.op for node in after.nodes]


def test_shares_that_add_to_what_was_there_are_no_gate(tmp_path):
    model = every_expert(5, 6, 8, 4, 2)
    (zeros,) = (one for one in model.graph.initializer if tuple(one.dims) == (5, 4))
    zeros.CopyFrom(onnx.numpy_helper.from_array(np.full((5, 4), 0.5, np.float32), zeros.name))
    _, after = recognised(model, tmp_path)
    assert "experts" not in [node.op for node in after.nodes]


def test_a_column_that_is_missing_leaves_all_as_it_is(tmp_path):
    """The second expert is multiplied by the share of the first."""
    model = every_expert(5, 6, 8, 4, 2)
    cuts = [node for node in model.graph.node if node.op_type == "Slice"]
    cuts[1].input[1:3] = cuts[0].input[1:3]
    _, after = recognised(model, tmp_path)
    assert "experts" not in [node.op for node in after.nodes]
