"""What quantization costs is measured and said, and a bound on it holds: layers that cannot be quantized stay float."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import tensorc
from tensorc.cli import main
from tensorc.errors import TensorcWarning, UserError
from tensorc.quantization.accuracy import Judge, Noise
from tensorc.quantization.data import Samples
from tensorc.quantization.gains import Gain, _gain
from tensorc.quantization.mixed import Search
from tensorc.quantization.scheme import parse_drop
from tensorc.quantization.trial import Layer
from tensorc.sampling import Spec, Statistics, random_inputs
from tensorc.search.choice import Choice
from tensorc.search.database import Database
from tensorc.verification import wanted_decibels

RNG = np.random.default_rng(4)
#: The first of the inputs' features is a million times as large as the others, and its weights so small: 8 bits for all
#: of them leave nothing of what the others say.
NETWORK = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1,64] x) => (float[1,10] scores) {
    a = MatMul(x, w1)
    b = Relu(a)
    c = MatMul(b, w2)
    d = Relu(c)
    scores = MatMul(d, w3)
}
"""
LARGE = 1e6


def built(text, shapes):
    model = parser.parse_model(text)
    for name, shape in shapes.items():
        data = RNG.standard_normal(shape) / np.sqrt(shape[0])
        if name == "w1":
            data[0] /= LARGE
        model.graph.initializer.append(numpy_helper.from_array(data.astype(np.float32), name))
    return model


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(built(NETWORK, {"w1": (64, 128), "w2": (128, 128), "w3": (128, 10)}), path)
    return path


@pytest.fixture(scope="module")
def samples():
    x = RNG.standard_normal((60, 1, 64)).astype(np.float32)
    x[..., 0] *= LARGE
    return x


@pytest.fixture(scope="module")
def labels(network, samples):
    with tensorc.compile(network, threads=1) as model:
        return np.array([model.run(None, {"x": x})[0].argmax() for x in samples])


@pytest.fixture(scope="module")
def data(samples, labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=samples, labels=labels)
    return path


def summary(model):
    return dict(model.manifest["summary"])


def accuracy(model):
    return model.manifest["quantized"]["accuracy"]


def layers(model):
    return {row["layer"]: row for row in accuracy(model)["layers"]}


# Without a compiler ------------------------------------------------------------------------------------------


def test_noise_against_its_definition():
    exact, got = RNG.standard_normal((2, 50))
    noise = Noise()
    for part in (slice(0, 20), slice(20, 50)):
        noise.add(got[part], exact[part])
    assert noise.decibels == pytest.approx(10 * np.log10((exact**2).sum() / ((got - exact) ** 2).sum()))
    assert noise.relative == pytest.approx(np.abs(got - exact).max() / np.abs(exact).max())
    assert noise.cosine == pytest.approx(got @ exact / np.linalg.norm(got) / np.linalg.norm(exact))


@pytest.mark.parametrize(
    ("got", "exact", "decibels"),
    [
        ([1, 2], [1, 2], math.inf),
        ([0, 0], [0, 0], math.inf),
        ([1, 0], [0, 0], -math.inf),
        ([np.inf, 1], [np.inf, 1], math.inf),
        ([np.nan, 1], [1, 1], -math.inf),
        ([], [], math.inf),
    ],
)
def test_noise_where_there_is_no_ratio(got, exact, decibels):
    noise = Noise()
    noise.add(np.array(got, np.float32), np.array(exact, np.float32))
    assert noise.decibels == decibels


@pytest.mark.parametrize(("text", "value"), [("0.5%", 0.005), ("0.005", 0.005), (0.1, 0.1), ("0", 0), ("100%", 1)])
def test_drops(text, value):
    assert parse_drop(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "%", "-1%", "101%", "nan", "half"])
def test_what_is_no_drop(text):
    with pytest.raises(UserError, match=r"is no share that accuracy may drop by, such as 0.5% or 0.005"):
        parse_drop(text)


def rows(*winners):
    return [[np.eye(4, dtype=np.float32)[[winner]]] for winner in winners]


