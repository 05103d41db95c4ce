"""Operators that come by the standard's function bodies, against ONNX's reference evaluator; names and opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend import functions, import_model, supported_operators
from tensorc.frontend.functions import body_of, is_function
from tensorc.frontend.registry import ruled_operators
from tensorc.ir import evaluate


def random(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).uniform(-2, 2, shape).astype(dtype)


def model_of(node: onnx.NodeProto, arrays: list[np.ndarray], opset: int, *extra: onnx.OperatorSetIdProto) -> Any:
    names = [name for name in node.input if name]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "one-node", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *extra], ir_version=10)


def results_of(model: onnx.ModelProto, arrays: list[np.ndarray]) -> list[np.ndarray]:
    imported = import_model(model)
    return evaluate(imported.graph, {v.name: a for v, a in zip(imported.graph.inputs, arrays, strict=True)})


def check(model: onnx.ModelProto, arrays: list[np.ndarray]) -> None:
    feed = {info.name: array for info, array in zip(model.graph.input, arrays, strict=True)}
    wanted = ReferenceEvaluator(model).run(None, feed)
    for got, want in zip(results_of(model, arrays), wanted, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


X = random(2, 3, 4)
LABELS = np.array([[0, 2, 1, 4], [3, 3, 0, 1]], np.int64)
CASES: list[tuple[str, int, list[np.ndarray | None], int, dict[str, Any]]] = [
    ("SwiGLU", 28, [X, X + 1], 1, {"alpha": 1.5}),
    ("SwiGLU", 28, [X, X + 1], 1, {}),
    ("MeanVarianceNormalization", 9, [random(2, 3, 4, 5)], 1, {}),
    ("MeanVarianceNormalization", 13, [random(2, 3, 4, 5)], 1, {"axes": [1, 3]}),
    ("RotaryEmbedding", 23, [random(2, 4, 3, 8), random(6, 4), random(6, 4) + 1, np.array([[0, 1, 5], [4, 2, 3]])], 1,
     {}),
    ("RotaryEmbedding", 23, [random(2, 3, 32), random(2, 3, 2), random(2, 3, 2) + 1], 1,
     {"num_heads": 4, "rotary_embedding_dim": 4, "interleaved": 1}),
    ("NegativeLogLikelihoodLoss", 13, [random(2, 5, 4), LABELS], 1, {"reduction": "none"}),
    ("NegativeLogLikelihoodLoss", 22, [random(2, 5, 4), LABELS, random(5)], 1, {"ignore_index": 3}),
    ("SoftmaxCrossEntropyLoss", 13, [random(2, 5, 4), LABELS, random(5)], 2, {"reduction": "sum"}),
    ("Attention", 23, [random(2, 4, 3, 8), random(2, 2, 5, 8), random(2, 2, 5, 6)], 1,
     {"is_causal": 1, "softcap": 2.0}),
    ("Attention", 24, [random(2, 3, 32), random(2, 5, 16), random(2, 5, 8), random(3, 9), random(2, 2, 4, 8),
                       random(2, 2, 4, 4)], 4, {"q_num_heads": 4, "kv_num_heads": 2, "qk_matmul_output_mode": 1}),
    ("CausalConvWithState", 27, [random(2, 3, 6), random(3, 1, 4), None, random(2, 3, 3)], 2, {"activation": "silu"}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "opset", "inputs", "outputs", "attrs"), CASES)
def test_body_means_what_the_operator_does(
    op: str, opset: int, inputs: list[np.ndarray | None], outputs: int, attrs: dict[str, Any]
) -> None:
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], **attrs)
    arrays = [array for array in inputs if array is not None]
    check(model_of(node, arrays, opset), arrays)


def test_only_the_outputs_that_are_asked_for() -> None:
    arrays = [random(1, 2, 3, 4), random(1, 2, 5, 4), random(1, 2, 5, 4)]
    node = helper.make_node("Attention", ["q", "k", "v"], ["y", "", "", "qk"], scale=0.3)
    check(model_of(node, arrays, 23), arrays)


def test_every_listed_case_is_supported() -> None:
    by_body = {op.name for op in supported_operators()} - {name for _, name in ruled_operators()}
    assert {op for op, *_ in CASES} | {"FlexAttention"} <= by_body


def test_what_a_body_needs_and_nothing_gives_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = ruled_operators() - {("ai.onnx", "Swish"), ("ai.onnx", "Mul"), ("ai.onnx", "Scan")}
    monkeypatch.setattr(functions, "ruled_operators", lambda: rules)
    listed = {op.name for op in supported_operators()}
    assert {"MeanVarianceNormalization", "Attention"} <= listed
    assert not {"SwiGLU", "LinearAttention"} & listed


# Names, opsets, nesting -------------------------------------------------------------------------------------


def parse(body: str, opset: int) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}, "own" : 1]>\n{body}')


def test_one_operator_twice_and_names_that_its_body_has_too() -> None:
    model = parse("""
        g (float[2, 3] B) => (float[2, 3] Y) {
            SwishGate = SwiGLU<alpha = 0.25>(B, B)
            A = SwiGLU(B, SwishGate)
            Y = Add(SwishGate, A)
        }""", 28)  # fmt: skip
    check(model, [random(2, 3)])


def test_a_body_of_the_models_own_opset_is_read_in_its_own() -> None:
    """Opset 9 had the axes of a reduction as an attribute; this body, of opset 13 or later, may not be read so."""
    arrays = [random(2, 5, 4), LABELS]
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["m"])
    before = helper.make_node("ReduceMean", ["m"], ["y"], axes=[1], keepdims=0)
    graph = helper.make_graph(
        [node, before], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 5])],
        [helper.make_empty_tensor_value_info("y")],
    )  # fmt: skip
    check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4), [random(2, 3, 4, 5)])
    check(model_of(helper.make_node("NegativeLogLikelihoodLoss", ["x", "t"], ["y"]), arrays, 12), arrays)


def test_inside_of_a_models_own_function() -> None:
    model = parse("""
        g (float[2, 3] x) => (float[2, 3] y) { y = own.twice<limit = 0.75>(x) }
        <domain: "own", opset_import: ["" : 28]>
        twice <limit: float = 0.1> (A) => (output) {
            once = SwiGLU<alpha: float = @limit>(A, A)
            output = SwiGLU<alpha: float = @limit>(once, A)
        }""", 28)  # fmt: skip
    check(model, [random(2, 3)])


def test_a_graph_that_the_body_calls() -> None:
    """FlexAttention changes its scores by a graph of the node's own, which reads a value from around the node."""
    names = ["score", "b", "h", "i", "j"]
    score = helper.make_graph(
        [helper.make_node("Mul", ["score", "around"], ["changed"])],
        "modify",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT if name == "score" else TensorProto.INT64, [])
         for name in names[:1]],
        [helper.make_tensor_value_info("changed", TensorProto.FLOAT, [])],
    )  # fmt: skip
    node = helper.make_node("FlexAttention", ["q", "k", "v"], ["y"], domain="ai.onnx.preview", score_mod=score)
    arrays = [random(1, 2, 3, 4), random(1, 2, 5, 4), random(1, 2, 5, 4)]
    model = model_of(node, arrays, 26, helper.make_opsetid("ai.onnx.preview", 1))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "around"))
    q, k, v = arrays
    scores = np.exp(0.5 / np.sqrt(4) * q @ k.swapaxes(-1, -2))
    (got,) = results_of(model, arrays)
    np.testing.assert_allclose(got, scores / scores.sum(-1, keepdims=True) @ v, rtol=1e-5)


