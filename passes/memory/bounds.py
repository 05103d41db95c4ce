"""What no plan can be lower than, and what a plan is worth by that."""

from __future__ import annotations

import math

from passes.memory.problem import Offsets, Plan, Problem, Status, sections


def lower_bound(problem: Problem) -> int:
    """The most that is live at one time, with what alignment loses even then.

    Where every offset is a multiple of `unit`, each buffer but the topmost fills whole units.
    """
    buffers = problem.buffers
    unit = math.gcd(*(b.alignment for b in buffers)) if buffers else 1
    times, ranges = sections(buffers)
    load, topmost = [0] * len(times), [0] * len(times)
    for buffer, (first, last) in zip(buffers, ranges, strict=True):
        lost = -buffer.size % unit
        for section in range(first, last):
            load[section] += buffer.size + lost
            topmost[section] = max(topmost[section], lost)
    return max((total - lost for total, lost in zip(load, topmost, strict=True)), default=0)


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
