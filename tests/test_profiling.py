"""Rooflines and profiles, from numbers worked out by hand."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorc.profiling import Ceilings, KernelFacts, Level, Profile, StepTime, totals

ROOFS = Ceilings(1, 100.0, [Level("L1", 10, 50.0), Level("memory", math.inf, 5.0)], 0.25)
amounts = st.floats(0, 1e6)


def profile(steps, **kernels):
    facts = {name: KernelFacts({}, "default", row[0], None, *row[1:]) for name, row in kernels.items()}
    return Profile(1, 3, 1.0, 0.01, [StepTime(*step) for step in steps], facts, ROOFS)


def test_arithmetic_or_memory_bounds_whichever_takes_longer():
    assert ROOFS.attainable_seconds(200, 10) == 2
    assert ROOFS.bound(200, 10) == "compute"
    assert ROOFS.attainable_seconds(10, 10) == 0.2
    assert ROOFS.bound(10, 10) == "L1"
    assert ROOFS.attainable_seconds(10, 11) == 2.2
    assert ROOFS.bound(10, 11) == "memory"


def test_products_of_bytes_have_a_rate_of_their_own():
    roofs = replace(ROOFS, byte_ops=400.0)
    assert roofs.attainable_seconds(400, 10, of_bytes=True) == 1
    assert roofs.attainable_seconds(400, 10) == ROOFS.attainable_seconds(400, 10, of_bytes=True) == 4
    assert (roofs.bound(400, 50, of_bytes=True), roofs.bound(400, 50)) == ("memory", "memory")
    assert (roofs.bound(400, 10, of_bytes=True), roofs.bound(20, 1, of_bytes=True)) == ("compute", "compute")
    assert roofs.bound(40, 9, of_bytes=True) == "L1"
    assert Ceilings.from_json(json.loads(json.dumps(roofs.to_json()))) == roofs
    assert roofs.best_of(ROOFS) == ROOFS.best_of(roofs) == roofs


@given(amounts, amounts, amounts, amounts)
def test_more_work_never_takes_less_time(flops, nbytes, more_flops, more_bytes):
    before = ROOFS.attainable_seconds(flops, nbytes)
    assert ROOFS.attainable_seconds(flops + more_flops, nbytes + more_bytes) >= before


def test_ceilings_survive_json():
    assert Ceilings.from_json(json.loads(json.dumps(ROOFS.to_json(), allow_nan=False))) == ROOFS


@pytest.mark.parametrize("change", [
    {"flops_per_second": 0}, {"flops_per_second": math.nan}, {"levels": []}, {"levels": [{"name": "L1"}]},
    {"levels": [{"name": "L1", "capacity": 10, "bytes_per_second": 1.0}]}, {"levels": 3},
])  # fmt: skip
def test_ceilings_that_nobody_measured_are_refused(change):
    with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
        Ceilings.from_json(ROOFS.to_json() | change)


def test_the_better_of_two_measurements_counts_rate_by_rate():
    other = Ceilings(1, 90.0, [Level("L1", 10, 60.0), Level("memory", math.inf, 4.0)])
    assert ROOFS.best_of(other) == Ceilings(1, 100.0, [Level("L1", 10, 60.0), Level("memory", math.inf, 5.0)], 0.25)


def test_calls_of_one_kernel_are_one_row():
    found = profile(
        [("a", "first", 0.5), ("b", "second", 3.0), ("a", "third", 1.5)], a=(1.0, 60, 10), b=(None, 100, 20)
    )
    b, a = found.rows()
    assert (a.kernel, a.labels, a.calls, a.seconds, a.share) == ("a", ("first", "third"), 2, 2.0, 0.4)
    assert (a.flops, a.nbytes, a.flops_rate, a.bytes_rate) == (120, 20, 60.0, 10.0)
    assert (a.attainable_seconds, a.attained, a.bound) == (1.2, 0.6, "compute")
    assert a.predicted_ratio == 1.0
    assert (b.attainable_seconds, b.bound, b.predicted_ratio) == (4.0, "memory", None)
    together = totals([a, b])
    assert (together.calls, together.seconds, together.share) == (3, 5.0, 1.0)
    assert (together.flops_rate, together.bytes_rate, together.attained) == (44.0, 8.0, pytest.approx(5.2 / 5))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(1e-7, 10)), min_size=1, max_size=20))
def test_shares_are_parts_of_one(times):
    found = profile([(name, name, seconds) for name, seconds in times], **dict.fromkeys("abc", (None, 1, 1)))
    rows = found.rows()
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.calls for row in rows) == len(times)
    assert [row.seconds for row in rows] == sorted((row.seconds for row in rows), reverse=True)


def test_a_clock_that_saw_nothing_divides_nothing():
    found = profile([("a", "first", 0.0)], a=(1.0, 60, 10))
    (row,) = found.rows()
    assert (row.share, row.flops_rate, row.attained, row.predicted_ratio) == (0, 0, 0, None)
    json.dumps(found.to_json(), allow_nan=False)
    assert profile([]).rows() == []
