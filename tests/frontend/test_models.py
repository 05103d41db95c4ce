"""Whole models, the light ones that the onnx package carries, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tensorc.frontend import import_model
from tensorc.ir import evaluate

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def with_random_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The light models fill every weight with one number, which hides mistakes: give them noise instead."""
    rng = np.random.default_rng(7)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    variances = {n.input[4] for n in model.graph.node if n.op_type == "BatchNormalization"}
    for node in [n for n in model.graph.node if n.op_type == "ConstantOfShape"]:
        name, shape = node.output[0], shapes[node.input[0]]
        noise = rng.standard_normal(shape) * np.sqrt(2 / max(np.prod(shape[1:]), 1))
        array = (np.abs(noise) + 0.5 if name in variances else noise).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.node.remove(node)
    if model.graph.node[-1].op_type == "Softmax":  # which would round everything to one class
        model.graph.node[-1].op_type = "Identity"
        model.graph.node[-1].ClearField("attribute")
    return model


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_light_model_agrees_with_onnx_runtime(name: str) -> None:
    data = with_random_weights(onnx.load(LIGHT / f"light_{name}.onnx")).SerializeToString()
    imported = import_model(data)
    (value,) = imported.graph.inputs
    x = np.random.default_rng(0).standard_normal(value.shape).astype(np.float32)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (want,) = session.run(list(imported.output_names), {imported.input_names[0]: x})
    (got,) = evaluate(imported.graph, {value.name: x})
    assert want.std() > 1e-3
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * want.std())


def test_light_weights_stay_splats() -> None:
    graph = import_model(LIGHT / "light_vgg19.onnx").graph
    large = [v for v in graph.constants() if v.type.size > 1000]
    assert sum(v.type.nbytes for v in large) > 500 << 20
    assert all(v.constant is not None and v.constant.splat is not None for v in large)