def test_a_preview_body_in_a_model_that_is_older_than_its_nodes() -> None:
    node = helper.make_node("FlexAttention", ["q", "k", "v"], ["y"], domain="ai.onnx.preview")
    arrays = [random(1, 2, 3, 4), random(1, 2, 5, 4), random(1, 2, 5, 4)]
    check(model_of(node, arrays, 13, helper.make_opsetid("ai.onnx.preview", 1)), arrays)


def test_names_inside_of_branches() -> None:
    node = helper.make_node("AffineGrid", ["theta", "size"], ["grid"], align_corners=1)
    body = body_of(node, 20, [None, None])
    branching = [inner for inner in body.nodes if inner.op_type == "If"]
    assert branching
    defined = {name for inner in body.nodes for name in inner.output}
    for inner in branching:
        for attribute in inner.attribute:
            made = {name for step in attribute.g.node for name in step.output}
            assert all(name.startswith("grid:AffineGrid:") for name in made)
            for step in attribute.g.node:
                assert set(step.input) <= made | defined | {"theta", "size"}
            assert {info.name for info in attribute.g.output} <= made


def test_what_a_body_holds_and_nothing_translates_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorc.frontend.translator.find_rule", lambda _: None)
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"])
    with pytest.raises(
        UnsupportedError, match=r"ai.onnx.Constant \(2x, such as 'MeanVarianceNormalization/Constant_0'"
    ):
        import_model(model_of(node, [X], 13))


def test_bodies_in_bodies_without_end() -> None:
    node = helper.make_node("SwiGLU", ["a", "b"], ["y"])
    assert is_function(node, 28)
    assert not is_function(node, 27)
    with pytest.raises(UnsupportedError, match="16 deep"):
        body_of(node, 28, [None, None], depth=16)


@pytest.mark.parametrize("inner", ["own.f(x)", "own.g(x)"])
def test_functions_that_call_themselves(inner: str) -> None:
    model = parse(f"""
        m (float[2] x) => (float[2] y) {{ y = own.f(x) }}
        <domain: "own", opset_import: ["" : 13, "own" : 1]>
        f (x) => (y) {{ y = {inner} }}
        <domain: "own", opset_import: ["" : 13, "own" : 1]>
        g (x) => (y) {{ y = own.f(x) }}""", 13)  # fmt: skip
    with pytest.raises(UserError):
        import_model(model)
