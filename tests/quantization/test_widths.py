"""The fewest bits for each tensor: what hardware they would take, the order in which bits go, and whole models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.fixed_point import FixedPoint
from tensorc.cli import main
from tensorc.driver import compile_model
from tensorc.errors import TensorcWarning, UserError
from tensorc.fixed_point import grids
from tensorc.ir import evaluate, parse_graph
from tensorc.options import CompileOptions
from tensorc.quantization.params import Range, Widths
from tensorc.quantization.scheme import Quantization
from tensorc.quantization.widths import FEWEST, Proxy, WidthSearch
from tensorc.target import find_target

FPGA = Path(__file__).parents[2] / "examples" / "fpga"
ONE = Range(-1.0, 1.0)
TEXT = """graph @g(%x: f64[1,2,4,4]) {
  %w = constant @"w" : f64[3,2,3,3]
  %u = constant @"u" : f64[12,5]
  %c = conv(%x, %w) {strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), groups=1} : f64[1,3,4,4]
  %r = relu(%c) : f64[1,3,4,4]
  %p = max_pool(%r) {kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1), ceil=0} : f64[1,3,2,2]
  %f = reshape(%p) {shape=(1, 12)} : f64[1,12]
  %y = matmul(%f, %u) {transpose_b=0} : f64[1,5]
  return %y
}"""


def small():
    rng = np.random.default_rng(0)
    data = {"w": rng.uniform(-1, 1, (3, 2, 3, 3)), "u": rng.uniform(-1, 1, (12, 5))}
    ranges = dict.fromkeys(["x", "c", "p", "f"], ONE) | {"r": Range(0.0, 4.0), "y": Range(-8.0, 8.0)}
    return parse_graph(TEXT, data), ranges


def test_each_tensor_gets_the_bits_that_it_is_given():
    graph, ranges = small()
    alike = FixedPoint(8, 6, ranges).asked(graph)
    assert alike == Widths({"x": 8, "r": 8, "y": 8}, {"w": 6, "u": 6})
    assert not any(node.op == "fix" for node in graph.nodes)  # it stays as it is
    own = Widths({"x": 5, "r": 3, "y": 4}, {"u": 2})
    FixedPoint(8, 6, ranges, own).run(graph)
    found = grids(graph)
    x, r, y = (node.attrs["width"] for node in graph.nodes if node.op in ("receive", "fix"))
    assert (x, r, y) == (5, 3, 4)
    u = next(node for node in graph.nodes if node.op == "matmul").inputs[1]
    assert set(np.unique(u.constant.numpy())) <= {-0.5, -1.0, 0.0, 0.5, 1.0}
    image = {"x": np.random.default_rng(1).uniform(-1, 1, (1, 2, 4, 4))}
    (result,) = evaluate(graph, image)
    raw = result * 2.0 ** found[graph.outputs[0]].fraction
    assert (raw == np.rint(raw)).all()
    assert np.abs(raw).max() <= 8


def test_the_proxy_counts_multiplications_weights_and_tensors():
    graph, _ = small()
    widths = Widths({"x": 5, "r": 3, "y": 8}, {"w": 6, "u": 2})
    proxy = Proxy.of(graph, widths)
    assert proxy.products == ((48 * 18, "x", "w"), (5 * 12, "r", "u"))  # pooled and reshaped numbers are those of r
    sizes = 32 * 5 + 48 * 3 + 5 * 8 + 54 * 6 + 60 * 2
    assert proxy.cost(widths.by_name) == 48 * 18 * 5 * 6 + 60 * 3 * 2 + sizes


def searched(need, sizes=None, products=(), noise=None):
    """Widths that hold if each tensor has the bits that it needs."""
    start = Widths({"a": 8, "b": 8}, {"w": 8})
    proxy = Proxy(products, sizes or {"a": 1, "b": 1, "w": 1})
    tried = []

    def holds(widths):
        tried.append(widths)
        return all(widths.by_name[name] >= bits for name, bits in need.items())

    def alone(widths):
        return sum(4.0 ** -(bits - (noise or need)[name]) for name, bits in widths.by_name.items())

    return WidthSearch(start, proxy, holds, alone).run(), len(tried)


@pytest.mark.parametrize("need", [{"a": 5, "b": 3, "w": 2}, {"a": 8, "b": 8, "w": 8}, {"a": 2, "b": 2, "w": 2}])
def test_the_search_finds_the_least_that_holds(need):
    found, tries = searched(need)
    assert found.by_name == need
    assert tries < 20


def test_bits_are_left_where_they_cost_least_and_a_wrong_order_is_made_good():
    """`a` is dear, `b` is noisy; noise says nothing of what is needed: single tries take the rest."""
    found, _ = searched({"a": 4, "b": 6, "w": 5}, {"a": 1000, "b": 1, "w": 1}, noise={"a": 0, "b": 9, "w": 0})
    assert found.by_name == {"a": 4, "b": 6, "w": 5}


def test_bits_that_nothing_can_be_made_with_do_not_hold():
    start = Widths({"a": 6}, {})
    noise = lambda widths: float("inf") if widths.values["a"] < 4 else 0.0  # noqa: E731
    found = WidthSearch(start, Proxy((), {"a": 1}), lambda widths: widths.values["a"] >= 4, noise).run()
    assert found.values == {"a": 4}
    assert FEWEST == 2


def classifier(path):
    """A convolution, pooling and a matrix product; with samples. Its name is a word of Verilog."""
    rng = np.random.default_rng(3)
    arrays = {"w": rng.uniform(-1, 1, (4, 1, 3, 3)), "u": rng.uniform(-1, 1, (16, 3))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "u"], ["y"]),
    ]  # fmt: skip
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "small", [entry], [result], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(path.with_suffix(".npz"), x=rng.uniform(-1, 1, (100, 1, 1, 4, 4)).astype(np.float32))


@pytest.mark.compiler
def test_a_model_of_many_widths_passes_the_whole_chain(tmp_path):
    model, samples, out = tmp_path / "small.onnx", tmp_path / "small.npz", tmp_path / "small"
    classifier(model)
    how = Quantization("fixed8", samples, max_drop=0.05)
    report = compile_model(model, CompileOptions(target="hls:xc7z020", quantize=how, objective="resources"), out)
    found = report.manifest["quantized"]
    assert found["accuracy"]["quality"]["drop"] <= 0.05
    bits = found["bits"]
    assert (set(bits["values"]), set(bits["weights"])) == ({"x", "r", "y"}, {"w", "u"})
    assert len({*bits["values"].values(), *bits["weights"].values()}) > 1
    assert max(bits["weights"].values()) < 8
    assert bits["proxy"]["after"] < 0.6 * bits["proxy"]["before"]
    assert "in weights (proxy of hardware -" in dict(report.manifest["summary"])["quantized"]
    layers = list(json.loads((out / "schedule.json").read_text())["layers"].values())
    assert [layer["bits"]["inputs"] for layer in layers] == [[bits["values"]["x"]], *[[bits["values"]["r"]]] * 2]
    assert [layer["bits"]["weights"] for layer in layers] == [bits["weights"]["w"], None, bits["weights"]["u"]]
    checks = find_target("hls").check(out, model, samples, lambda *_: None)
    assert [check.text for check in checks if not check.ok] == []


def test_bits_are_added_first_where_the_bound_does_not_hold(tmp_path):
    """Two bits are far too few; what holds is then made smaller."""
    model, samples = tmp_path / "small.onnx", tmp_path / "small.npz"
    classifier(model)
    how = Quantization("fixed2", samples, max_drop=0.05)
    found = compile_model(model, CompileOptions(target="c", quantize=how), tmp_path / "small.c").manifest["quantized"]
    start = int(found["scheme"].removeprefix("fixed"))
    assert start > 2
    assert found["accuracy"]["quality"]["drop"] <= 0.05
    assert min(found["bits"]["weights"].values()) < start


def test_few_samples_are_warned_of(tmp_path):
    """Of those with classes, if there are any."""
    model, known = tmp_path / "small.onnx", tmp_path / "known.npz"
    classifier(model)
    with np.load(tmp_path / "small.npz") as data:
        np.savez(known, x=data["x"][:60], labels=np.arange(60).reshape(60, 1) % 3)
    how = Quantization("fixed6", tmp_path / "small.npz", evaluate=known, max_drop=0.05)
    with pytest.warns(TensorcWarning, match=r"0\.05 of 60 classes is less than 5 of them: .*--evaluate"):
        report = compile_model(model, CompileOptions(target="c", quantize=how), tmp_path / "small.c")
    assert report.manifest["quantized"]["accuracy"]["quality"]["name"] == "top-1"


def test_what_has_no_classes_has_no_bound(tmp_path):
    how = Quantization("fixed8", FPGA / "pulses_calibration.npz", max_drop=0.01)
    with pytest.raises(UserError, match="no row of classes' scores"):
        compile_model(FPGA / "pulses.onnx", CompileOptions(target="c", quantize=how), tmp_path / "pulses.c")


def test_the_report_names_the_bits_of_each_tensor(tmp_path, capsys):
    page, model = tmp_path / "page.html", tmp_path / "small.onnx"
    classifier(model)
    arguments = ["compile", str(model), "--target", "c", "--quantize", "fixed6", "--calibration",
                 str(tmp_path / "small.npz"), "--max-accuracy-drop", "8%", "-o", str(tmp_path / "small.c"),
                 "--accuracy-report", str(page), "--json"]  # fmt: skip
    assert main(arguments) == 0
    bits = json.loads(capsys.readouterr().out)["bits"]
    assert (set(bits["values"]), set(bits["weights"])) == ({"x", "r", "y"}, {"w", "u"})
    assert f"bits of weights</dt><dd>w {bits['weights']['w']}, u " in page.read_text()
