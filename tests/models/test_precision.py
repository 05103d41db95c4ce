"""Whole models in bfloat16 and float16: as near to float32 as their weights are, half as large, by every way in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

import tensorc
from targets.cpu.machine import detect
from tensorc.errors import TensorcWarning, UserError
from tensorc.ir.types import numpy_dtype
from tensorc.options import parse_bytes

pytestmark = pytest.mark.compiler

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
PRECISIONS = ("bfloat16", "float16")
NETWORK = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1,3,12,12] image, int64[2] ids) => (float[1,10] logits, float[2,32] rows) {
    a = Conv<pads = [1,1,1,1]>(image, w1, b1)
    b = Relu(a)
    c = Conv<pads = [2,2,2,2]>(b, w2)
    d = Add(c, b)
    e = Relu(d)
    f = MaxPool<kernel_shape = [2,2], strides = [2,2]>(e)
    g = Conv<pads = [1,1,1,1], group = 32>(f, w3)
    h = Flatten(g)
    logits = MatMul(h, w4)
    t = Gather(table, ids)
    rows = Sigmoid(t)
}
"""
WEIGHTS = {
    "w1": (32, 3, 3, 3),
    "b1": (32,),
    "w2": (32, 32, 5, 5),
    "w3": (32, 1, 3, 3),
    "w4": (1152, 10),
    "table": (50, 32),
}


def network(weights):
    model = parser.parse_model(NETWORK)
    model.graph.initializer.extend(numpy_helper.from_array(data, name) for name, data in weights.items())
    return model.SerializeToString()


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    shapes = {name: (shape, np.prod(shape[1:]) if len(shape) != 2 else shape[0]) for name, shape in WEIGHTS.items()}
    return {
        name: (rng.standard_normal(shape) / np.sqrt(depth)).astype(np.float32)
        for name, (shape, depth) in shapes.items()
    }


@pytest.fixture(scope="module")
def feed():
    return {"image": np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32),
            "ids": np.array([49, 3])}  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_weights_are_rounded(weights, feed, precision):
    """ONNX Runtime computes the same in float32 with rounded weights."""
    rounded = {
        name: data.astype(numpy_dtype(precision)).astype(np.float32) if data.ndim > 1 and name != "w3" else data
        for name, data in weights.items()
    }
    want = onnxruntime.InferenceSession(network(rounded)).run(None, feed)
    exact = onnxruntime.InferenceSession(network(weights)).run(None, feed)
    with tensorc.compile(network(weights), "cpu:x86-64-v3", threads=1, precision=precision) as model:
        got = model.run(None, feed)
        assert dict(model.manifest["summary"])["precision"] == f"{precision}, 4 of 5 weights, 0.00 MiB in float32"
        assert model.manifest["precision"] == precision
    for a, b, c in zip(got, want, exact, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
        assert np.abs(a - c).max() > 2e-5 * np.abs(c).max()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_digits_are_read_as_well(precision, tmp_path):
    heldout = np.load(DIGITS / "heldout.npz")
    images, labels = (heldout["images"][:, None] / 16).astype(np.float32), heldout["labels"]
    images = images.reshape(len(labels), 1, 1, 8, 8)
    accuracy, logits, sizes = [], [], []
    for kind in ("float32", precision):
        out = tmp_path / f"{kind}.tcm"
        with tensorc.compile(DIGITS / "digits.onnx", threads=1, precision=kind, out=out) as model:
            rows = np.concatenate([model.run(None, {"image": image})[0] for image in images])
            (size,) = (text for label, text in model.manifest["summary"] if label == "weights")
        accuracy.append((rows.argmax(1) == labels).mean())
        logits.append(rows)
        sizes.append(parse_bytes(size))
    assert accuracy[1] > accuracy[0] - 0.005
    noise = np.sqrt(((logits[1] - logits[0]) ** 2).sum() / (logits[0] ** 2).sum())
    assert 0 < noise < {"bfloat16": 2**-7, "float16": 2**-10}[precision]
    assert sizes[1] <= sizes[0] / 2 + 1024


def test_activations_beyond_float16_are_no_matter(feed, weights):
    """They are in float32; only weights may be too large, and then stay so."""
    large = weights | {"w4": weights["w4"] * np.float32(1e6)}
    with pytest.warns(TensorcWarning, match=r"stays in float32: .* are beyond float16"):
        model = tensorc.compile(network(large), threads=1, precision="float16")
    with model:
        (logits, _) = model.run(None, feed)
        assert dict(model.manifest["summary"])["precision"].startswith("float16, 3 of 5 weights, ")
    want = onnxruntime.InferenceSession(network(large)).run(None, feed)[0]
    assert np.abs(want).max() > 65504
    np.testing.assert_allclose(logits, want, rtol=0, atol=2e-3 * np.abs(want).max())


@pytest.mark.parametrize("extra", [{"memory_budget": "200MiB"}, {"quantize": "int8-dynamic"}])
def test_beside_other_options(weights, feed, extra):
    with (
        tensorc.compile(network(weights), threads=1, precision="bfloat16", **extra) as model,
        tensorc.compile(network(weights), threads=1) as reference,
    ):
        for a, b in zip(model.run(None, feed), reference.run(None, feed), strict=True):
            assert 1e-4 < np.abs(a - b).max() / np.abs(b).max() < 2e-2


@pytest.fixture(scope="module")
def free():
    """A product of any number of rows."""
    w = np.random.default_rng(2).standard_normal((64, 48)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "free",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 48])],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString(), w


@pytest.mark.parametrize("shapes", [{}, {"x": (range(1, 4), 64)}])
def test_free_shapes(free, shapes):
    model, w = free
    x = np.random.default_rng(3).standard_normal((3, 64)).astype(np.float32)
    with tensorc.compile(model, threads=1, shapes=shapes, precision="bfloat16") as compiled:
        (y,) = compiled.run(None, {"x": x})
        assert compiled.manifest["precision"] == "bfloat16"
    if detect().multiplies_bfloat16:  # then both operands are
        x = x.astype(numpy_dtype("bfloat16"))
    want = x.astype(np.float64) @ w.astype(numpy_dtype("bfloat16")).astype(np.float64)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_precision_that_there_is_not(weights):
    with pytest.raises(UserError, match="no precision 'half'; legal: float32, tf32, bfloat16, float16"):
        tensorc.compile(network(weights), precision="half")
