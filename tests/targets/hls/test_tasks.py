"""Several tasks that share a trunk: one unit computes the products of all, where the objective allows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.hls.tasks import two_heads
from targets.hls.exploration.optimize import optimum
from targets.hls.exploration.tasks import candidates, of_single_tasks
from targets.hls.parts import find_part
from tensorc.driver import compile_model
from tensorc.errors import UserError
from tensorc.frontend.importer import open_model
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target

PART = find_part("xc7z020")
HEADS = ("task0_0", "task0_1", "task1_0", "task1_1")


@pytest.fixture(scope="module")
def two(fixed, tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "model.onnx"
    onnx.save(two_heads((6, 16), ((12, 3), (8, 2))), path)
    graph = open_model(str(path), {}, False).static().graph
    return fixed(graph, [np.random.default_rng(0).standard_normal((8, 1, 6))])


def test_layers_of_single_tasks_are_those_behind_the_trunk(two, digits):
    assert tuple(of_single_tasks(two.network)) == HEADS
    assert list(candidates(two.network)) == [{"unit": ("trunk0", *HEADS)}, {"unit": HEADS}]
    assert list(candidates(digits.network)) == []


def test_the_smallest_design_has_one_multiplier_for_all(two):
    best = optimum(two.network, PART, "resources", "two")
    assert best.schedule.cores == {"unit": ("trunk0", *HEADS)}
    assert best.used.dsp == 1
    assert [process.name for process in best.program.processes if process.stages] == ["unit"]


def test_a_unit_does_not_cost_what_an_objective_counts(two):
    for objective in ("latency", "throughput"):
        assert optimum(two.network, PART, objective, "two").schedule.cores == {}


def test_the_smallest_design_within_a_latency_is_within_it(two):
    free, quick = (optimum(two.network, PART, "resources", "two", max_latency=limit) for limit in (None, 150))
    assert quick.timing.latency <= 150 < free.timing.latency
    assert quick.used.dsp > free.used.dsp
    with pytest.raises(UserError, match="at most 3 cycles"):
        optimum(two.network, PART, "resources", "two", max_latency=3)
    with pytest.raises(UserError, match="for --objective resources"):
        CompileOptions(target="hls", objective="latency", max_latency=100)


@pytest.mark.compiler
def test_a_unit_goes_through_the_whole_chain(tmp_path: Path):
    onnx.save(two_heads((3, 6), ((4, 2), (3, 2))), tmp_path / "model.onnx")
    samples = tmp_path / "samples.npz"
    np.savez(samples, x=np.random.default_rng(0).standard_normal((20, 1, 3)).astype(np.float32))
    options = CompileOptions(
        target="hls:xc7z020", quantize=Quantization("fixed8", samples), objective="resources", max_latency=150
    )
    compile_model(tmp_path / "model.onnx", options, tmp_path / "project")
    schedule = json.loads((tmp_path / "project/schedule.json").read_text())
    assert [len(row["stages"]) for row in schedule["processes"] if "stages" in row] == [5]
    checks = find_target("hls").check(tmp_path / "project", None, None, lambda *_: None)
    assert [check.name for check in checks if not check.ok] == []
    numbers = {check.name: check.numbers for check in checks}
    assert numbers["Verilog"]["latency"] <= 150
