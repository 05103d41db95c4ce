"""Recurrent layers: what each attribute and optional input means, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from tensorc.frontend import import_model
from tensorc.ir import evaluate

TRIPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@dataclass
class Layer:
    """One node. `given` are the optional inputs: B, lengths, h, c, P."""

    op: str
    given: str = "B"
    lengths: tuple[int, ...] = (5, 2, 3)
    outputs: tuple[int, ...] = (0, 1, 2)
    attrs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.op, *self.given.split(), *(f"{k}={v}" for k, v in self.attrs.items())])

    def inputs(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(7)
        gates, directions = GATES[self.op], 2 if self.attrs.get("direction") == "bidirectional" else 1
        turned = self.attrs.get("layout", 0)

        def random(*shape: int) -> np.ndarray:
            return rng.uniform(-0.8, 0.8, shape).astype(np.float32)

        state = (BATCH, directions, HIDDEN) if turned else (directions, BATCH, HIDDEN)
        arrays = {
            "X": 2 * random(BATCH, TRIPS, SIZE) if turned else 2 * random(TRIPS, BATCH, SIZE),
            "W": random(directions, gates * HIDDEN, SIZE),
            "R": random(directions, gates * HIDDEN, HIDDEN),
            "B": random(directions, 2 * gates * HIDDEN),
            "lengths": np.array(self.lengths, np.int32),
            "h": random(*state),
            "c": random(*state),
            "P": random(directions, 3 * HIDDEN),
        }
        return {name: array for name, array in arrays.items() if name in ("X", "W", "R", *self.given.split())}

    def model(self) -> onnx.ModelProto:
        arrays = self.inputs()
        names = [name if name in arrays else "" for name in ("X", "W", "R", "B", "lengths", "h", "c", "P")]
        if self.op != "LSTM":
            names = names[:6]
        results = [f"y{i}" if i in self.outputs else "" for i in range(3 if self.op == "LSTM" else 2)]
        node = helper.make_node(self.op, names, results, name="layer", hidden_size=HIDDEN, **self.attrs)
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in arrays.items()
        ]
        graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info(r) for r in results if r])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def layer(op: str, given: str = "B", **attrs: Any) -> Layer:
    return Layer(op, given, attrs=attrs)


LAYERS = [
    *(layer(op, given) for op in GATES for given in ("", "B", "B h", "B lengths", "lengths h")),
    *(layer(op, "B lengths", direction="reverse") for op in GATES),
    *(layer(op, "B lengths h", direction="bidirectional") for op in GATES),
    *(layer(op, "B", clip=0.3) for op in GATES),
    layer("LSTM", "B P h c"),
    layer("LSTM", "B P lengths c", direction="bidirectional"),
    layer("LSTM", "B P", input_forget=1),
    layer("LSTM", "P", clip=0.2),
    layer("GRU", "B h", linear_before_reset=1),
    layer("GRU", "", linear_before_reset=1),
    layer("GRU", "B lengths", linear_before_reset=1, direction="bidirectional"),
    layer("LSTM", activations=["HardSigmoid", "Tanh", "Relu"], activation_alpha=[0.3], activation_beta=[0.4]),
    layer("GRU", activations=["Sigmoid", "Softsign"]),
    layer("RNN", activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.1]),
    layer("RNN", activations=["ScaledTanh"], activation_alpha=[0.5], activation_beta=[0.7]),
    layer("RNN", activations=["LeakyRelu", "Elu"], activation_alpha=[0.2, 0.6], direction="bidirectional"),
    layer("RNN", activations=["ThresholdedRelu"], activation_alpha=[0.2]),
    layer("RNN", activations=["Softplus"]),
]


def agrees(case: Layer, want: list[np.ndarray]) -> None:
    graph = import_model(case.model()).graph
    feed = case.inputs()
    for got, expected in zip(evaluate(graph, {v.name: feed[v.name] for v in graph.inputs}), want, strict=True):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def runtime(case: Layer) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(case.model().SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, case.inputs()))


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layer_agrees_with_onnx_runtime(case: Layer) -> None:
    agrees(case, runtime(case))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_layout_with_the_batch_in_front_is_the_other_one_transposed(op: str, direction: str) -> None:
    given = "B lengths h c" if op == "LSTM" else "B lengths h"
    case, plain = layer(op, given, layout=1, direction=direction), layer(op, given, direction=direction)
    feed = case.inputs()
    turned = {k: np.ascontiguousarray(v.swapaxes(0, 1)) if k in "Xhc" else v for k, v in feed.items()}
    session = onnxruntime.InferenceSession(plain.model().SerializeToString(), providers=["CPUExecutionProvider"])
    y, *states = session.run(None, turned)
    agrees(case, [y.transpose(2, 0, 1, 3), *(state.swapaxes(0, 1) for state in states)])


@pytest.mark.parametrize("outputs", [(0,), (1,), (2,), (0, 2)])
def test_outputs_that_nobody_wants_are_not_computed(outputs: tuple[int, ...]) -> None:
    case = Layer("LSTM", outputs=outputs)
    agrees(case, runtime(case))
    (loop,) = [node for node in import_model(case.model()).graph.nodes if node.op == "loop"]
    assert len(loop.attrs["stacked"]) == (0 in outputs)


def test_lengths_that_are_all_of_it_cost_nothing() -> None:
    case = Layer("GRU", "B lengths", lengths=(TRIPS,) * BATCH)
    model = case.model()
    model.graph.initializer.append(onnx.numpy_helper.from_array(case.inputs()["lengths"], "lengths"))
    del model.graph.input[[info.name for info in model.graph.input].index("lengths")]
    (loop,) = [node for node in import_model(model).graph.nodes if node.op == "loop"]
    assert "where" not in [node.op for node in loop.regions[0].nodes]


def test_the_inputs_of_all_steps_are_multiplied_at_once() -> None:
    graph = import_model(layer("LSTM").model()).graph
    (product,) = [node for node in graph.nodes if node.op == "matmul"]
    assert product.output.shape == (TRIPS * BATCH, 4 * HIDDEN)
    (loop,) = [node for node in graph.nodes if node.op == "loop"]
    assert [node.op for node in loop.regions[0].nodes].count("matmul") == 1


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"activations": ["Tanh", "Tanh"]}, "3 activations are needed for each of 1 directions"),
        ({"activations": ["Tanh", "Cosine", "Tanh"]}, "'Cosine' is no activation of a recurrent layer"),
        ({"direction": "sideways"}, "its direction is 'sideways'"),
    ],
)
def test_wrong_layers_are_the_models_fault(attrs: dict[str, Any], message: str) -> None:
    from tensorc.errors import UserError

    model = layer("LSTM").model()
    node = model.graph.node[0]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attrs.items())
    with pytest.raises(UserError, match=message):
        import_model(model)
