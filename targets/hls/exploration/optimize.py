"""From a network to the program that is best for an objective: search by costs, then the exact figures of what it
found.

Costs leave out what only a program shows: how deep FIFOs must be, and what is left of a datapath where numbers are
known. If a program is above a cap when it is made, the search is done again with so much less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from targets.hls.exploration.search import NAMES, Found, Point, Search, obstacle
from targets.hls.hardware.clock import CLOCK
from targets.hls.hardware.estimate import estimate
from targets.hls.hardware.pipeline import Design, designs_of
from targets.hls.hardware.resources import Resources
from targets.hls.hardware.timing import Timing, depths, timing_of, with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import Network, program_of
from targets.hls.parts import Part
from targets.hls.program import Program
from tensorc.errors import UserError
from tensorc.options import Objective

_TRIES = 6
#: The share of the latency that is given for a smaller design.
_GIVEN = 0.005


@dataclass(frozen=True)
class Optimum:
    """`timing` and `used` are of the program; `front` is by costs."""

    unrolls: Mapping[str, Unroll]
    program: Program
    designs: tuple[Design, ...]
    timing: Timing
    used: Resources
    front: list[Point]


def optimum(network: Network, part: Part, objective: Objective, name: str, clock: float = CLOCK) -> Optimum:
    """Raises UserError, with the reason and what would hold it, for a network that the part cannot."""
    search = Search(network, part, clock)
    less = Resources()
    for _ in range(_TRIES):
        found, program, designs = _quickest(search, objective, less, name)
        used = estimate(program, designs, part)
        if _fits(used, part):  # without what FIFOs need: it is known when all of them were tried
            program = with_depths(program, depths(program, designs))
            used = estimate(program, designs, part)
        if _fits(used, part):
            return Optimum(found.unrolls, program, designs, timing_of(program, designs), used, search.front(less))
        less += Resources(**{each: max(getattr(used, each) - getattr(part.budget, each), 0) for each in NAMES})
    raise UserError(obstacle(search, less))


def _fits(used: Resources, part: Part) -> bool:
    return all(getattr(used, each) <= getattr(part.budget, each) for each in NAMES)


def _quickest(
    search: Search, objective: Objective, less: Resources, name: str
) -> tuple[Found, Program, tuple[Design, ...]]:
    """What is best by its costs. The latency, which they do not know to the cycle, decides among a few."""
    if objective != "latency":
        return _made(search, search.best(objective, less), name)
    best, least = None, math.inf
    for found in search.quick(less):
        made = _made(search, found, name)
        latency = _unbounded(*made[1:]).latency
        if best is None or latency < (1 - _GIVEN) * least:
            best, least = made, latency
    assert best is not None
    return best


def _made(search: Search, found: Found, name: str) -> tuple[Found, Program, tuple[Design, ...]]:
    program = program_of(search.network, found.unrolls, name, search.clock)
    return found, program, designs_of(program)


def _unbounded(program: Program, designs: tuple[Design, ...]) -> Timing:
    """With FIFOs that are never full."""
    return timing_of(program, designs, {channel.name: channel.count for channel in program.channels}, images=1)
