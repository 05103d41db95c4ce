"""What a profile makes of the times that an executable gives: here one whose times are known."""

import math
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

import targets.cpu.profile as module
from targets.cpu.program import CpuProgram, Step
from tensorc.errors import UserError
from tensorc.profiling import Ceilings, KernelFacts, Level

KERNELS = {
    "a": {
        "schedule": {"kind": "conv"},
        "origin": "record",
        "predicted_seconds": 2.0,
        "predicted_deviation": 0.5,
        "flops": 6,
        "bytes": 7,
        "of_bytes": False,
    },
    "b": {
        "schedule": {},
        "origin": "only",
        "predicted_seconds": None,
        "predicted_deviation": None,
        "flops": 0,
        "bytes": 8,
        "of_bytes": False,
    },
}


@dataclass
class Executable:
    """Its third run is interrupted by something else for 1000 seconds."""

    kernels: tuple = ("a", "b", "a")
    threads: int = 2
    calls: list = field(default_factory=list)

    @property
    def program(self):
        steps = tuple(Step(kernel, (), 1, f"step {i}") for i, kernel in enumerate(self.kernels))
        return CpuProgram(steps, (), (), 0, 0)

    def run(self, _inputs):
        self.calls.append("run")
        return []

    def run_timed(self, _inputs):
        self.calls.append("timed")
        return [], np.array([1.0, 2.0, 3.0]) + 1000 * (self.calls.count("timed") == 3)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    calls = []
    roofs = Ceilings(2, 1.0, [Level("memory", math.inf, 1.0)])
    monkeypatch.setattr(module, "ceilings", lambda threads, again: calls.append((threads, again)) or roofs)
    return calls


def profile(executable, kernels=KERNELS, seconds=0.02, measure_ceilings=False, progress=lambda *_: None):
    return module.profile(executable, kernels, [], seconds, measure_ceilings, progress)


def test_each_step_gets_its_median_and_each_kernel_its_facts(asked):
    executable = Executable()
    found = profile(executable, measure_ceilings=True)
    assert [(step.kernel, step.label, step.seconds) for step in found.steps] == [
        ("a", "step 0", 1.0), ("b", "step 1", 2.0), ("a", "step 2", 3.0)
    ]  # fmt: skip
    assert found.kernels == {
        "a": KernelFacts({"kind": "conv"}, "record", 2.0, 0.5, 6, 7),
        "b": KernelFacts({}, "only", None, None, 0, 8),
    }
    assert asked == [(2, True)]
    assert found.threads == 2
    assert found.overhead_seconds == pytest.approx(-6, abs=1), "what the run took, less six seconds that it claims"


def test_runs_of_both_kinds_take_turns_after_a_first_of_each():
    executable = Executable()
    found = profile(executable)
    assert executable.calls[:2] == ["timed", "run"]
    assert executable.calls[2:] == ["run", "timed"] * found.runs


def test_a_long_model_runs_thrice_and_a_short_time_is_kept():
    assert profile(Executable(), seconds=1e-9).runs == 3
    begin = time.perf_counter()
    assert 3 <= profile(Executable(), seconds=0.05).runs <= 2000
    assert time.perf_counter() - begin < 30


def test_progress_goes_forward_to_a_total_that_holds_it():
    seen = []
    profile(Executable(), progress=lambda *row: seen.append(row))
    assert seen[0] == (0, 0, "ceilings")
    done = [row[0] for row in seen[1:]]
    assert done == list(range(len(done)))
    assert all(row[0] < row[1] for row in seen[1:])


@pytest.mark.parametrize("table", [{}, {"a": KERNELS["a"]}, KERNELS | {"b": "conv+relu"}, KERNELS | {"b": {}}])
def test_a_kernel_that_the_artifact_does_not_describe_is_the_users_to_compile_again(asked, table):
    with pytest.raises(UserError, match=r"kernel '[ab]'.*compile the model again"):
        profile(Executable(), table)
    assert asked == [], "nothing was measured for nothing"