def test_what_is_counted():
    feeds = [{"x": np.zeros(1)}] * 4
    exact, got = rows(0, 1, 2, 3), rows(0, 1, 2, 0)
    agreement = Judge(Samples(feeds), None).quality(exact, got)
    assert (agreement.name, agreement.exact, agreement.quantized) == ("agreement", 1, 0.75)
    right = Judge(Samples(feeds, [np.array([label]) for label in (0, 0, 0, 0)]), None).quality(exact, got)
    assert (right.name, right.exact, right.quantized) == ("top-1", 0.25, 0.5)
    metric = Judge(Samples(feeds), lambda outputs, _: outputs[0][0, 0]).quality(exact, got)
    assert (metric.name, metric.exact, metric.quantized) == ("metric", 0.25, 0.5)
    assert Judge(Samples(feeds), None).quality([[np.zeros((1, 2, 3), np.float32)]] * 4, got) is None
    with pytest.raises(UserError, match="there are 2 labels for a sample, and 1 rows of scores"):
        Judge(Samples(feeds, [np.array([0, 1])] * 4), None).quality(exact, got)
    with pytest.raises(UserError, match="the metric must be a number, not nan as for sample 0"):
        Judge(Samples(feeds), lambda *_: np.nan).quality(exact, got)


def searched(noise, seconds, bound):
    """A model whose noise is the sum of its layers'."""
    names = "abcdefgh"[: len(noise)]
    levels = dict(zip(names, noise, strict=True))
    gains = {name: Gain(1.0, now) for name, now in zip(names, seconds, strict=True)}
    tried = []

    def holds(chosen):
        tried.append(frozenset(chosen))
        return sum(levels[name] for name in chosen) <= bound

    found = Search([Layer(name, "conv", name, 1) for name in names], gains, holds, levels.__getitem__).run()
    return found, tried


def test_all_are_quantized_where_that_is_good_enough():
    found, tried = searched([1, 1, 1], [0.5, 0.5, 0.5], 3)
    assert set(found.values()) == {"quantized"}
    assert len(tried) == 1


def test_the_layer_that_costs_most_for_what_it_gains_is_given_up():
    found, _ = searched([1, 5, 5, 1], [0.5, 0.9, 0.1, 0.5], 7)
    assert found == {"a": "quantized", "b": "sensitive", "c": "quantized", "d": "quantized"}


def test_what_is_not_faster_is_not_even_tried():
    found, tried = searched([1, 1, 9], [0.5, 1.0, 2.0], 1)
    assert found == {"a": "quantized", "b": "not faster", "c": "not faster"}
    assert tried == [{"a"}]


def test_what_was_measured_is_compared_with_what_was_measured():
    def choice(predicted, measured=None):
        return Choice({}, "record", predicted, 0.1, measured)

    assert _gain(choice(2.0, 1.0), choice(1.0, 1.5)).is_none
    assert not _gain(choice(2.0, 1.0), choice(1.0)).is_none
    assert not _gain(choice(2.0), None).is_none


def test_nothing_is_quantized_where_nothing_holds():
    found, tried = searched([1] * 8, [0.5] * 8, 0)
    assert set(found.values()) == {"sensitive"}
    assert len(tried) < 12


def test_what_was_given_up_for_nothing_is_taken_back():
    """The order by noise for each second is not that of what fits."""
    found, _ = searched([4, 3, 2], [0.0, 0.2, 0.4], 5)
    assert sorted(found.values()) == ["quantized", "quantized", "sensitive"]


# With one --------------------------------------------------------------------------------------------------------


@pytest.mark.compiler
def test_the_layer_that_cannot_be_quantized_stays_float(network, data, samples, labels):
    with tensorc.compile(network, threads=1, quantize="int8", calibration=data) as model:
        found = accuracy(model)
        assert found["quality"]["name"] == "top-1"
        assert found["quality"]["exact"] == 1
        assert found["quality"]["drop"] > 0.3
        assert layers(model)["a"]["snr_db_alone"] < 10 < 30 < layers(model)["c"]["snr_db_alone"]
        assert layers(model)["c"]["snr_db"] < 10
        assert "worst layer" in summary(model)["accuracy"]
    with tensorc.compile(network, threads=1, quantize="int8", calibration=data, max_accuracy_drop="5%") as model:
        rows = layers(model)
        assert {name: row["why"] for name, row in rows.items() if name in "ac"} == {"a": "sensitive", "c": "quantized"}
        assert not rows["a"]["quantized"]
        got = np.array([model.run(None, {"x": x})[0].argmax() for x in samples])
        assert accuracy(model)["quality"]["quantized"] == pytest.approx((got == labels).mean())
        assert (got != labels).mean() <= 0.05
        assert "layers in float32 (1 sensitive)" in summary(model)["accuracy"]
        assert rows["c"]["snr_db"] > 30


