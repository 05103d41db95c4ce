"""A fast memory smaller than the graph: solvers against all that there is to choose from, and what a checker finds."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.fusion import FuseGroups
from passes.memory import InsertCopies
from passes.memory.replacement import (
    Operator,
    Replacement,
    ReplacementError,
    ReplacementProblem,
    Role,
    Stay,
    Tensor,
    check,
    divide_and_conquer,
    exact,
    greedy,
    problem_of,
)
from passes.memory.replacement.cache import without_gaps
from passes.memory.replacement.cells import cells_of
from passes.memory.replacement.ilp import decide, widest_windows
from passes.memory.replacement.problem import touched_at, traffic
from passes.memory.replacement.states import States
from passes.memory.replacement.stays import unplaced
from tensorc.ir import parse_graph
from tensorc.pipeline import run_passes

# Problems ------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn, most: int = 5) -> ReplacementProblem:
    """Operators that read inputs and what others made, and write a tensor of their own or a part of an earlier one.
    There is room for the largest of them and hardly more."""
    roles = [Role.INPUT] * draw(st.integers(0, 2))
    sizes = [draw(st.integers(1, 4)) for _ in roles]
    operators: list[Operator] = []
    writers: dict[int, list[int]] = {}
    for step in range(draw(st.integers(1, most))):
        reads = draw(st.sets(st.integers(0, len(sizes) - 1), max_size=3)) if sizes else set()
        parts = sorted(t for t in writers if t not in reads)
        if parts and draw(st.integers(0, 4)) == 0:
            tensor = draw(st.sampled_from(parts))
            if any(tensor in operator.reads for operator in operators):
                tensor = -1  # what was read is whole
        else:
            tensor = -1
        if tensor < 0:
            tensor = len(sizes)
            sizes.append(draw(st.integers(1, 4)))
            roles.append(draw(st.sampled_from([Role.INSIDE, Role.INSIDE, Role.OUTPUT])))
        after = sorted({writer for read in reads for writer in writers.get(read, [])})
        writers.setdefault(tensor, []).append(step)
        operators.append(Operator(f"op{step}", tuple(sorted(reads)), (tensor,), tuple(after)))
    tensors = tuple(Tensor(f"t{i}", 64 * size, role) for i, (size, role) in enumerate(zip(sizes, roles, strict=True)))
    unlimited = ReplacementProblem(tensors, tuple(operators), 10**6)
    return replace(unlimited, capacity=unlimited.smallest_capacity + 64 * draw(st.integers(0, 3)))


def fewest_bytes(problem: ReplacementProblem) -> int:
    """By trying all orders and all that can be kept; addresses left aside."""
    best = 10**9
    for order in permutations(range(len(problem.operators))):
        if any(order.index(a) > order.index(b) for b, op in enumerate(problem.operators) for a in op.after):
            continue
        times = touched_at(problem, order)
        for kept in product(*([False, True] for at in times for _ in at[1:])):
            rest = iter(kept)
            stays = unplaced(problem, order, [[next(rest) for _ in at[1:]] for at in times])
            here = [
                sum(problem.tensors[s.tensor].size for s in stays if s.first <= time <= s.last)
                for time in range(len(order))
            ]
            if max(here) <= problem.capacity:
                best = min(best, traffic(problem, stays) - problem.compulsory)
    return best


@settings(max_examples=100, deadline=None)
@given(problems())
def test_nothing_moves_fewer_bytes(problem):
    best = fewest_bytes(problem)
    decision, bound = decide(problem, widest_windows(problem), 10)
    assert bound == best
    assert traffic(problem, unplaced(problem, decision.order, decision.keeps)) - problem.compulsory == best
    decision, cost = States(problem).search(10**9, 10**6)
    assert cost == best
    assert traffic(problem, unplaced(problem, decision.order, decision.keeps)) - problem.compulsory == best
    assert States(problem).search(best, 10**6) == (None, best)
    assert decide(problem, widest_windows(problem), 10, best) == (None, best)
    solved = exact(problem)
    assert solved.lower_bound == best <= solved.extra == check(problem, solved.replacement)


@settings(max_examples=40, deadline=None)
@given(problems(8))
def test_all_solutions_work(problem):
    best, divided, first = exact(problem), divide_and_conquer(problem), greedy(problem)
    for solved in (best, divided, first):
        assert solved.extra == check(problem, solved.replacement) >= best.lower_bound
    assert best.lower_bound <= min(divided.extra, without_gaps(problem))
    if problem.capacity >= sum(tensor.size for tensor in problem.tensors):
        assert best.extra == first.extra == 0


@settings(max_examples=100, deadline=None)
@given(problems(12))
def test_cells_have_all_operators_and_the_bytes_of_the_whole(problem):
    cells = cells_of(problem)
    inside = [cell.operators[min(number, 1) :] for number, cell in enumerate(cells)]
    assert sorted(step for steps in inside for step in steps) == list(range(len(problem.operators)))
    parts = [States(cell.problem).search(10**9, 10**6)[1] for cell in cells]
    assert sum(parts) == States(problem).search(10**9, 10**6)[1]


def chain_of_blocks(count: int) -> ReplacementProblem:
    """Each block reads what comes in at its begin and at its end; within it is four times as wide."""
    tensors, operators = [Tensor("in", 64, Role.INPUT)], []
    entry, after = 0, ()
    for _ in range(count):
        first = len(tensors)
        for i, (reads, size) in enumerate([((entry,), 256), ((first,), 256), ((first + 1, entry), 64)]):
            step = len(operators)
            tensors.append(Tensor(f"t{first + i}", size))
            operators.append(Operator(f"op{step}", reads, (first + i,), after))
            after = (step,)
        entry = len(tensors) - 1
    tensors[-1] = replace(tensors[-1], role=Role.OUTPUT)
    return ReplacementProblem(tuple(tensors), tuple(operators), 512)


def test_blocks_are_cells():
    problem = chain_of_blocks(30)
    assert len(cells_of(problem)) >= 30
    # What goes past each block has to be stored, but for the input, and fetched again.
    solved = exact(problem)
    assert solved.extra == solved.lower_bound == 64 + 29 * 128
    assert divide_and_conquer(problem).extra == solved.extra <= greedy(problem).extra


def test_the_order_saves_what_no_replacement_can():
    # Two chains that swell and shrink, given step by step in turn: one after the other they fit.
    tensors = [Tensor("x", 64, Role.INPUT)]
    operators = []
    for i in range(2):
        tensors += [Tensor(f"wide{i}", 512), Tensor(f"narrow{i}", 64)]
    operators += [Operator(f"swell{i}", (0,), (1 + 2 * i,), ()) for i in range(2)]
    operators += [Operator(f"shrink{i}", (1 + 2 * i,), (2 + 2 * i,), (i,)) for i in range(2)]
    tensors.append(Tensor("y", 64, Role.OUTPUT))
    operators.append(Operator("join", (2, 4), (5,), (2, 3)))
    problem = ReplacementProblem(tuple(tensors), tuple(operators), 640)
    assert greedy(problem).extra > 0
    assert exact(problem).extra == divide_and_conquer(problem).extra == 0
    windows = [(i, i) for i in range(5)]
    assert decide(problem, windows, 10)[1] > 0


def test_what_is_too_large_is_refused():
    with pytest.raises(ValueError, match=r"operator join needs 192 bytes of a fast memory that has 128"):
        ReplacementProblem(
            (Tensor("a", 64, Role.INPUT), Tensor("b", 64, Role.INPUT), Tensor("c", 64, Role.OUTPUT)),
            (Operator("join", (0, 1), (2,), ()),),
            128,
        )


# The checker ---------------------------------------------------------------------------------------------------


@pytest.fixture
def spilling() -> tuple[ReplacementProblem, Replacement]:
    problem = chain_of_blocks(2)
    return problem, exact(problem).replacement


def test_every_change_of_a_solution_is_found(spilling):
    problem, solution = spilling
    assert check(problem, solution) == 64 + 128
    found = 0
    for number, stay in enumerate(solution.stays):
        others = (*solution.stays[:number], *solution.stays[number + 1 :])
        changed = [
            replace(stay, offset=-64),
            replace(stay, offset=problem.capacity),
            replace(stay, fetched=not stay.fetched),
            replace(stay, first=stay.first - 1) if stay.first else replace(stay, first=-1),
            replace(stay, last=len(solution.order)),
            replace(stay, tensor=(stay.tensor + 1) % len(problem.tensors)),
        ]
        if stay.stored:
            changed.append(replace(stay, stored=False))
        if stay.last > stay.first:
            changed += [replace(stay, first=stay.first + 1), replace(stay, last=stay.last - 1)]
        stays = [(*others, new) for new in changed] + [others, (*others, stay, stay)]
        for wrong in stays:
            try:
                extra = check(problem, replace(solution, stays=wrong))
            except ReplacementError:
                found += 1
                continue
            # What still works moves as much, or more, or had time to spare.
            assert extra >= 192
    assert found > 8 * len(solution.stays)


def test_what_overlaps_is_found(spilling):
    problem, solution = spilling
    for a, b in combinations(range(len(solution.stays)), 2):
        one, other = solution.stays[a], solution.stays[b]
        if max(one.first, other.first) <= min(one.last, other.last):
            stays = list(solution.stays)
            stays[a] = replace(one, offset=min(other.offset, problem.capacity - problem.tensors[one.tensor].size))
            with pytest.raises(ReplacementError, match="overlap"):
                check(problem, replace(solution, stays=tuple(stays)))


def test_orders_are_checked(spilling):
    problem, solution = spilling
    for order, message in (((0, 1), "once"), ((1, 0, 2, 3, 4, 5), "before"), ((0, 0, 2, 3, 4, 5), "once")):
        with pytest.raises(ReplacementError, match=message):
            check(problem, replace(solution, order=order))


def test_what_was_written_again_is_not_what_was_stored():
    problem = ReplacementProblem(
        (Tensor("parts", 64), Tensor("y", 64, Role.OUTPUT)),
        (Operator("a", (), (0,), ()), Operator("b", (), (0,), ()), Operator("c", (0,), (1,), (0, 1))),
        128,
    )
    y = Stay(1, 2, 2, 64, False, True)
    first, second, third = (Stay(0, t, t, 0, t > 0, True) for t in range(3))
    assert check(problem, Replacement((0, 1, 2), (first, second, replace(third, stored=False), y))) == 4 * 64
    with pytest.raises(ReplacementError, match="fetched and was not stored"):
        check(problem, Replacement((0, 1, 2), (first, replace(second, stored=False), third, y)))


# Graphs --------------------------------------------------------------------------------------------------------


def test_a_graph_is_a_problem():
    graph = parse_graph("""
        graph @main(%x: f32[16,4], %w: f32[4,16]) {
          %c = constant splat 1.0 : f32[16,4]
          %a = matmul(%x, %w) : f32[16,16]
          %b = matmul(%a, %c) : f32[16,4]
          %d = exp(%b) : f32[16,4]
          %0 = concat(%d, %b) {axis=0} : f32[32,4]
          %1 = matmul(%0, %w) : f32[32,16]
          return %1
        }""")
    run_passes(graph, [FuseGroups(), InsertCopies()])
    problem = problem_of(graph, lambda smallest: smallest + 64)
    assert [tensor.role for tensor in problem.tensors].count(Role.INPUT) == 3
    assert problem.capacity == problem.smallest_capacity + 64 == 512 + 256 + 2048 + 64
    assert problem.compulsory == 256 + 256 + 256 + 2048
    assert exact(problem).extra == 0
    streamed = problem_of(graph, 10**6, weights=False)
    assert len(streamed.tensors) == len(problem.tensors) - 1
