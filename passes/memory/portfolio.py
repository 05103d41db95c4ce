"""All planners by name, and the one that lets them take turns."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from passes.memory import cpsat, exact, game, greedy
from passes.memory.bounds import conclude, lower_bound
from passes.memory.problem import Offsets, Plan, Problem, Status
from tensorc.errors import UserError

Solver = Callable[[Problem, float, int], Plan]

#: What `quick_offsets` may do beyond one greedy plan: pairs of buffers compared, and nodes times buffers.
_QUICK_PAIRS = 1_000_000
_QUICK_WORK = 800_000

#: Who is asked after greedy planning, and for how much of the time that is left then.
_TURNS = (("exact", 0.5), ("cpsat", 0.8), ("game", 1.0))
_LEAST_SECONDS = 0.01


def solve(problem: Problem, seconds: float = 60, seed: int = 0) -> Plan:
    """Greedy plans first, most often as low as the bound; then `_TURNS` until one is, or fits. What CP-SAT solves of
    what exact search does not is worth its turn, and the game has the lowest plans where neither gets through."""
    start = time.monotonic()
    best = solve_greedily(problem)
    for name, share in _TURNS:
        left = seconds - (time.monotonic() - start)
        if best.status in (Status.SOLVED, Status.INFEASIBLE) or left < _LEAST_SECONDS:
            break
        with contextlib.suppress(UserError):  # no OR-Tools, no C compiler: the others have more time
            best = _better(problem, best, SOLVERS[name](problem, share * left, seed))
    return replace(best, seconds=time.monotonic() - start)


def _better(problem: Problem, best: Plan, other: Plan) -> Plan:
    """What is known of both."""
    bound = max(best.lower_bound, other.lower_bound)
    chosen = min((plan for plan in (best, other) if plan.height is not None), key=lambda plan: plan.height or 0)
    return conclude(problem, chosen.offsets, chosen.solver, 0.0, bound)


def solve_greedily(problem: Problem, _seconds: float = 60, _seed: int = 0) -> Plan:
    """The best of all orders."""
    start = time.monotonic()
    name, offsets = greedy.best(problem)
    return conclude(problem, offsets, f"greedy by {name}", time.monotonic() - start)


def solve_exactly(problem: Problem, seconds: float = 60, seed: int = 0) -> Plan:
    """Exact search alone; where there is no capacity, it needs a plan to begin from, which is a greedy one."""
    start = time.monotonic()
    offsets = None if problem.capacity is not None else greedy.best(problem)[1]
    return _exact(problem, start, seconds, seed, offsets)


def quick_offsets(problem: Problem) -> Offsets:
    """A plan of little height in little time, always the same one: the compiler's default."""
    _, best = greedy.best(problem, _QUICK_PAIRS)
    bound = lower_bound(problem)
    nodes = _QUICK_WORK // max(len(problem.buffers), 1)
    if problem.height(best) > bound and nodes >= 2 * len(problem.buffers):  # fewer do not reach the last buffer
        with contextlib.suppress(UserError):  # no C compiler: the greedy plan is as valid
            best, _ = _lower(problem, best, bound, most_nodes=nodes)
    return best


def _exact(problem: Problem, start: float, seconds: float, seed: int, best: Offsets | None) -> Plan:
    bound = lower_bound(problem)
    deadline = start + seconds

    def concluded() -> Plan:
        return conclude(problem, best, "exact", time.monotonic() - start, bound)

    if concluded().status in (Status.SOLVED, Status.INFEASIBLE):
        return concluded()
    if problem.capacity is not None:
        answer = exact.search(problem, deadline - time.monotonic(), seed=seed)
        if answer.offsets is not None:
            best = answer.offsets
        elif answer.status is Status.INFEASIBLE:
            bound = problem.capacity + 1
        return concluded()
    assert best is not None
    best, bound = _lower(problem, best, bound, deadline, seed=seed)
    return concluded()


def _lower(
    problem: Problem,
    best: Offsets,
    bound: int,
    deadline: float | None = None,
    most_nodes: int | None = None,
    seed: int = 0,
) -> tuple[Offsets, int]:
    """A lower plan and a higher bound: search goes on until they meet or what there is of time or nodes is used up.

    The bound itself is tried first and gets half of it; where that stays open, the middle between it and the best.
    """
    unit = math.gcd(*(b.size for b in problem.buffers), *(b.alignment for b in problem.buffers))
    target, failed = bound, bound - unit  # of `failed` nothing is known, or that it is too low
    while bound < problem.height(best):
        seconds = (deadline - time.monotonic()) / 2 if deadline is not None else math.inf
        if most_nodes is not None:
            most_nodes //= 2
        if seconds < 0.01 or most_nodes == 0 or not failed < target < problem.height(best):
            break
        answer = exact.search(problem.within(target), seconds, most_nodes, seed)
        if answer.offsets is not None:
            best = answer.offsets
        else:
            failed = target
            if answer.status is Status.INFEASIBLE:
                bound = target + unit
        target = failed + max((problem.height(best) - failed) // (2 * unit), 1) * unit
    return best, bound


SOLVERS: Mapping[str, Solver] = {
    "portfolio": solve,
    "greedy": solve_greedily,
    "exact": solve_exactly,
    "cpsat": cpsat.solve,
    "game": game.solve,
}
