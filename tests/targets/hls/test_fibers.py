"""Simulation with channels that have an end: deadlocks, and the least depths."""

from __future__ import annotations

import numpy as np
import pytest

from targets.hls.hardware.timing import DeadlockError, timing_of
from targets.hls.layers.layer import Unroll
from targets.hls.simulation import fibers
from tensorc.errors import UserError

pytestmark = pytest.mark.compiler


@pytest.fixture(scope="module")
def residual_simulation(residual):
    with fibers.compiled(residual.program("residual")) as simulation:
        yield simulation


def test_a_bypass_one_too_shallow_is_a_deadlock(residual, residual_simulation):
    program = residual_simulation.program
    inputs, wanted = residual.vectors(program, 3)
    depths = fibers.least_depths(program)
    # Two 3x3 convolutions hold back two rows of five pixels and one pixel each, of two channels.
    assert depths["joined_in1"] == 30
    assert all(depth == 2 for name, depth in depths.items() if name != "joined_in1")
    outcome = residual_simulation.run(inputs, depths)
    assert not outcome.deadlock
    np.testing.assert_array_equal(outcome.outputs[0], wanted[0])
    said = set()
    for _ in range(20):
        outcome = residual_simulation.run(inputs, {**depths, "joined_in1": 29})
        assert not outcome.outputs
        assert fibers.Wait("start", "joined_in1", full=True) in outcome.waits
        assert fibers.Wait("joined", "joined_in", full=False) in outcome.waits
        said.add((outcome.deadlock, tuple(outcome.fills.items())))
    ((text, _),) = said
    assert text.startswith("DEADLOCK: start waits for room in joined_in1 (29 words fit); ")


def test_fills_are_the_most_that_a_channel_held(residual_simulation):
    outcome = residual_simulation.run(depths={"joined_in1": 40})
    assert outcome.fills["joined_in1"] == 30
    assert outcome.fills["first_in"] == 1


def test_each_depth_is_the_least(residual_simulation):
    depths = fibers.least_depths(residual_simulation.program, at_least=1)
    assert not residual_simulation.run(depths=depths).waits
    for name, depth in depths.items():
        if depth > 1:
            assert residual_simulation.run(depths={**depths, name: depth - 1}).waits, name


def test_the_timing_model_stops_where_the_fibers_do(residual_simulation):
    program = residual_simulation.program
    depths = fibers.least_depths(program, at_least=1)
    assert timing_of(program, depths=depths).latency > 0
    for name, depth in depths.items():
        if depth > 1:
            with pytest.raises(DeadlockError) as stopped:
                timing_of(program, depths={**depths, name: depth - 1})
            assert name in stopped.value.full


def test_an_unknown_channel_is_refused(residual_simulation):
    with pytest.raises(UserError, match="there is no channel 'bypass'"):
        residual_simulation.run(depths={"bypass": 3})


def test_digits_have_no_deadlock(digits):
    unrolls = {"relu0": Unroll(4, 1), "relu1": Unroll(8, 4), "relu2": Unroll(4, 8), "logits_1": Unroll(2, 4)}
    program = digits.program("digits", unrolls)
    inputs, wanted = digits.vectors(program, 5)
    with fibers.compiled(program) as simulation:
        outcome = simulation.run(inputs)
    np.testing.assert_array_equal(outcome.outputs[0], wanted[0])
