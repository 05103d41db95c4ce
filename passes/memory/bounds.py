"""What no plan can be lower than."""

from __future__ import annotations

import math

from passes.memory.problem import Problem, sections


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
