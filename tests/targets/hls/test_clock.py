"""Pipelines are as deep as the clock asks for, and everything that is said of a design follows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.hls.exploration.cost import cost_of
from targets.hls.hardware.clock import CLOCK, FASTEST, LEVELS, SLOWEST, check_clock, levels_of, period_of
from targets.hls.hardware.pipeline import designed, designs_of, longest_stage
from tensorc.driver import compile_model
from tensorc.errors import TensorcWarning, UserError
from tensorc.options import CompileOptions, parse_clock
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target


@pytest.mark.parametrize(("text", "nanoseconds"), [
    ("200MHz", 5), ("5ns", 5), ("0.25 GHz", 4), ("5000ps", 5), ("100000 kHz", 10), ("50000000Hz", 20), ("1us", 1000),
])  # fmt: skip
def test_clocks_are_read(text, nanoseconds):
    assert parse_clock(text) == pytest.approx(nanoseconds)


@pytest.mark.parametrize("text", ["", "5", "-5ns", "0ns", "5 s", "MHz", "1e3MHz", "5ns5"])
def test_what_is_no_clock_is_told(text):
    with pytest.raises(UserError, match="is no clock: a frequency such as 200MHz, or a period such as 5ns"):
        parse_clock(text)


def test_levels_follow_from_the_clock():
    assert levels_of(CLOCK) == LEVELS == 6
    assert all(period_of(levels_of(clock)) <= clock for clock in np.linspace(FASTEST, SLOWEST, 200))
    assert levels_of(FASTEST) == 3
    for clock in (FASTEST - 0.1, SLOWEST + 1):
        with pytest.raises(UserError, match=r"pipelines are made for 2.75ns \(364MHz\) to 100ns \(10MHz\)"):
            check_clock(clock)


def test_costs_know_the_clock_as_pipelines_do(digits):
    depths = []
    for clock in (3.0, 5.0, 12.0):
        program = digits.program("net")
        processes = [replace(process, levels=levels_of(clock)) for process in program.processes]
        program = replace(program, processes=tuple(processes))
        cycles = [designed(process).cycles() for process in program.processes]
        costs = [cost_of(process).cycles for process in program.processes]
        np.testing.assert_allclose(costs, cycles, rtol=0.05)
        assert longest_stage(designs_of(program)).pipeline.levels <= 2 * levels_of(clock)
        depths.append(sum(place.pipeline.depth for design in designs_of(program) for place in design.places))
    assert depths[0] > depths[1] > depths[2]


def dense(path):
    """Two matrices."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.uniform(-1, 1, (6, 8)), "u": rng.uniform(-1, 1, (8, 4))}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["r"]),
             helper.make_node("MatMul", ["r", "u"], ["y"])]  # fmt: skip
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(nodes, "dense", [entry], [result], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.mark.compiler
@pytest.mark.filterwarnings("ignore::tensorc.errors.TensorcWarning")
def test_the_whole_chain_holds_at_another_clock(tmp_path):
    dense(tmp_path / "dense.onnx")
    latency = {}
    for clock in (3.0, 10.0):
        out = tmp_path / f"clock{clock:g}"
        options = CompileOptions(
            target="hls:xc7z020", objective="resources", clock=clock, quantize=Quantization("fixed6")
        )
        summary = dict(compile_model(tmp_path / "dense.onnx", options, out).manifest["summary"])
        report = json.loads((out / "report.json").read_text())["CSynthesisReport"]
        assert report["TargetClockPeriod"] == clock
        assert report["EstimatedClockPeriod"] <= clock
        assert f"clock={clock:g}ns\n" in (out / "hls_config.cfg").read_text()
        assert f"create_clock -period {clock:g} " in (out / "build_prj.tcl").read_text()
        assert summary["clock"] == f"{clock:g} ns ({1000 / clock:.0f} MHz)"
        assert f"{report['BestLatency'] * clock / 1e3:.1f} us" in summary["latency"]
        latency[clock] = report["BestLatency"]
    assert latency[3.0] > latency[10.0]
    checks = {check.name: check for check in find_target("hls").check(tmp_path / "clock3", None, None, lambda *_: None)}
    assert [check.text for check in checks.values() if not check.ok] == []
    assert checks["Verilog"].numbers["latency"] == latency[3.0]


def test_a_clock_that_a_loop_cannot_follow_is_said(tmp_path):
    """A running maximum and sum cannot be cut by registers."""
    dense(tmp_path / "dense.onnx")
    model = onnx.load(tmp_path / "dense.onnx")
    model.graph.node.append(helper.make_node("Softmax", ["y"], ["p"]))
    model.graph.output[0].name = "p"
    onnx.save(model, tmp_path / "softmax.onnx")
    with pytest.warns(TensorcWarning, match="random inputs"):
        report = compile_model(tmp_path / "softmax.onnx", CompileOptions(target="hls", clock=2.75), tmp_path / "p")
    assert "; a stage of p_3 may need " in dict(report.manifest["summary"])["clock"]
