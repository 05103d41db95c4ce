"""The benchmark of the search: its own network, and how it reads its curves."""

from __future__ import annotations

import math

import onnx
import pytest

from benchmarks.search import Point, Run, held_out
from tensorc.driver import tuning_tasks
from tensorc.options import CompileOptions


def test_the_held_out_network_leaves_schedules_to_choose():
    onnx.checker.check_model(held_out(), full_check=True)
    tasks, _ = tuning_tasks(held_out(), CompileOptions(threads=1))
    assert len(tasks) == 11
    assert all(task.space.size() > 10 for task in tasks)


@pytest.mark.parametrize(
    ("ratios", "arrival"), [([1.2, 1.1, 1.05], 14), ([1.2, 1.0, 1.1], 6), ([1.2, 1.1, 1.06], None)]
)
def test_curves(ratios, arrival):
    points = [Point(trials, trials / 2, math.inf, ()) for trials in (0, 6, 14)]
    run = Run("random", 0, points, 0, 7.0, "nothing left to gain", ratios)
    assert [run.after(trials) for trials in (0, 5, 6, 20)] == [ratios[0], ratios[0], ratios[1], ratios[2]]
    assert (run.arrival and run.arrival.trials) == arrival
