"""The search of unrolls: under the caps, as good as can be, the same each time, and clear about what has no place."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.hls.exploration import pareto
from targets.hls.exploration.optimize import beside, optimum
from targets.hls.exploration.search import NAMES, Search, obstacle
from targets.hls.hardware.resources import Resources
from targets.hls.hardware.timing import timing_of
from targets.hls.parts import PARTS, Part, find_part
from tensorc.errors import UserError
from tensorc.ir import Graph, TensorType
from tensorc.options import CompileOptions, Objective

OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "resources", "energy")


@functools.cache
def network(fixed, size, channels, joined, dense):
    """A convolution for each of `channels`, a bypass if it can be, a matrix product if there are `dense` outputs."""
    rng = np.random.default_rng(len(channels) + size)
    graph = Graph("random")
    x = graph.add_input("x", TensorType("float64", (1, channels[0], size, size)))
    attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 1}
    value, before = x, channels[0]
    for number, width in enumerate(channels[1:]):
        weights = graph.constant(rng.standard_normal((width, before, 3, 3)), name=f"w{number}")
        last, value = value, graph.add("relu", [graph.add("conv", [value, weights], attrs)], name=f"layer{number}")
        if joined and width == before and number:
            value = graph.add("add", [value, last], name=f"sum{number}")
        before = width
    if dense:
        value = graph.add("reduce_mean", [value], {"axes": (2, 3), "keepdims": False}, name="mean")
        weights = graph.constant(rng.standard_normal((dense, before)), name="dense.weights")
        value = graph.add("matmul", [value, weights], {"transpose_b": True}, name="dense")
    graph.outputs = [value]
    return fixed(graph, [rng.standard_normal((2, 1, channels[0], size, size))]).network


def part_of(budget: Resources, family="xc7"):
    """A part whose caps are these."""
    shares = {"lut": 0.7, "ff": 0.5, "bram18": 0.8, "uram": 0.8, "dsp": 0.8}
    amounts = {name: math.ceil(getattr(budget, name) / share) for name, share in shares.items()}
    return Part("tiny", "tiny-1", family, **amounts)


def total(pick):
    return sum((option.used for option in pick), Resources())


def below(used, cap):
    return all(getattr(used, name) <= getattr(cap, name) for name in NAMES)


NETWORKS = st.tuples(
    st.sampled_from([4, 6]),
    st.lists(st.sampled_from([2, 3, 4, 6]), min_size=3, max_size=4).map(tuple),
    st.booleans(),
    st.sampled_from([0, 5]),
)
SLOW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@given(how=NETWORKS, lut=st.integers(600, 9000), dsp=st.integers(0, 60), objective=st.sampled_from(OBJECTIVES))
@SLOW
def test_caps_are_never_exceeded(fixed, how, lut, dsp, objective):
    part = part_of(Resources(lut=lut, ff=2 * lut, bram18=8, dsp=dsp))
    search = Search(network(fixed, *how), part)
    if lut < 2_500 or dsp < 8:  # too little for some of them
        with contextlib.suppress(UserError):
            assert below(search.best(objective).used, part.budget)
        return
    found = search.best(objective)
    assert below(found.used, part.budget)
    for point in search.front():
        assert below(point.used, part.budget)


@pytest.mark.compiler
@given(how=NETWORKS, lut=st.integers(2_500, 6_000), dsp=st.integers(8, 60), objective=st.sampled_from(OBJECTIVES))
@SLOW
def test_programs_stay_below_the_caps_with_their_fifos(fixed, how, lut, dsp, objective):
    part = part_of(Resources(lut=lut, ff=2 * lut, bram18=8, dsp=dsp))
    found = optimum(network(fixed, *how), part, objective, "random")
    assert below(found.used, part.budget)
    again = timing_of(found.schedule.program(network(fixed, *how)))
    assert (again.latency, again.interval) == (found.timing.latency, found.timing.interval)


def brute(search):
    """Every combination of options."""
    cap = search.part.budget
    return [pick for pick in itertools.product(*search.options) if below(total(pick), cap)]


@pytest.mark.parametrize("dsp", [3, 9, 30])
@pytest.mark.parametrize("lut", [1700, 4000])
def test_it_is_the_best_of_all_combinations(fixed, dsp, lut):
    search = Search(network(fixed, 4, (2, 3, 4), False, 0), part_of(Resources(lut, 20_000, 12, 0, dsp)))
    every = brute(search)
    assert len(every) > 1
    assert search.best("throughput").interval == min(search.found(pick).interval for pick in every)
    least = min(search.share(total(pick)) for pick in every)
    assert search.share(search.best("resources").used) == pytest.approx(least)
    # The integer program stops when it is near.
    assert search.best("latency").latency <= 1.02 * min(search.latency(pick) for pick in every)


@given(how=NETWORKS, dsp=st.integers(4, 80))
@SLOW
def test_it_is_no_worse_than_greed_and_than_all_alike(fixed, how, dsp):
    search = Search(network(fixed, *how), part_of(Resources(30_000, 60_000, 40, 0, dsp)))
    cap = search.part.budget
    found = search.best("throughput").interval
    for level in (1, 2, 4, 8):
        alike = [min(options, key=lambda o: (abs(o.unroll.outputs * o.unroll.inputs - level), o.cost.cycles))
                 for options in search.options]  # fmt: skip
        if below(total(alike), cap):
            assert found <= search.found(alike).interval
    greedy = [min(options, key=lambda option: search.share(option.used)) for options in search.options]
    while True:
        slowest = max(range(len(greedy)), key=lambda n: greedy[n].cost.cycles)
        faster = [o for o in search.options[slowest] if o.cost.cycles < greedy[slowest].cost.cycles]
        if not faster:
            break
        better = [*greedy]
        better[slowest] = max(faster, key=lambda option: option.cost.cycles)
        if not below(total(better), cap):
            break
        greedy = better
    assert found <= search.found(greedy).interval


@given(how=NETWORKS, dsp=st.integers(4, 40), more=st.integers(0, 40))
@SLOW
def test_a_bigger_part_is_never_slower(fixed, how, dsp, more):
    net = network(fixed, *how)
    small, large = (
        Search(net, part_of(Resources(30_000, 60_000, 40, 0, count))).best("throughput") for count in (dsp, dsp + more)
    )
    assert large.interval <= small.interval


def test_parts_of_a_family_in_their_order(digits):
    family = [part for part in PARTS if part.family == "xcup"]
    found = [Search(digits.network, part).best("throughput").interval for part in family]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]


@pytest.mark.compiler
def test_objectives_are_what_they_say(digits):
    """Of designs whose layers run side by side."""
    found = {objective: beside(digits.network, find_part("xc7z020"), objective, "digits") for objective in OBJECTIVES}
    assert found["latency"].timing.latency < found["throughput"].timing.latency
    assert found["throughput"].timing.interval == min(one.timing.interval for one in found.values())
    assert found["latency"].timing.latency == min(one.timing.latency for one in found.values())
    search = Search(digits.network, find_part("xc7z020"))
    costs = {objective: search.best(objective) for objective in OBJECTIVES}
    assert costs["resources"].used.dsp == min(one.used.dsp for one in costs.values())
    assert costs["energy"].energy == min(one.energy for one in costs.values())
    for objective, one in found.items():
        assert below(one.used, find_part("xc7z020").budget)
        if one.schedule.plan is not None:
            continue
        # What search believes is what the program does, but for the filling of pipelines.
        assert one.timing.interval == pytest.approx(costs[objective].interval, rel=0.02)
        assert one.timing.latency == pytest.approx(costs[objective].latency, rel=0.1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_each_time(digits, objective):
    part = find_part("xc7z010")
    first, second = (Search(digits.network, part).best(objective) for _ in range(2))
    assert first == second


def test_the_front_falls(digits):
    part = find_part("xczu7ev")
    search = Search(digits.network, part)
    front = search.front()
    assert len(front) > 5
    assert [point.interval for point in front] == sorted({point.interval for point in front})
    shares = [search.share(point.used) for point in front]
    assert shares == sorted(shares, reverse=True)
    assert front[0].interval == search.best("throughput").interval
    rows = pareto.rows(part, front)
    assert rows[0]["share"]["dsp"] == pytest.approx(front[0].used.dsp / part.dsp, abs=1e-4)
    picture = pareto.plot(part, front, (front[0].interval, front[0].used), "a < b")
    assert picture.count("<polyline") == 4
    assert "a &lt; b" in picture


def test_what_has_no_place_is_told_why(digits):
    """The largest layer, by name, and the part that would do."""
    part = part_of(Resources(lut=60_000, ff=60_000, bram18=4, dsp=3))
    with pytest.raises(UserError, match=r"tiny cannot hold this network: it needs at least \d+ DSPs of 3, .* of them "
                       r"for .*; the smallest part that would hold it is XC7Z010"):  # fmt: skip
        Search(digits.network, part).best("latency")


def test_what_no_part_holds_is_told_how_many_bits_would(digits, monkeypatch):
    part = part_of(Resources(lut=1_900, ff=60_000, bram18=6, dsp=30))
    monkeypatch.setattr("targets.hls.exploration.search.PARTS", (part,))
    search = Search(digits.network, part)
    with pytest.raises(UserError, match=r"no part that is known would hold it, weights of [2-7] bits would fit"):
        search.best("throughput")
    assert "\n" not in obstacle(search)


def test_less_is_kept_free(digits):
    part = find_part("xc7z010")
    search = Search(digits.network, part)
    less = replace(Resources(), dsp=40, lut=4_000)
    used = search.best("throughput", less).used
    assert used.dsp + 40 <= part.budget.dsp
    assert used.lut + 4_000 <= part.budget.lut


def test_an_objective_that_there_is_not():
    with pytest.raises(UserError, match="no objective 'beauty'; legal: latency, throughput, resources, energy"):
        CompileOptions(objective="beauty")  # type: ignore[arg-type]