@pytest.mark.compiler
def test_nothing_is_gained_where_no_bytes_are_multiplied(network, data):
    with pytest.warns(TensorcWarning, match="all stay in float32: 3 not faster"):
        model = tensorc.compile(network, "cpu:x86-64-v3", threads=1, quantize="int8", calibration=data,
                                max_accuracy_drop=1)  # fmt: skip
    assert accuracy(model)["quality"]["drop"] == 0
    model.close()


@pytest.mark.compiler
def test_tuning_measures_both_ways(network, data, tmp_path):
    with tensorc.compile(network, threads=1, quantize="int8", calibration=data, max_accuracy_drop="100%", tune=18,
                         database=tmp_path / "tuning.db") as model:  # fmt: skip
        for row in layers(model).values():
            seconds = row["predicted_seconds"]
            assert row["why"] == ("quantized" if seconds["quantized"] < seconds["float32"] else "not faster")
    with Database(tmp_path / "tuning.db") as database:
        assert len({record.key.workload for record in database.records()}) >= 2


@pytest.mark.compiler
def test_a_metric_decides_where_there_is_one(network, data):
    def nearness(outputs, sample):
        assert sample.keys() == {"x", "labels"}
        return float(outputs[0][0, sample["labels"][0]] > 0)

    with tensorc.compile(network, threads=1, quantize="int8", calibration=data, metric=nearness) as model:
        assert accuracy(model)["quality"]["name"] == "metric"
        assert "metric" in summary(model)["accuracy"]


@pytest.mark.compiler
def test_a_model_of_which_nothing_holds_stays_float(network, data):
    exact = {}

    def equal(outputs, sample):
        """Whether not a bit differs from what came first, which is float32's."""
        return float(np.array_equal(outputs[0], exact.setdefault(sample["x"].tobytes(), outputs[0])))

    with pytest.warns(TensorcWarning, match="no layer is quantized within the bound on accuracy.*: 3 sensitive"):
        model = tensorc.compile(
            network, threads=1, quantize="int8", calibration=data, max_accuracy_drop=0, metric=equal
        )
    assert not any(row["quantized"] for row in accuracy(model)["layers"])
    assert "3 of 3 layers in float32 (3 sensitive)" in summary(model)["accuracy"]
    model.close()


@pytest.mark.compiler
def test_dynamic_ranges_are_measured_on_samples_of_their_own(network, data):
    with tensorc.compile(network, threads=1, quantize="int8-dynamic", evaluate=data) as model:
        assert accuracy(model)["samples"] == 60
    with pytest.raises(UserError, match="an accuracy is measured on samples: --evaluate"):
        tensorc.compile(network, threads=1, quantize="int8-dynamic", max_accuracy_drop=0.1)


@pytest.mark.compiler
def test_a_model_without_products_says_so(tmp_path):
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[1,4] x) => (float[1,4] y) { y = Relu(x) }
    """)
    np.savez(tmp_path / "x.npz", x=np.ones((2, 1, 4), np.float32))
    with pytest.warns(TensorcWarning, match="no layer of the model is one that int8-dynamic quantizes"):
        tensorc.compile(model, threads=1, quantize="int8-dynamic", evaluate=tmp_path / "x.npz").close()


@pytest.mark.compiler
def test_outputs_that_are_no_classes_need_a_metric(tmp_path):
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[1,2,8] x) => (float[1,2,8] y) { y = MatMul(x, w) }
    """
    model = built(text, {"w": (8, 8)})
    np.savez(tmp_path / "x.npz", x=np.ones((2, 1, 2, 8), np.float32))
    with pytest.raises(UserError, match="no row of classes' scores: --max-accuracy-drop needs labels, or a metric"):
        tensorc.compile(model, threads=1, quantize="int8", calibration=tmp_path / "x.npz", max_accuracy_drop=0.1)


@pytest.mark.compiler
@pytest.mark.parametrize("suffix", [".json", ".html"])
def test_the_report_is_a_file(network, data, tmp_path, capsys, suffix):
    report = tmp_path / f"report{suffix}"
    code = main(["compile", str(network), "-o", str(tmp_path / "out.tcm"), "--threads", "1", "--quantize", "int8",
                 "--calibration", str(data), "--accuracy-report", str(report), "--json"])  # fmt: skip
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["accuracy"]["samples"] == 60
    if suffix == ".json":
        found = json.loads(report.read_text())
        assert found["accuracy"] == printed["accuracy"]
        assert {"layer", "op", "quantized", "why", "snr_db", "snr_db_alone"} < found["accuracy"]["layers"][0].keys()
    else:
        assert report.read_text().count("<tr>") == 1 + len(printed["accuracy"]["layers"])


