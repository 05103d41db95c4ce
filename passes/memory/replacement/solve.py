"""The ways to solve the problem, which give solutions of one kind, checked, with what is known to be impossible."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from passes.memory.ordering import best_ordering
from passes.memory.replacement.cache import least_recently_used
from passes.memory.replacement.cells import Cell, cells_of, joined
from passes.memory.replacement.ilp import Decision, Window, decide, widest_windows
from passes.memory.replacement.problem import Replacement, ReplacementProblem, check, traffic
from passes.memory.replacement.states import States
from passes.memory.replacement.stays import placed, unplaced

#: Operators whose order is free at one time, where the order of all is too much.
_BLOCK = 10
_BEAMS = (1, 8, 64)
#: Of a search through states; so many take some seconds.
_MOVES = 400_000


@dataclass(frozen=True)
class Solved:
    """`extra` is what the solution moves beyond the compulsory bytes; `lower_bound` what no solution is below, 0 where
    nothing is known."""

    replacement: Replacement
    extra: int
    lower_bound: int


def greedy(problem: ReplacementProblem) -> Solved:
    """The baseline: the order that is given, and the least recently used leaves."""
    solution = least_recently_used(problem)
    return Solved(solution, check(problem, solution), 0)


def exact(problem: ReplacementProblem, seconds: float = 60.0) -> Solved:
    """The best, as far as the time allows: then `extra` is `lower_bound`. What has no end in time is divided."""
    return _solved(problem, seconds, _exactly)


def divide_and_conquer(problem: ReplacementProblem, seconds: float = 60.0) -> Solved:
    """The best replacement in the order that holds the fewest bytes at its peak, then the best orders of few operators
    at a time, again and again until there is nothing more to gain."""
    return _solved(problem, seconds, _by_blocks)


@dataclass(frozen=True)
class _Part:
    """A decision for a cell, the bytes beyond the compulsory ones that it moves, and the bound of these."""

    decision: Decision
    extra: int
    bound: int


def _solved(problem: ReplacementProblem, seconds: float, method: Callable[[Cell, float], _Part]) -> Solved:
    end = time.monotonic() + seconds
    parts: dict[int, _Part] = {}
    cells = cells_of(problem)
    # What the small ones leave of their time, the large ones have.
    for rank, number in enumerate(sorted(range(len(cells)), key=lambda i: len(cells[i].operators))):
        share = (end - time.monotonic()) / (len(cells) - rank)
        parts[number] = method(cells[number], max(share, 1.0))
    ordered = [parts[number] for number in range(len(cells))]
    decision = joined(problem, cells, [part.decision for part in ordered])
    solution = placed(problem, decision.order, decision.keeps)
    return Solved(solution, check(problem, solution), sum(part.bound for part in ordered))


def _exactly(cell: Cell, seconds: float) -> _Part:
    """All states while they are few, then all orders at once, when it is known what is to be beaten."""
    end = time.monotonic() + seconds
    problem = cell.problem
    best = _by_blocks(cell, seconds / 2)
    if best.extra > best.bound:
        decision, bound = States(problem).search(best.extra, _MOVES)
        best = _better(problem, best, decision, bound)
    if best.extra > best.bound and (left := end - time.monotonic()) > 0:
        decision, bound = decide(problem, widest_windows(problem), left, best.extra)
        best = _better(problem, best, decision, bound)
    return best


def _by_blocks(cell: Cell, seconds: float) -> _Part:
    end = time.monotonic() + seconds
    problem = cell.problem
    steps = len(problem.operators)
    ordering = best_ordering(problem.flow)
    if ordering.peak <= problem.capacity:
        keeps = [[True] * (touchers.bit_count() - 1) for touchers in problem.flow.touchers]
        return _Part(Decision(ordering.order, keeps), 0, 0)
    best = min(
        (_in_order(problem, order, end) for order in (tuple(range(steps)), ordering.order)), key=lambda p: p.extra
    )
    states = States(problem)
    for width in _BEAMS:
        best = _better(problem, best, states.beam(width, best.extra, _MOVES))
    improved = True
    while improved and best.extra:
        improved = False
        for first in range(0, max(steps - _BLOCK // 2, 1), _BLOCK // 2):
            left = end - time.monotonic()
            if left <= 0:
                return best
            decision, _ = decide(problem, _block(problem, best.decision.order, first, first + _BLOCK), left, best.extra)
            improved |= decision is not None
            best = _better(problem, best, decision)
    return best


def _better(problem: ReplacementProblem, part: _Part, decision: Decision | None, bound: int = 0) -> _Part:
    other = part if decision is None else _part(problem, decision)
    best = min(part, other, key=lambda p: p.extra)
    return _Part(best.decision, best.extra, min(max(bound, part.bound), best.extra))


def _in_order(problem: ReplacementProblem, order: tuple[int, ...], end: float) -> _Part:
    windows: list[Window] = [(0, 0)] * len(order)
    for place, step in enumerate(order):
        windows[step] = place, place
    decision, _ = decide(problem, windows, max(end - time.monotonic(), 1.0))
    if decision is None:
        decision = Decision(order, [[False] * max(t.bit_count() - 1, 0) for t in problem.flow.touchers])
    return _part(problem, decision)


def _part(problem: ReplacementProblem, decision: Decision) -> _Part:
    extra = traffic(problem, unplaced(problem, decision.order, decision.keeps)) - problem.compulsory
    return _Part(decision, extra, 0)


def _block(problem: ReplacementProblem, order: tuple[int, ...], first: int, end: int) -> list[Window]:
    """The operators from `first` to before `end` in the order are free among themselves."""
    flow = problem.flow
    block = sum(1 << step for step in order[first:end])
    windows: list[Window] = [(0, 0)] * len(order)
    last = min(end, len(order)) - 1
    for place, step in enumerate(order):
        windows[step] = place, place
        if first <= place < end:
            before, behind = flow.ancestors[step] & block, flow.descendants[step] & block
            windows[step] = first + before.bit_count(), last - behind.bit_count()
    return windows
