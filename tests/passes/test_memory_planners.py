"""Planners of memory: every plan valid, every bound and proof right, on small problems against all there is."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.memory_problems import tiling
from passes.memory import check, exact, game, greedy, minimalloc, native
from passes.memory.bounds import lower_bound
from passes.memory.portfolio import SOLVERS, quick_offsets, solve, solve_exactly, solve_greedily
from passes.memory.problem import Buffer, Problem, Status, sections
from tensorc.errors import UserError


@st.composite
def buffers(draw: st.DrawFn, most_size: int = 12, alignments: tuple[int, ...] = (1, 1, 2, 4)) -> Buffer:
    lower = draw(st.integers(-3, 12))
    size = draw(st.integers(1, most_size))
    return Buffer(lower, lower + draw(st.integers(1, 8)), size, draw(st.sampled_from(alignments)))


problems = st.lists(buffers(), max_size=20).map(Problem.of)
small_problems = st.lists(buffers(most_size=6), max_size=6).map(Problem.of)


def least_height(problem: Problem) -> int:
    """By brute force: some order of placing each buffer on top of those that it meets gives any best plan."""
    best = sum(b.size + b.alignment for b in problem.buffers)
    for order in permutations(range(len(problem.buffers))):
        tops: dict[int, int] = {}
        for number in order:
            buffer = problem.buffers[number]
            floor = max((tops[i] for i in tops if problem.buffers[i].meets(buffer)), default=0)
            tops[number] = -(-floor // buffer.alignment) * buffer.alignment + buffer.size
        best = min(best, max(tops.values(), default=0))
    return best


# The problem ---------------------------------------------------------------------------------------------------


@given(problems)
def test_sections_are_the_largest_sets_that_live_at_one_time(problem):
    times, ranges = sections(problem.buffers)
    alive = [{i for i, b in enumerate(problem.buffers) if b.lower <= time < b.upper} for time in times]
    inside = [{i for i, (first, last) in enumerate(ranges) if first <= s < last} for s in range(len(times))]
    assert alive == inside
    for now in range(-3, 21):
        lives = {i for i, b in enumerate(problem.buffers) if b.lower <= now < b.upper}
        assert not lives or any(lives <= other for other in alive)
    assert not any(a < b or (a == b and i != j) for i, a in enumerate(alive) for j, b in enumerate(alive))


@pytest.mark.parametrize(("numbers", "message"), [((3, 3, 1), "empty"), ((0, 1, 0), "1 or more"), ((0, 1, 1, 0), "1")])
def test_impossible_buffers_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        Buffer(*numbers)


# Bounds --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(small_problems)
def test_nothing_is_lower_than_the_bound(problem):
    load = max((sum(b.size for b in problem.buffers if b.lower <= t < b.upper) for t in range(-3, 21)), default=0)
    assert load <= lower_bound(problem) <= least_height(problem)


def test_alignment_raises_the_bound():
    assert lower_bound(Problem.of([Buffer(0, 1, 5, 4)] * 3)) == 8 + 8 + 5


# Planners ------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(problems)
def test_plans_are_valid_and_not_below_the_bound(problem):
    for offsets in (*(plan for _, plan in greedy.variants(problem)), quick_offsets(problem)):
        assert check.faults(problem, offsets) == []
        assert problem.height(offsets) >= lower_bound(problem)


@settings(max_examples=60, deadline=None)
@given(small_problems)
def test_exact_search_is_as_good_as_brute_force(problem):
    least = least_height(problem)
    answer = exact.search(problem.within(least), most_nodes=100_000)
    assert answer.status is Status.SOLVED
    assert check.faults(problem.within(least), answer.offsets) == []
    if least:
        refused = exact.search(problem.within(least - 1), most_nodes=100_000)
        assert refused.status is Status.INFEASIBLE
        assert refused.offsets is None
    plan = solve(problem, seconds=20)
    assert (plan.status, plan.height, plan.lower_bound) == (Status.SOLVED, least, least)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shrink", [0.0, 0.2])
def test_tilings_are_put_together_again(seed, shrink):
    problem = tiling(seed, 45, shrink=shrink)
    answer = exact.search(problem, most_nodes=300_000)
    assert answer.status is Status.SOLVED
    assert check.faults(problem, answer.offsets) == []


def test_a_tiling_with_one_more_buffer_is_proven_not_to_fit():
    problem = tiling(3, 40)
    more = replace(problem, buffers=(*problem.buffers, Buffer(10, 11, 1)))
    assert exact.search(more).status is Status.INFEASIBLE
    assert solve(more).status is Status.INFEASIBLE


#: Its largest load is 6, and every section but two is full; CP-SAT agrees that it takes 7.
AWKWARD = Problem.of(
    Buffer(*numbers) for numbers in (
        (0, 3, 5), (7, 8, 4), (3, 7, 1), (0, 6, 1), (3, 5, 3), (7, 8, 1), (5, 6, 2), (6, 7, 3), (5, 8, 1), (3, 7, 1),
    )
)  # fmt: skip


def test_more_than_the_load_may_be_needed():
    assert lower_bound(AWKWARD) == 6
    assert exact.search(AWKWARD.within(6)).status is Status.INFEASIBLE
    for solver in ("portfolio", "exact", "cpsat"):
        plan = SOLVERS[solver](AWKWARD, 20, 0)
        assert (plan.status, plan.height, plan.lower_bound) == (Status.SOLVED, 7, 7), solver
        assert SOLVERS[solver](AWKWARD.within(6), 20, 0).status is Status.INFEASIBLE, solver


def test_parts_of_time_are_solved_apart():
    parts = [tiling(seed, 45).buffers for seed in range(15)]
    moved = [
        replace(b, lower=b.lower + 60 * number, upper=b.upper + 60 * number)
        for number, part in enumerate(parts) for b in part
    ]  # fmt: skip
    answer = exact.search(Problem.of(moved, 64), most_nodes=100_000)
    assert answer.status is Status.SOLVED
    assert answer.nodes < 3 * len(moved)  # taken together: seven times as many


def test_answers_repeat_and_nodes_are_limited():
    problem = tiling(1, 60)
    first, second = exact.search(problem, most_nodes=5000, seed=3), exact.search(problem, most_nodes=5000, seed=3)
    assert first == second
    crowded = Problem.of(tiling(0, 150, 300, 1000).buffers, 1000)
    assert exact.search(crowded, most_nodes=10).status is Status.UNKNOWN


@settings(max_examples=60, deadline=None)
@given(st.lists(buffers(alignments=(1, 3, 64, 100)), max_size=10).map(Problem.of))
def test_any_alignment_holds(problem):
    plan = solve(problem, seconds=0.2)
    assert check.faults(problem, plan.offsets) == []


def test_huge_numbers_are_planned():
    huge = Problem.of([Buffer(0, 2, 2**61 + 1), Buffer(1, 3, 2**61), Buffer(2, 4, 2**61 + 1)])
    assert solve(huge).height == 2**62 + 1
    assert exact.search(huge.within(2**62 + 1)).status is Status.UNKNOWN
    assert solve(huge.within(2**62)).status is Status.INFEASIBLE


def test_the_gap_is_reported():
    problem = tiling(0, 60, 40, 1000)
    plan = solve_greedily(problem.within(None))
    assert plan.height > plan.lower_bound == 1000
    assert plan.status is Status.FEASIBLE
    assert plan.gap == pytest.approx(plan.height / 1000 - 1)
    over = solve_greedily(problem)
    assert over.status is Status.UNKNOWN
    best = solve_exactly(problem.within(None), 30)
    assert (best.status, best.gap, best.solver) == (Status.SOLVED, 0, "exact")


@pytest.mark.parametrize("capacity", [64, None])
def test_where_exact_search_does_not_get_through_others_have_a_turn(monkeypatch, capacity):
    unknown = exact.Answer(Status.UNKNOWN, None, 0)
    monkeypatch.setattr("passes.memory.exact.search", lambda *_, **__: unknown)
    problem = tiling(1, 45).within(capacity)
    assert problem.height(greedy.best(problem)[1]) > 64
    plan = solve(problem, 20)
    assert (plan.status, plan.height, plan.solver) == (Status.SOLVED, 64, "cpsat")
    assert check.faults(problem, plan.offsets) == []


def test_the_game_ends_in_time_and_keeps_the_greedy_plan():
    problem = tiling(0, 60, 40, 1000)
    plan = SOLVERS["game"](problem, 0.0, 0)
    assert plan.height == solve_greedily(problem).height


def test_without_a_compiler_the_default_plan_is_greedy(monkeypatch, tmp_path):
    problem = tiling(0, 60, 40, 1000).within(None)
    before = quick_offsets(problem)
    monkeypatch.setattr("passes.memory.native.library", native.library.__wrapped__)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    after = quick_offsets(problem)
    assert problem.height(before) < problem.height(after)
    assert check.faults(problem, after) == []
    with pytest.raises(UserError, match="exact memory planning needs a C compiler"):
        exact.search(problem.within(1000))


def test_a_home_that_cannot_be_written_to_is_no_obstacle(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native.library.__wrapped__().tensorc_search
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert native.library.__wrapped__().tensorc_search
    (kept,) = (tmp_path / "cache" / "tensorc").iterdir()
    kept.unlink()  # not in place: this process has it mapped
    kept.write_bytes(b"damaged")
    assert native.library.__wrapped__().tensorc_search


# The checker ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(problems.filter(lambda p: len(p.buffers) > 1), st.data())
def test_the_checker_finds_two_live_buffers_that_overlap(problem, data):
    offsets = list(greedy.place(problem.buffers))
    pairs = [
        (i, j) for i, a in enumerate(problem.buffers) for j, b in enumerate(problem.buffers) if i != j and a.meets(b)
    ]
    if not pairs:
        return
    one, other = data.draw(st.sampled_from(pairs))
    first, second = problem.buffers[one], problem.buffers[other]
    # Anywhere between just touching from below and just touching from above.
    offsets[one] = offsets[other] + data.draw(st.integers(1 - first.size, second.size - 1))
    assert any("overlap" in fault for fault in check.faults(problem, offsets))


def test_the_checkers_rules_one_by_one():
    a, b = Buffer(0, 4, 8, 4), Buffer(3, 6, 8, 4)
    problem = Problem.of([a, b], 16)
    assert check.faults(problem, [0, 8]) == []
    assert check.faults(problem, [8, 0]) == []
    assert [f.split()[0] for f in check.faults(problem, [0, 7])] == ["buffer", "buffers"]
    for offsets, message in (
        ([0, 4], "overlap at time 3: 4 is below 8"),
        ([4, 0], "overlap at time 3: 4 is below 8"),
        ([0, 0], "overlap"),
        ([0, 12], "above the capacity 16"),
        ([-8, 0], "is at -8"),
        ([0, 10], "not aligned to 4"),
        ([0], "1 offsets for 2 buffers"),
    ):
        assert any(message in fault for fault in check.faults(problem, offsets)), offsets
    assert check.faults(problem.within(None), [0, 12]) == []
    assert check.faults(problem.within(15), [0, 8]) == ["buffer 1 ends at 16, above the capacity 15"]
    # Half-open: one may begin when the other ends.
    assert check.faults(Problem.of([a, replace(b, lower=4)]), [0, 0]) == []
    # Not neighbours by address: what lies between them lives at another time.
    between = Problem.of([Buffer(0, 2, 10), Buffer(5, 6, 1), Buffer(1, 3, 10)])
    assert any("0 and 2" in fault for fault in check.faults(between, [0, 3, 5]))


# Files ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(problems, st.booleans())
def test_files_are_read_as_written(tmp_path_factory, problem, planned):
    path = tmp_path_factory.mktemp("files") / "some.99.csv"
    offsets = tuple(greedy.place(problem.buffers)) if planned and problem.buffers else None
    ids = tuple(f"b,{i}" for i in range(len(problem.buffers)))
    minimalloc.write(path, ids, problem, offsets)
    assert minimalloc.read(path) == minimalloc.ProblemFile(problem.within(99), ids, offsets)


# The game and the constraint solver ----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(problems)
def test_games_give_valid_plans(problem):
    plan = game.solve(problem, most_games=2)
    assert check.faults(problem, plan.offsets) == []
    assert plan.height <= problem.height(greedy.best(problem)[1])


def test_games_learn_and_repeat():
    problem = tiling(0, 60, 40, 1000).within(None)
    greedily = solve_greedily(problem)
    plans = [game.solve(problem, seed=5, most_games=games) for games in (12, 12)]
    assert plans[0].offsets == plans[1].offsets
    assert plans[0].height < 0.95 * greedily.height
    player = game._Player(game._Board(problem, plans[0].lower_bound), np.random.default_rng(0))
    before = player.value
    player.play(math.inf)
    assert not np.array_equal(before, player.value)
    assert np.isfinite(player.value).all()


@settings(max_examples=25, deadline=None)
@given(small_problems)
def test_the_constraint_solver_agrees_with_exact_search(problem):
    plan, other = SOLVERS["cpsat"](problem, 20, 0), solve(problem, 20)
    assert (plan.status, plan.height, plan.lower_bound) == (Status.SOLVED, other.height, other.height)
    assert check.faults(problem, plan.offsets) == []


def test_without_ortools_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(UserError, match=r"pip install 'tensorc\[cpsat\]'"):
        SOLVERS["cpsat"](AWKWARD, 1, 0)