BAD = {
    "labels of a float": ({"labels": np.zeros(2, np.float32)}, "classes are whole numbers"),
    "too many labels": ({"labels": np.zeros(3, np.int64)}, "has 3 labels for 2 samples"),
    "no samples": ({"x": np.zeros((0, 1, 64), np.float32)}, "no sample for input 'x'"),
    "not a number": ({"x": np.full((2, 1, 64), np.nan, np.float32)}, "not finite"),
    "another name": ({"y": np.zeros(2, np.float32)}, "has an array 'y'; the model's inputs are x"),
    "another shape": ({"x": np.zeros((2, 1, 65), np.float32)}, r"has shape \[2, 1, 65\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_samples(network, tmp_path, case, capsys):
    arrays, message = BAD[case]
    np.savez(tmp_path / "bad.npz", **({"x": np.zeros((2, 1, 64), np.float32)} | arrays))
    code = main(["compile", str(network), "-o", str(tmp_path / "out.tcm"), "--quantize", "int8-dynamic", "--evaluate",
                 str(tmp_path / "bad.npz")])  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2
    assert len(said.splitlines()) == 1
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-accuracy-drop", "1%"], "--max-accuracy-drop is for --quantize"),
        (["--accuracy-report", "a.json"], "--accuracy-report is for --quantize"),
        (["--quantize", "int8-dynamic", "--accuracy-report", "a.json"], "an accuracy is measured on samples"),
        (["--quantize", "int8-dynamic", "--accuracy-report", "a.txt"], "must end in .json or .html"),
        (["--quantize", "int8-dynamic", "--max-accuracy-drop", "lots"], "is no share that accuracy may drop by"),
    ],
)
def test_wrong_options(network, words, message, capsys):
    assert main(["compile", str(network), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.compiler
def test_verify_judges_the_noise(network, data, tmp_path, capsys):
    """A quantized model that is as near as it can be is right; one that is much further off than it was is not."""
    artifact = tmp_path / "out.tcm"
    how = ["--threads", "1", "--quantize", "int8", "--calibration", str(data), "--max-accuracy-drop", "5%"]
    assert main(["compile", str(network), "-o", str(artifact), *how]) == 0
    words = ["verify", str(artifact), "--model", str(network), "--samples", str(data), "--json"]

    def verified(*more):
        capsys.readouterr()
        code = main([*words, *more])
        return code, json.loads(capsys.readouterr().out)["outputs"]["scores"]

    code, check = verified()
    assert (code, check["ok"]) == (0, True)
    assert re.fullmatch(r"\d+\.\d dB, where \d+\.\d dB are enough", check["note"])
    assert verified("--min-snr", "90")[0] == 1
    other = tmp_path / "other.onnx"
    onnx.save(built(NETWORK, {"w1": (64, 128), "w2": (128, 128), "w3": (128, 10)}), other)
    words[3] = str(other)
    assert verified()[0] == 1


@pytest.mark.compiler
def test_verify_on_random_inputs_that_are_like_the_samples(tmp_path, capsys):
    """Of a model that was calibrated on inputs far from what is drawn elsewhere."""
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[1,16] x) => (float[1,8] y, int64[1] winner) {
            y = MatMul(x, w)
            winner = ArgMax<axis = 1, keepdims = 0>(y)
        }
    """
    onnx.save(built(text, {"w": (16, 8)}), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=50 + RNG.standard_normal((30, 1, 16)).astype(np.float32))
    how = ["--threads", "1", "--quantize", "int8", "--calibration", str(tmp_path / "data.npz")]
    assert main(["compile", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "out.tcm"), *how]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "out.tcm"), "--model", str(tmp_path / "net.onnx"), "--json"]) == 0
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert outputs["y"]["max_rel_error"] > 1e-4
    assert re.fullmatch(r"\d of 8 differ, which is not judged", outputs["winner"]["note"])


def test_noise_that_is_asked_for():
    assert wanted_decibels(None) == 10
    assert [wanted_decibels(measured) for measured in (40, 16, 4)] == [30, 8, 2]


def test_samples_are_described_for_random_inputs():
    like = Statistics.of([np.array([0.0, 1.0, 2.0]), np.array([2.0, 0.0, 1.0])])
    x = random_inputs([Spec("x", "float32", (10_000,))], 0, None, {"x": like})["x"]
    assert (x.min(), x.max()) == (0, 2)
    assert x.mean() == pytest.approx(1, abs=0.05)
