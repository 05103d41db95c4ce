"""Calibrated models: as right as bytes can be, from files and readers; what is wrong with samples is said in a line."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

import tensorc
from tensorc.errors import TensorcWarning, UserError
from tensorc.quantization.scheme import Quantization

pytestmark = pytest.mark.compiler

RNG = np.random.default_rng(0)
NETWORK = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1,3,12,12] image) => (float[1,10] logits) {
    a = Conv<pads = [1,1,1,1]>(image, w1, b1)
    b = Relu(a)
    c = Conv<pads = [1,1,1,1]>(b, w2)
    d = Add(c, b)
    e = Relu(d)
    f = MaxPool<kernel_shape = [2,2], strides = [2,2]>(e)
    g = Conv<pads = [1,1,1,1], group = 16>(f, w3)
    h = Flatten(g)
    logits = MatMul(h, w4)
}
"""
WEIGHTS = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "w3": (16, 1, 3, 3), "w4": (576, 10)}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    model = parser.parse_model(NETWORK)
    for name, shape in WEIGHTS.items():
        scale = 1 / np.sqrt(np.prod(shape[1:]) if len(shape) != 2 else shape[0])
        model.graph.initializer.append(
            numpy_helper.from_array((RNG.standard_normal(shape) * scale).astype(np.float32), name)
        )
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def images():
    return RNG.standard_normal((20, 1, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def data(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, image=images[:8])
    return path


def noise(model, reference, images):
    """Of the outputs, relative to them, in squares."""
    got = np.concatenate([model.run(None, {"image": image})[0] for image in images])
    want = np.concatenate([reference.run(None, {"image": image})[0] for image in images])
    return ((got - want) ** 2).sum() / (want**2).sum()


@pytest.fixture(scope="module")
def reference(network):
    with tensorc.compile(network, threads=1) as model:
        yield model


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_a_quantized_network_is_near_the_original(network, reference, images, data, method):
    with tensorc.compile(network, threads=1, quantize=Quantization("int8", data, method)) as model:
        kernels = " ".join(model.manifest["program"]["kernels"])
        assert dict(model.manifest["summary"])["quantized"] == (
            f"int8, a scale for each channel of weights, 4 inputs by {method} of 8 samples"
        )
        assert "conv_blocked" in kernels
        assert 0 < noise(model, reference, images[8:]) < 1e-3


def test_scales_for_each_channel_are_better_than_one(network, reference, images, data):
    errors = []
    for per_channel in (True, False):
        how = Quantization("int8", data, "minmax", per_channel=per_channel)
        with tensorc.compile(network, threads=1, quantize=how) as model:
            errors.append(noise(model, reference, images[8:]))
    assert errors[0] < errors[1]


def test_dynamic_ranges_need_no_samples(network, reference, images):
    with tensorc.compile(network, threads=1, quantize="int8-dynamic") as model:
        assert 0 < noise(model, reference, images) < 1e-3


def test_a_reader_gives_what_a_file_gives(network, images, data):
    class Reader:
        def __init__(self):
            self.left = [{"image": image} for image in images[:8]]

        def get_next(self):
            return self.left.pop(0) if self.left else None

    with (
        tensorc.compile(network, threads=1, quantize="int8", calibration=data) as from_file,
        tensorc.compile(network, threads=1, quantize="int8", calibration=Reader()) as from_reader,
    ):
        for image in images:
            a, b = (model.run(None, {"image": image})[0] for model in (from_file, from_reader))
            np.testing.assert_array_equal(a, b)


def test_ranges_are_kept_and_used_again(network, images, data, tmp_path):
    kept = tmp_path / "ranges.json"
    with tensorc.compile(network, threads=1, quantize=Quantization("int8", data, save=kept)) as first:
        assert json.loads(kept.read_text())["samples"] == 8
        with tensorc.compile(network, threads=1, quantize="int8", calibration=kept) as second:
            for image in images:
                np.testing.assert_array_equal(*(m.run(None, {"image": image})[0] for m in (first, second)))
    whole = json.loads(kept.read_text())
    whole["ranges"].popitem()
    kept.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"ranges.json is of another model: it has no range of %"):
        tensorc.compile(network, threads=1, quantize="int8", calibration=kept)


def test_ranges_of_layers_that_were_prepared_otherwise(network, data, tmp_path):
    kept = tmp_path / "ranges.json"
    tensorc.compile(network, threads=1, quantize=Quantization("int8", data, save=kept, smooth=0.25)).close()
    with pytest.raises(UserError, match="of layers that were not equalised: give --no-equalise, or calibrate again"):
        tensorc.compile(network, threads=1, quantize=Quantization("int8", kept, equalise=True))
    whole = json.loads(kept.read_text())
    assert whole["means"].keys() == whole["ranges"].keys()
    kept.write_text(json.dumps(whole | {"largest": {"x": [1.0]}}))
    with pytest.raises(UserError, match=r"is for --smooth 0.25: give that, or calibrate again"):
        tensorc.compile(network, threads=1, quantize=Quantization("int8", kept))


def test_ranges_of_an_earlier_version(network, images, data, tmp_path):
    """They tell nothing of channels: the model is as it was then."""
    kept = tmp_path / "ranges.json"
    tensorc.compile(network, threads=1, quantize=Quantization("int8", data, save=kept)).close()
    whole = json.loads(kept.read_text())
    old = {"format": 1} | {key: whole[key] for key in ("method", "samples", "ranges")}
    kept.write_text(json.dumps(old))
    plain = Quantization("int8", data, correct_bias=False, smooth=0)
    with (
        tensorc.compile(network, threads=1, quantize="int8", calibration=kept) as first,
        tensorc.compile(network, threads=1, quantize=plain) as second,
    ):
        for image in images[:3]:
            np.testing.assert_array_equal(*(m.run(None, {"image": image})[0] for m in (first, second)))
    kept.write_text(json.dumps(old | {"format": 9}))
    with pytest.raises(UserError, match="its format is 9, not 2"):
        tensorc.compile(network, threads=1, quantize="int8", calibration=kept)


def test_equalised_layers_and_corrected_biases_are_nearer(network, data):
    errors = []
    for better in (False, True):
        how = Quantization("int8", data, per_channel=False, equalise=better, correct_bias=better)
        with tensorc.compile(network, threads=1, quantize=how) as model:
            errors.append(model.manifest["quantized"]["accuracy"]["outputs"]["snr_db"])
    assert errors[1] > errors[0]


def test_samples_behind_each_other(network, images, data, tmp_path):
    np.savez(tmp_path / "flat.npz", image=images[:8, 0])
    with (
        tensorc.compile(network, threads=1, quantize="int8", calibration=data) as a,
        tensorc.compile(network, threads=1, quantize="int8", calibration=tmp_path / "flat.npz") as b,
    ):
        np.testing.assert_array_equal(*(model.run(None, {"image": images[0]})[0] for model in (a, b)))


BAD = {
    "another name": ({"picture": np.zeros((2, 1, 3, 12, 12))}, "no array for input 'image'; it has picture"),
    "another shape": (
        {"image": np.zeros((2, 1, 3, 9, 9))},
        r"shape \[2, 1, 3, 9, 9\]; the model takes \[1, 3, 12, 12\]",
    ),
    "not a number": ({"image": np.full((2, 1, 3, 12, 12), np.nan)}, "values that are not finite"),
    "beyond float32": ({"image": np.full((2, 1, 3, 12, 12), 1e300)}, "sample 0: .* values that are not finite"),
    "another type": ({"image": np.zeros((2, 1, 3, 12, 12), complex)}, "element type complex128; it must be float32"),
    "no sample": ({"image": np.zeros((0, 1, 3, 12, 12))}, "no sample for input 'image'"),
    "nothing": ({}, "no array for input 'image'"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_samples(network, tmp_path, case):
    arrays, message = BAD[case]
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        tensorc.compile(network, threads=1, quantize="int8", calibration=path)


@pytest.mark.parametrize("content", [b"", b"PK", b"no arrays at all"])
def test_a_file_that_holds_no_arrays(network, tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad.npz is no file that numpy.savez wrote"):
        tensorc.compile(network, threads=1, quantize="int8", calibration=path)


def test_no_samples_at_all(network):
    with pytest.raises(UserError, match="--quantize int8 needs --calibration"):
        tensorc.compile(network, quantize="int8")
    with pytest.raises(UserError, match="legal: int8, int8-dynamic"):
        tensorc.compile(network, quantize="int9")


def test_a_value_that_never_changes_stays_in_float32(network, tmp_path):
    np.savez(tmp_path / "zero.npz", image=np.zeros((2, 1, 3, 12, 12), np.float32))
    with (
        pytest.warns(TensorcWarning, match="calibration: %image is 0 in all samples"),
        tensorc.compile(network, threads=1, quantize="int8", calibration=tmp_path / "zero.npz") as model,
    ):
        assert np.isfinite(model.run(None, {"image": np.ones((1, 3, 12, 12), np.float32)})[0]).all()


def test_a_free_shape_is_refused(data):
    x = helper.make_tensor_value_info("image", 1, ["n", 3, 12, 12])
    y = helper.make_tensor_value_info("y", 1, None)
    node = helper.make_node("Relu", ["image"], ["y"])
    model = helper.make_model(helper.make_graph([node], "free", [x], [y]), opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(
        UserError, match="no single program, which --quantize asks for: input 'image' has no fixed shape"
    ):
        tensorc.compile(model, quantize="int8", calibration=data)
