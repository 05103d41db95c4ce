"""Plans of streams, followed step by step: what a span needs is there, and never more than there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.memory.streaming import CapacityError, Runs, StreamPlan, least_capacity, plan_stream

Needs = list[frozenset[int]]


def blocks_of(runs: Runs) -> list[int]:
    return [first + i for first, count in runs for i in range(count)]


Sizes = dict[int, int] | None


def size(blocks: AbstractSet[int], sizes: Sizes) -> int:
    return len(blocks) if sizes is None else sum(sizes[block] for block in blocks)


def follow(
    needs: Sequence[AbstractSet[int]], loose: Sequence[int], plan: StreamPlan, keen: Sequence[bool], sizes: Sizes = None
) -> tuple[int, int]:
    """Run after run, as the executor does it. `keen` says run by run whether what may be fetched is, or whether every
    block comes when it is touched. The most that is resident at one time, and how much the last run maps."""
    resident: set[int] = set()
    changes = {change.span: change for change in plan.changes}
    most = mapped = 0
    for fetches in keen:
        mapped = 0
        for span in range(len(needs) + 1):
            if change := changes.get(span):
                resident.difference_update(blocks_of(change.drops))
                coming = set(blocks_of(change.fetches)) - resident if fetches else set()
                mapped += size(coming, sizes)
                resident.update(coming)
            if span < len(needs):
                mapped += size(needs[span] - resident, sizes)
                resident.update(needs[span])
                most = max(most, size(resident, sizes) + loose[span])
    return most, mapped


@st.composite
def problems(draw: st.DrawFn) -> tuple[Needs, list[int], int, Sizes]:
    """Mostly each span needs blocks behind those of the one before; some are shared."""
    needs: list[set[int]] = []
    start = 0
    for _ in range(draw(st.integers(1, 12))):
        count = draw(st.integers(0, 9))
        own = set(range(max(start - draw(st.integers(0, 1)), 0), start + count))
        if start and draw(st.integers(0, 4)) == 0:
            own.add(draw(st.integers(0, start - 1)))
        needs.append(own)
        start += count
    loose = [draw(st.sampled_from([0, 0, 0, 2])) for _ in needs]
    each = draw(st.none() | st.lists(st.integers(1, 9), min_size=start, max_size=start))
    sizes = None if each is None else dict(enumerate(each))
    least = least_capacity(needs, loose, sizes)
    every = size(set().union(*needs), sizes)
    return [frozenset(need) for need in needs], loose, draw(st.integers(least, max(every, least) + 4)), sizes


@settings(max_examples=300, deadline=None)
@given(problems(), st.lists(st.booleans(), min_size=1, max_size=3))
def test_no_plan_takes_more_than_there_is(problem: tuple[Needs, list[int], int, Sizes], keen: list[bool]) -> None:
    needs, loose, capacity, sizes = problem
    plan = plan_stream(needs, loose, capacity, sizes)
    most, _ = follow(needs, loose, plan, keen, sizes)
    assert most <= capacity


@settings(max_examples=100, deadline=None)
@given(problems())
def test_a_plan_says_how_much_it_maps_in_each_run(problem: tuple[Needs, list[int], int, Sizes]) -> None:
    needs, loose, capacity, sizes = problem
    plan = plan_stream(needs, loose, capacity, sizes)
    _, mapped = follow(needs, loose, plan, [True, True, True], sizes)
    assert mapped == plan.streamed


@settings(max_examples=100, deadline=None)
@given(problems())
def test_with_room_for_all_nothing_comes_or_goes(problem: tuple[Needs, list[int], int, Sizes]) -> None:
    needs, loose, _, sizes = problem
    every = size(set().union(*needs), sizes)
    assert plan_stream(needs, loose, every + max(loose), sizes) == StreamPlan(every, 0, 0, ())


def test_too_little_room_is_refused_with_what_is_enough() -> None:
    needs = [frozenset({0, 1}), frozenset({1, 2, 3}), frozenset({4})]
    with pytest.raises(CapacityError) as caught:
        plan_stream(needs, [0, 1, 0], 3)
    assert caught.value.least == 4
    assert follow(needs, [0, 1, 0], plan_stream(needs, [0, 1, 0], 4), [True, True])[0] <= 4


def test_layers_that_do_not_fit_stream_no_more_than_the_window_costs() -> None:
    """A hundred layers of four blocks in half of the room: what is missing, and a window of few layers."""
    needs = [frozenset(range(4 * i, 4 * i + 4)) for i in range(100)]
    plan = plan_stream(needs, [0] * 100, 200)
    assert plan.pinned + plan.window == 200
    assert 200 + 4 <= plan.streamed <= 200 + 12
    # Evenly: no tenth of the model streams much more than another.
    streamed = set(range(400)) - set.intersection(*({*range(400)} - set(blocks_of(c.drops)) for c in plan.changes))
    tenths = np.histogram(sorted(streamed), bins=10, range=(0, 400))[0]
    assert tenths.max() - tenths.min() <= 4


def test_what_comes_next_may_come_before_it_is_needed() -> None:
    """But for the first run's, every block that is streamed may be there a whole span ahead."""
    needs = [frozenset(range(4 * i, 4 * i + 4)) for i in range(20)]
    plan = plan_stream(needs, [0] * 20, 40)
    resident: set[int] = set()
    changes = {change.span: change for change in plan.changes}
    streamed = {block for change in plan.changes for block in blocks_of(change.drops)}
    for run in range(2):
        for span, need in enumerate(needs):
            if change := changes.get(span):
                late = set(blocks_of(change.fetches)) & need
                assert not late or run == 0
                resident = (resident - set(blocks_of(change.drops))) | set(blocks_of(change.fetches))
            assert run == 0 or need & streamed <= resident
            resident |= need & streamed
        if change := changes.get(len(needs)):
            resident = (resident - set(blocks_of(change.drops))) | set(blocks_of(change.fetches))


def test_what_is_large_stays_where_the_small_ones_are_enough() -> None:
    """Ten spans of 10 each, one of 100 in the middle: with room for 150 of 200, it is not streamed."""
    needs = [frozenset({number}) for number in range(11)]
    sizes = dict.fromkeys(range(11), 10) | {5: 100}
    plan = plan_stream(needs, [0] * 11, 150, sizes)
    assert 5 not in {block for change in plan.changes for block in blocks_of(change.fetches)}
    assert 50 < plan.streamed <= 50 + 2 * 10
