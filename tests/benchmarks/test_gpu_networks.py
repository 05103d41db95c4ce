"""The networks that the GPU benchmark sends: they compute, at any batch, and are small on the way."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "cuda"


@pytest.fixture(scope="module")
def networks():
    spec = importlib.util.spec_from_file_location("gpu_networks", FOLDER / "networks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path):
    """relu(conv(x)) of 96 channels, in heads, times a matrix."""
    nodes = [
        helper.make_node("Conv", ["x", "f", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Constant", [], ["s"], value=onnx.numpy_helper.from_array(np.array([1, 36, -1]))),
        helper.make_node("Reshape", ["r", "s"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    weights = [
        onnx.TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
        for name, shape in (("f", (96, 64, 3, 3)), ("b", (96,)), ("w", (96, 160)))
    ]
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
            (("x", [1, 64, 6, 6]), ("y", [1, 36, 160]))]  # fmt: skip
    graph = helper.make_graph(nodes, "net", rows[:1], rows[1:], weights)
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def ran(model, feed):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]


def test_a_batch_is_its_samples(networks, model):
    one = networks.filled(model)
    three = networks.with_batch(one, 3)
    feed = networks.sample(three)
    assert feed["x"].shape == (3, 64, 6, 6)
    whole = ran(three, feed)
    each = [ran(one, {"x": feed["x"][n : n + 1]}) for n in range(3)]
    np.testing.assert_allclose(whole, np.concatenate(each), rtol=1e-4, atol=1e-5)
    assert whole.std() > 0.01


def test_weights_are_the_same_everywhere_and_repeat(networks, model):
    made = networks.filled(model)
    assert made.SerializeToString() == networks.filled(model).SerializeToString()
    assert made.SerializeToString() != networks.filled(model, seed=1).SerializeToString()
    filters = onnx.numpy_helper.to_array(made.graph.initializer[0])
    np.testing.assert_array_equal(filters[:32, :32], filters[64:, 32:])
    assert len(np.unique(onnx.numpy_helper.to_array(made.graph.initializer[1]))) == 96, "biases are all different"


def test_what_is_sent_is_small_and_comes_out_as_it_was(networks, model, tmp_path):
    whole, packed, back = (tmp_path / name for name in ("net.onnx", "net.xz", "back.onnx"))
    onnx.save(networks.filled(model), whole)
    networks.pack(whole, packed)
    networks.unpack(packed, back)
    assert back.read_bytes() == whole.read_bytes()
    assert packed.stat().st_size < whole.stat().st_size / 3
