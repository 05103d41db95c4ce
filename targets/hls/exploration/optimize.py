"""From a network to the program that is best for an objective: search by costs, then the exact figures of what it
found.

Costs leave out what only a program shows: how deep FIFOs must be, and what is left of a datapath where numbers are
known. If a program is above a cap when it is made, the search is done again with so much less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from targets.hls.exploration.intar import Choice, cycles_for
from targets.hls.exploration.search import NAMES, Found, NoRoomError, Point, Search
from targets.hls.hardware.estimate import estimate
from targets.hls.hardware.pipeline import Design, designs_of
from targets.hls.hardware.resources import Resources
from targets.hls.hardware.timing import Timing, depths, timing_of, with_depths
from targets.hls.layers.network import Network, program_of
from targets.hls.parts import Part
from targets.hls.program import Program
from targets.hls.schedule import Schedule, depths_of
from tensorc.options import Objective

_TRIES = 6
#: Cores are worth it if an image takes no more than this share of the cycles.
_SOONER = 0.95
#: Layers that multiply, from which on plans of cores are not looked for: where there is another design, and where not.
_FEW_LAYERS, _MANY_LAYERS = 12, 24
#: Plans of cores that are built.
_PLANS = 3
#: The share of the latency that is given for a smaller design.
_GIVEN = 0.005


@dataclass(frozen=True)
class Optimum:
    """`timing` and `used` are of the program, which `schedule` makes of a network; `front` is by costs."""

    schedule: Schedule
    program: Program
    designs: tuple[Design, ...]
    timing: Timing
    used: Resources
    front: list[Point]


def optimum(network: Network, part: Part, objective: Objective, name: str) -> Optimum:
    """Every layer beside the others, with weights on the chip where there is room for them; layers that take turns on
    shared cores where the latency or the throughput gains by that, or nothing else fits. Raises NoRoomError
    for a network that the part cannot hold."""
    try:
        found = beside(network, part, objective, name)
    except NoRoomError:
        for outside in (False, True):
            shared = _taking_turns(Choice(network, part, outside=outside), objective, name)
            if shared is not None:
                return shared
        raise
    if objective not in ("latency", "throughput"):
        return found
    return _taking_turns(Choice(network, part), objective, name, found) or found


def _taking_turns(choice: Choice, objective: Objective, name: str, other: Optimum | None = None) -> Optimum | None:
    """The best plan of cores, if there is one that is better than another design."""
    limit = math.inf if other is None else _SOONER * cycles_for(objective, other.timing)
    if not 1 < len(choice.layers) <= (_MANY_LAYERS if other is None else _FEW_LAYERS):
        return None
    built = choice.best("mix", name, _PLANS, limit, objective)
    if built is None or cycles_for(objective, built.timing) >= limit:
        return None
    front = other.front if other is not None else []
    return Optimum(built.schedule, built.program, built.designs, built.timing, built.used, front)


def beside(network: Network, part: Part, objective: Objective, name: str) -> Optimum:
    """The best design in which no layers take turns. Weights lie outside the chip only if they must."""
    try:
        return _optimum(Search(network, part), objective, name)
    except NoRoomError:
        return _optimum(Search(network, part, outside=True), objective, name)


def _optimum(search: Search, objective: Objective, name: str) -> Optimum:
    part, less = search.part, Resources()
    for _ in range(_TRIES):
        found, program, designs = _quickest(search, objective, less, name)
        used = estimate(program, designs, part)
        if _fits(used, part):  # without what FIFOs need: it is known when all of them were tried
            program = with_depths(program, depths(program, designs))
            used = estimate(program, designs, part)
        if _fits(used, part):
            schedule = Schedule(program.name, found.unrolls, depths_of(program), part.port)
            return Optimum(schedule, program, designs, timing_of(program, designs), used, search.front(less))
        less += Resources(**{each: max(getattr(used, each) - getattr(part.budget, each), 0) for each in NAMES})
    raise NoRoomError(search, less)


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
    program = program_of(search.network, found.unrolls, name, search.part.port)
    return found, program, designs_of(program)


def _unbounded(program: Program, designs: tuple[Design, ...]) -> Timing:
    """With FIFOs that are never full."""
    return timing_of(program, designs, {channel.name: channel.count for channel in program.channels}, images=1)
