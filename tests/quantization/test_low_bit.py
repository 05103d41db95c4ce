"""Models with weights in few bits: as right as their format, smaller, and what is legal is said."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import tensorc
from tensorc.cli import main
from tensorc.errors import UserError
from tensorc.formats import find_format, measure
from tensorc.quantization.scheme import Quantization

pytestmark = pytest.mark.compiler

NETWORK = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[3,200] x) => (float[3,70] y) {
    a = Gemm<transB=1>(x, w1, b1)
    b = Relu(a)
    c = MatMul(b, w2)
    d = Add(b, c)
    y = MatMul(d, w3)
}
"""
WEIGHTS = {"w1": (304, 200), "b1": (304,), "w2": (304, 304), "w3": (304, 70)}
#: Those that are summed over their last axis.
ROWS = ("w1",)


def as_it_is(_, array):
    return array


def model_of(change=as_it_is):
    model = parser.parse_model(NETWORK)
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        array = (rng.standard_normal(shape) / 17).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(change(name, array), name))
    return model


def outputs(model, threads=1, **options):
    with tensorc.compile(model, threads=threads, **options) as compiled:
        x = np.random.default_rng(1).standard_normal((3, 200)).astype(np.float32)
        return compiled.run(None, {"x": x})[0], compiled.manifest


@pytest.mark.parametrize("name", ["int8-g32", "int4-g32", "int3", "int2-g64-asym", "ternary", "mxfp8", "mxfp4", "nvfp4",
                                  "bipolar3", "bfp4-b32-rearranged"])  # fmt: skip
def test_a_model_computes_with_rounded_weights(name):
    """All sums are as those of the model whose weights are the numbers that the codes stand for."""

    def rounded(which, array):
        if array.ndim == 1:
            return array
        return find_format(name).quantize(array, axis=1 if which in ROWS else 0).dequantize()

    got, manifest = outputs(model_of(), quantize=name)
    wanted, _ = outputs(model_of(rounded))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    summary = dict(manifest["summary"])
    assert summary["quantized"] == f"weights of matrix products in {name}"
    assert summary["encode weights"].startswith(f"3 matrices in {name}, ")


def test_the_artifact_is_smaller_and_says_why(tmp_path, capsys):
    onnx.save(model_of(), tmp_path / "net.onnx")
    plain, small = tmp_path / "plain.tcm", tmp_path / "small.tcm"
    tensorc.compile(tmp_path / "net.onnx", out=plain).close()
    assert main(["compile", str(tmp_path / "net.onnx"), "--quantize", "int4-g32", "-o", str(small)]) == 0
    weights = sum(np.prod(shape) for shape in WEIGHTS.values())
    assert plain.stat().st_size - small.stat().st_size > 0.8 * 4 * weights
    capsys.readouterr()
    assert main(["inspect", str(small)]) == 0
    assert "3 matrices in int4-g32, 4.5" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [
    ({"quantize": "mxfp4", "calibration": "data.npz"}, "mxfp4 rounds each weight to what is nearest: --calibration is"),
    ({"quantize": "int4-asym", "calibration": "data.npz"}, "int4-asym rounds each weight to what is nearest"),
    ({"quantize": "int4", "calibration": "kept.json"}, "--quantize int4 has no ranges: --calibration takes samples"),
    ({"quantize": "int4-g12"}, "groups and blocks have a multiple of 8"),
    ({"quantize": "int44"}, "no quantization 'int44'; legal: int8, int8-dynamic, fixed2 to fixed24"),
])  # fmt: skip
def test_what_is_legal(options, message):
    with pytest.raises(UserError, match=message):
        tensorc.compile(model_of(), **options)


def test_options_of_calibration_are_for_int8():
    with pytest.raises(UserError, match="int4 is of weights alone: --per-tensor is for int8"):
        Quantization("int4", per_channel=False)


def related(count, seed):
    """Inputs of which few differ: what rounding does to one weight, another can make up for."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(0).standard_normal((20, 200))
    return (rng.standard_normal((count, 3, 20)) @ mixed).astype(np.float32)


@pytest.mark.parametrize("name", ["int4", "int3-g40"])
def test_samples_tell_what_rounding_matters(name, tmp_path):
    np.savez(tmp_path / "data.npz", x=related(16, 1))
    (x,) = related(1, 2)
    with tensorc.compile(model_of()) as exact:
        (wanted,) = exact.run(None, {"x": x})
    noise = {}
    for calibration in (None, tmp_path / "data.npz"):
        with tensorc.compile(model_of(), quantize=name, calibration=calibration) as model:
            noise[calibration is None] = measure(wanted, model.run(None, {"x": x})[0]).snr_db
            assert dict(model.manifest["summary"])["encode weights"].startswith(f"3 matrices in {name}, ")
    assert noise[False] > noise[True] + 5


def test_layers_are_given_up_until_the_outputs_are_good_enough(tmp_path):
    """Of weights in few bits the size is what is gained: no layer stays float32 for its time."""

    def quality(outputs, sample):
        return float(measure(exact.run(None, {"x": sample["x"]})[0], outputs[0]).snr_db > 13)

    np.savez(tmp_path / "data.npz", x=related(4, 3))
    with (
        tensorc.compile(model_of()) as exact,
        tensorc.compile(
            model_of(), quantize="int3", evaluate=tmp_path / "data.npz", metric=quality, max_accuracy_drop=0.0
        ) as model,
    ):
        accuracy = model.manifest["quantized"]["accuracy"]
    reasons = {row["why"] for row in accuracy["layers"]}
    assert reasons == {"quantized", "sensitive"}
    assert accuracy["outputs"]["snr_db"] > 13


def test_fast_numerics_round_inputs_far_below_the_format():
    """By the plan's kernels: with `fast`, inputs of integer weights become bytes where instructions multiply those."""
    wanted, _ = outputs(model_of(), quantize="int4-g32")
    got, _ = outputs(model_of(), quantize="int4-g32", numerics="fast")
    assert measure(wanted, got).snr_db > 35
    shared, _ = outputs(model_of(), threads=2, quantize="int4-g32", numerics="fast")
    np.testing.assert_array_equal(shared, got)


def test_a_memory_budget_holds_for_encoded_weights():
    """Their panels come and go."""
    model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        net (float[1,2048] x) => (float[1,2048] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v) }""")
    rng = np.random.default_rng(0)
    for name, shape in {"w": (2048, 6144), "v": (6144, 2048)}.items():
        array = rng.integers(-7, 8, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    x = rng.integers(-3, 4, (1, 2048)).astype(np.float32)
    with tensorc.compile(model, threads=1, quantize="int8-g32") as plain:
        (wanted,) = plain.run(None, {"x": x})
    with tensorc.compile(model, threads=1, quantize="int8-g32", memory_budget="64MiB") as small:
        assert small.manifest["program"]["stream"]["changes"]
        np.testing.assert_array_equal(small.run(None, {"x": x})[0], wanted)
