"""Projects with memory outside the chip, as the command line makes and verifies them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.hls import parts, verification
from targets.hls.exploration import optimize, search
from targets.hls.parts import MEMORY_SHARE, Part
from tensorc.driver import compile_model
from tensorc.errors import UserError
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target

FAMILY = parts.PARTS


def perceptron(path, sizes):
    """Dense layers of so many features."""
    rng = np.random.default_rng(3)
    nodes, held, value = [], [], "x"
    for number, (before, after) in enumerate(pairwise(sizes)):
        weights = (rng.standard_normal((before, after)) / np.sqrt(before)).astype(np.float32)
        held.append(numpy_helper.from_array(weights, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"dense{number}"]))
        value = f"dense{number}"
        if number < len(sizes) - 2:
            nodes.append(helper.make_node("Relu", [value], [f"relu{number}"]))
            value = f"relu{number}"
    graph = helper.make_graph(
        nodes, "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, sizes[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, sizes[-1]])], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def tiny(monkeypatch):
    """Adds a part with few block RAMs and LUTs to those that are known."""

    def add(**amounts):
        known = {"lut": 2_600, "ff": 20_000, "bram18": 2, "uram": 0, "dsp": 40, "port": 4, "memory": 2.0}
        monkeypatch.setattr(search, "PARTS", FAMILY)
        part = Part("TINY", "tiny-1", "xc7", **{**known, **amounts})
        monkeypatch.setattr(parts, "PARTS", (part, *FAMILY))
        return part

    return add


def compiled(model, folder, objective="latency", scheme="fixed8"):
    samples = folder.with_suffix(".npz")
    (shape,) = ([d.dim_value for d in value.type.tensor_type.shape.dim] for value in onnx.load(model).graph.input)
    np.savez(samples, x=np.random.default_rng(4).standard_normal((8, *shape[1:])).astype(np.float32))
    options = CompileOptions(target="hls:tiny", quantize=Quantization(scheme, samples), objective=objective)
    return compile_model(model, options, folder)


def verified(folder):
    """The checks that hold, and what they say."""
    checks = find_target("hls").check(folder, None, None, lambda *_: None)
    assert [(check.name, check.text) for check in checks if not check.ok] == []
    return {check.name: check.numbers for check in checks}


@pytest.mark.compiler
def test_weights_that_have_no_room_lie_outside(tmp_path, tiny):
    tiny()
    model = perceptron(tmp_path / "model.onnx", (24, 160, 40, 5))
    summary = dict(compiled(model, tmp_path / "project").manifest["summary"])
    report = json.loads((tmp_path / "project/report.json").read_text())["MemoryOutside"]
    (port, row), *others = report["Ports"].items()
    assert (port, others) == ("relu0_weights_memory", [])
    assert row["ReadPerImage"] == row["Bytes"] == report["BytesPerImage"] == 24 * 160
    assert 0 < report["GBPerSecond"] < report["AvailableGBPerSecond"] == 2.0
    assert summary["outside the chip"].startswith("3.8 KiB an image by a port, 0.")
    assert "relu0_weights_memory" in (tmp_path / "project/report.html").read_text()
    numbers = verified(tmp_path / "project")
    assert numbers["Verilog"]["latency"] > 24 * 160 / 4
    assert numbers["synthesis"]["bram18"] <= 1


def test_weights_stay_where_there_is_room(tmp_path, tiny):
    tiny(bram18=20, lut=20_000)
    compiled(perceptron(tmp_path / "model.onnx", (24, 160, 40, 5)), tmp_path / "project")
    report = json.loads((tmp_path / "project/report.json").read_text())
    assert report["MemoryOutside"]["Ports"] == {}
    assert "Nothing lies outside the chip." in (tmp_path / "project/report.html").read_text()


@pytest.mark.parametrize("objective", ["latency", "throughput", "resources", "energy"])
def test_memory_outside_is_asked_for_no_more_than_it_gives(tmp_path, tiny, objective):
    """The slowest product takes a weight a cycle, 0.2 GB/s, of which a memory gives 0.7."""
    tiny(lut=1_500, bram18=1, memory=0.2)
    with pytest.raises(UserError, match=r"weights would come from outside the chip at 0.\d+ GB/s, and 0.14 is what it "
                                        r"gives; the smallest part that would hold it is XC7Z010"):  # fmt: skip
        compiled(perceptron(tmp_path / "model.onnx", (24, 160, 40, 5)), tmp_path / "none", objective)
    part = tiny(lut=1_500, bram18=1, memory=0.7)
    compiled(perceptron(tmp_path / "model.onnx", (24, 160, 40, 5)), tmp_path / "project", objective)
    report = json.loads((tmp_path / "project/report.json").read_text())
    assert len(report["MemoryOutside"]["Ports"]) > 0
    assert report["MemoryOutside"]["GBPerSecond"] <= MEMORY_SHARE * part.memory
    assert report["CSynthesisReport"]["LUT"] <= part.budget.lut


def test_what_fits_nowhere_is_told(tmp_path, tiny):
    tiny(lut=900, bram18=1)
    told = (
        r"TINY cannot hold this network, wherever its weights lie: it needs at least .* LUTs of \d+, .* the smallest "
    )
    with pytest.raises(UserError, match=told + "part that would hold it is XC7Z010"):
        compiled(perceptron(tmp_path / "model.onnx", (24, 160, 40, 5)), tmp_path / "project")


# Layers that take turns ---------------------------------------------------------------------------------


def inverted(path, size=8, wide=16):
    """An expansion, a depthwise convolution and a projection, whose inner tensors are large."""
    rng = np.random.default_rng(7)
    shapes = {"expand": (wide, 2, 1, 1), "depth": (wide, 1, 3, 3), "project": (2, wide, 1, 1)}
    nodes, held, value = [], [], "x"
    for name, shape in shapes.items():
        held.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"{name}_weights"))
        pad, groups = shape[2] // 2, wide if name == "depth" else 1
        nodes.append(helper.make_node("Conv", [value, f"{name}_weights"], [name], pads=[pad] * 4, group=groups))
        value = name
        if name != "project":
            nodes.append(helper.make_node("Relu", [name], [f"{name}_relu"]))
            value = f"{name}_relu"
    graph = helper.make_graph(
        nodes, "inverted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, size, size])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 2, size, size])], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.compiler
def test_layers_take_turns_where_that_is_sooner(tmp_path, tiny, monkeypatch):
    """Ten multipliers are better used by one layer at a time; there is no room for all that waits between them."""
    tiny(lut=20_000, bram18=2, dsp=10)
    model = inverted(tmp_path / "model.onnx")
    summary = dict(compiled(model, tmp_path / "project").manifest["summary"])
    monkeypatch.setattr(optimize, "_FEW_LAYERS", 0)  # none are looked for
    compiled(model, tmp_path / "beside")
    told = (
        "expand_relu on 2 cores; then depth_relu on 2 cores; then project_2 on 2 cores; "
        "outside the chip waits input 1 of project_2"
    )
    assert summary["layers take turns"] == told
    assert told in (tmp_path / "project/report.html").read_text()
    mine, beside = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("project", "beside"))
    assert mine["CSynthesisReport"]["BestLatency"] < 0.95 * beside["CSynthesisReport"]["BestLatency"]
    assert mine["Segments"] == [{"expand_relu": 2}, {"depth_relu": 2}, {"project_2": 2}]
    assert beside["Segments"] == []
    (row,) = mine["MemoryOutside"]["Ports"].values()
    assert row["ReadPerImage"] == row["WrittenPerImage"] == 8 * 8 * 16
    assert mine["MemoryOutside"]["BytesPerImage"] == 2 * 8 * 8 * 16
    verified(tmp_path / "project")


@pytest.mark.compiler
def test_a_schedule_that_was_changed_is_found(tmp_path, tiny):
    tiny(lut=20_000, bram18=3, dsp=5)
    compiled(inverted(tmp_path / "model.onnx"), tmp_path / "project")
    file = tmp_path / "project/schedule.json"
    schedule = json.loads(file.read_text())
    for change in ({"port_bytes": 2}, {"waits_outside": []}):
        file.write_text(json.dumps(schedule | change))
        with pytest.raises((UserError, KeyError), match=r"is not what the project's schedule makes|outside"):
            verification._verilog(verification._open(tmp_path / "project"))


def test_layers_take_turns_with_weights_from_outside_where_nothing_else_fits(tmp_path, tiny):
    """There is room for one layer's logic at a time, and for no weights."""
    part = tiny(lut=8_000, bram18=1, dsp=3, memory=6.0)
    model = perceptron(tmp_path / "model.onnx", (24, 160, 40, 40, 5))
    found = {}
    for objective in ("latency", "resources"):
        compiled(model, tmp_path / objective, objective)
        found[objective] = json.loads((tmp_path / objective / "report.json").read_text())
    for report in found.values():
        assert report["CSynthesisReport"]["DSP"] <= part.budget.dsp == 2
        assert len(report["Segments"]) > 1
        assert report["MemoryOutside"]["Ports"]
