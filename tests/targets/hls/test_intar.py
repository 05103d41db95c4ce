"""InTAR's choice: cuts are the best there are, and what is chosen is exact in the cycles that were foretold."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.hls.exploration.intar import Choice, Plan, Segment, Stage, best_cut
from targets.hls.hardware.pipeline import designs_of
from targets.hls.hardware.timing import timing_of
from targets.hls.layers.layer import Unroll
from targets.hls.parts import find_part
from targets.hls.simulation import csim, rtl
from tensorc.ir import Graph, TensorType


@st.composite
def ways_to_cut(draw):
    """Segments of up to five layers, some of which cannot be, and a cap of block RAMs."""
    count = draw(st.integers(1, 5))
    number = st.integers(0, 20)
    one = st.tuples(number, number)
    table = {
        (first, last): [Segment(first, last, *pair) for pair in draw(st.lists(one, max_size=3))]
        for first, last in itertools.combinations(range(count + 1), 2)
    }
    return count, table, draw(st.integers(0, 60))


def every_cut(count, table, cap):
    if count == 0:
        yield []
    for first in range(count):
        for segment in table[first, count]:
            for before in every_cut(first, table, cap):
                if sum(s.bram18 for s in (*before, segment)) <= cap:
                    yield [*before, segment]


def cycles(cut):
    return sum(segment.cycles for segment in cut)


@given(ways_to_cut())
def test_the_best_cut_is_the_best_of_all(problem):
    count, table, cap = problem

    def best(allowed):
        return best_cut(count, lambda first, last: table[first, last] if last - first in allowed else [], cap)

    mix = best(range(count + 1))
    assert (mix is None) == (not list(every_cut(count, table, cap)))
    if mix is not None:
        assert cycles(mix) == min(map(cycles, every_cut(count, table, cap)))
        assert sum(segment.bram18 for segment in mix) <= cap
        assert [s.first for s in mix] + [count] == [0] + [s.last for s in mix]
    for alone in (best([1]), best([count])):  # sequential, dataflow
        assert alone is None or (mix is not None and cycles(mix) <= cycles(alone))


def network_graph() -> tuple[Graph, list[np.ndarray]]:
    """An inverted residual: an expansion, a depthwise convolution, and a projection with a bypass."""
    rng = np.random.default_rng(7)
    graph = Graph("inverted")
    x = graph.add_input("x", TensorType("float64", (1, 2, 4, 4)))

    def conv(value, name, shape, pad=0, groups=1):
        weights = graph.constant(rng.standard_normal(shape), name=f"{name}.weights")
        attrs = {"strides": (1, 1), "pads": (pad,) * 4, "dilations": (1, 1), "groups": groups}
        return graph.add("conv", [value, weights], attrs, name=name)

    wide = graph.add("relu", [conv(x, "expand.conv", (8, 2, 1, 1))], name="expand")
    deep = graph.add("relu", [conv(wide, "depth.conv", (8, 1, 3, 3), 1, 8)], name="depth")
    graph.outputs = [graph.add("add", [conv(deep, "project.conv", (2, 8, 1, 1)), x], name="project")]
    return graph, [rng.standard_normal((3, 1, 2, 4, 4))]


@pytest.fixture(scope="module")
def inverted(fixed):
    return fixed(*network_graph())


PLANS = {
    "sequential": Plan("sequential", (
        (Stage("expand", 2, Unroll(2, 1)),), (Stage("depth", 2, Unroll(2, 2)),), (Stage("project", 2, Unroll(1, 1)),),
    ), frozenset({("depth", 0)})),
    "mix": Plan("mix", (
        (Stage("expand", 1, Unroll(2, 1)), Stage("depth", 1, Unroll(2, 2))), (Stage("project", 2, Unroll(1, 2)),),
    )),
}  # fmt: skip


@pytest.mark.compiler
@pytest.mark.parametrize("name", PLANS)
def test_plans_are_exact_in_c_and_in_verilog_in_the_cycles_that_were_foretold(inverted, project, name):
    images = 2
    choice = Choice(inverted.network, find_part("XC7Z020"), 4, 20, bandwidth=1)
    built = choice.built(PLANS[name], "inverted")
    program, designs = built.program, designs_of(built.program)
    # The expanded tensor has 4 x 4 x 8 bytes, which are written and read.
    assert built.bytes_beyond == (2 * 4 * 4 * 8 if name == "sequential" else 0)
    assert built.used.dsp == 4
    inputs, wanted = inverted.vectors(program, images)
    run = rtl.simulate(program, inputs, designs)
    timing = timing_of(program, designs, images=images)
    assert (run.latency, run.interval) == (timing.latency, timing.interval)
    assert run.latency == built.timing.latency
    for outputs in (run.outputs, csim.run(project(program), inputs)):
        for found, expected in zip(outputs, wanted, strict=True):
            np.testing.assert_array_equal(found, expected.reshape(images, -1))


def test_stages_of_a_core_share_the_memories_that_they_write(inverted):
    program = Choice(inverted.network, find_part("XC7Z020"), 4, 20).built(PLANS["sequential"], "inverted").program
    (core, *_) = [process for process in program.processes if process.stages]
    held = {stage.name: [(m.lanes, m.depth) for m in stage.memories if not m.is_constant] for stage in core.stages}
    assert held == {"expand_0": [(1, 8)], "depth_0": [(2, 24)], "project_0": [(1, 32)]}
    # Numbers with a sign are not kept with those without; words are as wide as the widest, and as many as the most.
    assert [(m.lanes, m.depth) for m in core.memories if not m.is_constant] == [(2, 32), (1, 8)]


def test_bytes_beyond_the_chip_take_time(inverted):
    def built(bandwidth, plan=PLANS["sequential"]):
        return Choice(inverted.network, find_part("XC7Z020"), 4, 20, bandwidth).built(plan, "inverted")

    def words(made):
        """Numbers in a word outside the chip, and words."""
        return [(name, memory.lanes, memory.depth) for name, _, memory in made.program.outside]

    slow, fast, on_chip = built(1), built(2), built(1, replace(PLANS["sequential"], beyond=frozenset()))
    name = "depth_in_outside_memory"
    assert [words(made) for made in (slow, fast, on_chip)] == [[(name, 1, 128)], [(name, 2, 64)], []]
    assert fast.timing.latency < slow.timing.latency
    assert on_chip.bytes_beyond == 0
    assert slow.used.bram18 <= on_chip.used.bram18


def test_a_mix_is_no_worse_than_either(inverted):
    choice = Choice(inverted.network, find_part("XC7Z020"), 6, 20)
    sequential, dataflow, mix = (choice.best(mode, "inverted", 1) for mode in ("sequential", "dataflow", "mix"))
    assert sequential is not None
    assert dataflow is not None
    assert mix is not None
    assert mix.timing.latency <= min(sequential.timing.latency, dataflow.timing.latency)
    for built in (sequential, dataflow, mix):
        assert built.used.dsp <= 6
        assert built.used.bram18 <= 20
    assert Choice(inverted.network, find_part("XC7Z020"), 1, 0).best("dataflow", "inverted") is None
