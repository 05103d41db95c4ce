"""All planners by name, and the one that chooses among them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from importlib import import_module

from passes.memory import exact, greedy
from passes.memory.bounds import lower_bound
from passes.memory.problem import Offsets, Plan, Problem, Status
from tensorc.errors import UserError

Solver = Callable[[Problem, float, int], Plan]

#: What `quick_offsets` may do beyond one greedy plan: pairs of buffers compared, and nodes times buffers.
_QUICK_PAIRS = 1_000_000
_QUICK_WORK = 800_000


def solve(problem: Problem, seconds: float = 60, seed: int = 0) -> Plan:
    """Greedy plans first, most often as low as the bound; exact search for what is left of the time."""
    start = time.monotonic()
    name, best = greedy.best(problem)
    return _exact(problem, start, seconds, seed, best, f"greedy by {name}")


def solve_greedily(problem: Problem, _seconds: float = 60, _seed: int = 0) -> Plan:
    """The best of all orders."""
    start = time.monotonic()
    name, offsets = greedy.best(problem)
    return conclude(problem, offsets, f"greedy by {name}", time.monotonic() - start)


def solve_exactly(problem: Problem, seconds: float = 60, seed: int = 0) -> Plan:
    """Exact search alone; where there is no capacity, it needs a plan to begin from, which is a greedy one."""
    start = time.monotonic()
    offsets = None if problem.capacity is not None else greedy.best(problem)[1]
    return _exact(problem, start, seconds, seed, offsets, "exact")


def conclude(problem: Problem, offsets: Offsets | None, solver: str, seconds: float, bound: int | None = None) -> Plan:
    """What is known once `offsets` is the best that was found and nothing can be lower than `bound`."""
    bound = max(lower_bound(problem), bound or 0)
    height = None if offsets is None else problem.height(offsets)
    if problem.capacity is not None and bound > problem.capacity:
        status = Status.INFEASIBLE
    elif height is None or (problem.capacity is not None and height > problem.capacity):
        status = Status.UNKNOWN
    elif problem.capacity is not None or height <= bound:
        status = Status.SOLVED
    else:
        status = Status.FEASIBLE
    return Plan(status, offsets, height, bound, solver, seconds)


def quick_offsets(problem: Problem) -> Offsets:
    """A plan of little height in little time, always the same one: the compiler's default."""
    _, best = greedy.best(problem, _QUICK_PAIRS)
    bound = lower_bound(problem)
    nodes = _QUICK_WORK // max(len(problem.buffers), 1)
    if problem.height(best) > bound and nodes >= 2 * len(problem.buffers):  # fewer do not reach the last buffer
        with contextlib.suppress(UserError):  # no C compiler: the greedy plan is as valid
            best, _ = _lower(problem, best, bound, most_nodes=nodes)
    return best


def _exact(problem: Problem, start: float, seconds: float, seed: int, best: Offsets | None, solver: str) -> Plan:
    bound = lower_bound(problem)
    deadline = start + seconds

    def concluded() -> Plan:
        return conclude(problem, best, solver, time.monotonic() - start, bound)

    if concluded().status in (Status.SOLVED, Status.INFEASIBLE):
        return concluded()
    if problem.capacity is not None:
        answer = exact.search(problem, deadline - time.monotonic(), seed=seed)
        if answer.offsets is not None:
            best, solver = answer.offsets, "exact"
        elif answer.status is Status.INFEASIBLE:
            bound = problem.capacity + 1
        return concluded()
    assert best is not None
    lower, bound = _lower(problem, best, bound, deadline, seed=seed)
    if lower != best:
        best, solver = lower, "exact"
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


def _lazily(module: str) -> Solver:
    """The `solve` of a module with needs of its own."""

    def run(problem: Problem, seconds: float = 60, seed: int = 0) -> Plan:
        solver: Solver = import_module(f"passes.memory.{module}").solve
        return solver(problem, seconds, seed)

    return run


SOLVERS: Mapping[str, Solver] = {
    "portfolio": solve,
    "greedy": solve_greedily,
    "exact": solve_exactly,
    "cpsat": _lazily("cpsat"),
    "game": _lazily("game"),
}
