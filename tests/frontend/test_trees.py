"""Ensembles of decision trees against ONNX's reference evaluator, which goes down one tree at a time."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tensorc.errors import UserError
from tensorc.frontend import import_model
from tensorc.ir import evaluate

ML = "ai.onnx.ml"
FEATURES = 4


def forest(trees: int, depth: int, targets: int, seed: int, modes: int = 6, **attributes: object) -> onnx.ModelProto:
    """Full trees of random splits; some branches end early."""
    rng = np.random.default_rng(seed)
    nodes: list[list[float]] = []
    leaves: list[tuple[int, float]] = []

    def grow(left: int) -> tuple[int, int]:
        """Number and whether it is a leaf."""
        if left == 0 or (left < depth and rng.random() < 0.2):
            leaves.append((int(rng.integers(targets)), float(rng.standard_normal())))
            return len(leaves) - 1, 1
        number = len(nodes)
        nodes.append([])
        (true, true_leaf), (false, false_leaf) = grow(left - 1), grow(left - 1)
        nodes[number] = [
            int(rng.integers(FEATURES)), float(np.round(rng.standard_normal(), 1)), int(rng.integers(modes)),
            true, true_leaf, false, false_leaf, int(rng.integers(2)),
        ]  # fmt: skip
        return number, 0

    roots = [grow(depth)[0] for _ in range(trees)]
    feature, split, mode, true, true_leaf, false, false_leaf, missing = zip(*nodes, strict=True)
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain=ML, n_targets=targets, tree_roots=roots, nodes_featureids=feature,
        nodes_splits=numpy_helper.from_array(np.array(split, np.float32)),
        nodes_modes=numpy_helper.from_array(np.array(mode, np.uint8)),
        nodes_truenodeids=true, nodes_trueleafs=true_leaf, nodes_falsenodeids=false, nodes_falseleafs=false_leaf,
        nodes_missing_value_tracks_true=missing, leaf_targetids=[target for target, _ in leaves],
        leaf_weights=numpy_helper.from_array(np.array([weight for _, weight in leaves], np.float32)),
        **attributes,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "forest", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7, FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [7, targets])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(ML, 5)])


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    (result,) = evaluate(import_model(model).graph, {"x": x})
    return result


@pytest.mark.parametrize(("trees", "depth", "targets"), [(1, 1, 1), (5, 4, 3), (20, 2, 2)])
@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
def test_as_the_reference(trees: int, depth: int, targets: int, aggregate: int) -> None:
    model = forest(trees, depth, targets, seed=trees, aggregate_function=aggregate)
    x = np.round(np.random.default_rng(1).standard_normal((7, FEATURES)), 1).astype(np.float32)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(run(model, x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregate", [2, 3])
def test_a_target_without_votes_is_zero(aggregate: int) -> None:
    """As ONNX Runtime has it: the reference evaluator lets infinity stand."""
    model = forest(trees=2, depth=2, targets=12, seed=0, aggregate_function=aggregate)
    model.ir_version = 10
    x = np.random.default_rng(0).standard_normal((7, FEATURES)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert (want == 0).any()
    np.testing.assert_allclose(run(model, x), want, rtol=1e-6)


def test_a_missing_value_goes_where_the_node_says() -> None:
    model = forest(8, 3, 2, seed=3)
    x = np.full((7, FEATURES), np.nan, np.float32)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(run(model, x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("nodes_truenodeids", [9], "leads to a node that there is not"),
        ("nodes_trueleafs", [0], "leads back to itself"),
        ("nodes_featureids", [0, 1], "differ in length"),
        ("aggregate_function", 7, "aggregate_function is 0 to 3, not 7"),
    ],
)
def test_trees_that_are_wrong(name: str, values: object, message: str) -> None:
    model = forest(1, 1, 1, seed=0)
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, values)])
    with pytest.raises(UserError, match=message):
        run(model, np.zeros((7, FEATURES), np.float32))
