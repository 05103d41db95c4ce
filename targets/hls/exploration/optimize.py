"""From a network to the program that is best for an objective: search by costs, then the exact figures of what it
found.

Costs leave out what only a program shows: how deep FIFOs must be, and what is left of a datapath where numbers are
known. If a program is above a cap when it is made, the search is done again with so much less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from targets.hls.exploration.intar import Choice, cycles_for
from targets.hls.exploration.search import NAMES, Found, NoRoomError, Point, Search
from targets.hls.exploration.tasks import shared
from targets.hls.hardware.clock import CLOCK
from targets.hls.hardware.estimate import estimate
from targets.hls.hardware.pipeline import Design, designs_of
from targets.hls.hardware.resources import Resources
from targets.hls.hardware.timing import Timing, depths, timing_of, with_depths
from targets.hls.layers.network import Network, program_of
from targets.hls.parts import Part
from targets.hls.program import Program
from targets.hls.schedule import Schedule, depths_of
from tensorc.errors import UserError
from tensorc.options import Objective

_TRIES = 6
#: Cores are worth it if an image takes no more than this share of the cycles.
_SOONER = 0.95
#: Layers that multiply, from which on plans of cores are not looked for: where there is another design, and where not.
_FEW_LAYERS, _MANY_LAYERS = 12, 24
#: Plans of cores that are built.
_PLANS = 3
#: Designs within a limit of the latency that are made to know it.
_LOOKED_AT = 12
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


def optimum(network: Network, part: Part, objective: Objective, name: str, clock: float = CLOCK,
            max_latency: int | None = None) -> Optimum:  # fmt: skip
    """Every layer beside the others, with weights on the chip where there is room for them; layers that take turns on
    shared cores where the latency or the throughput gains by that, or nothing else fits. `max_latency`: cycles that an
    image may take, of a design for `resources`. Raises UserError, with the reason and what would hold it, for a network
    that the part cannot."""
    try:
        found = beside(network, part, objective, name, clock, max_latency)
    except UserError:
        limit = math.inf if max_latency is None else max_latency + 1
        for outside in (False, True):
            turns = _taking_turns(Choice(network, part, clock=clock, outside=outside), objective, name, limit)
            if turns is not None:
                return turns
        raise
    if objective not in ("latency", "throughput"):
        return found
    limit = _SOONER * cycles_for(objective, found.timing)
    return _taking_turns(Choice(network, part, clock=clock), objective, name, limit, found.front) or found


def _taking_turns(
    choice: Choice, objective: Objective, name: str, limit: float, front: Sequence[Point] | None = None
) -> Optimum | None:
    """The best plan of cores that takes fewer cycles than `limit`, if there is one; `front` is that of another design,
    where there is one."""
    if not 1 < len(choice.layers) <= (_MANY_LAYERS if front is None else _FEW_LAYERS):
        return None
    built = choice.best("mix", name, _PLANS, limit, objective)
    if built is None or cycles_for(objective, built.timing) >= limit:
        return None
    return Optimum(built.schedule, built.program, built.designs, built.timing, built.used, [*(front or [])])


def beside(network: Network, part: Part, objective: Objective, name: str, clock: float = CLOCK,
           max_latency: int | None = None) -> Optimum:  # fmt: skip
    """The best design in which no layers take turns. Weights lie outside the chip only if they must."""
    try:
        return _optimum(Search(network, part, clock), objective, name, max_latency)
    except UserError:
        return _optimum(Search(network, part, clock, outside=True), objective, name, max_latency)


def _optimum(search: Search, objective: Objective, name: str, max_latency: int | None) -> Optimum:
    part, less = search.part, Resources()
    for _ in range(_TRIES):
        best = None
        for found, program, designs in _designs(search, objective, less, name, max_latency):
            one = _finished(search, found, program, designs, objective, less, max_latency)
            used = one.used
            if _fits(used, part) and (max_latency is None or one.timing.latency <= max_latency) and (
                best is None or search.share(used) < search.share(best.used)
            ):  # fmt: skip
                best = one
        if best is not None:
            return best
        if max_latency is not None:
            raise UserError(f"{name}: no design was found that takes at most {max_latency:,} cycles and has room on "
                            f"{part.name}: --objective latency tells the least")  # fmt: skip
        less += Resources(**{each: max(getattr(used, each) - getattr(part.budget, each), 0) for each in NAMES})
    raise NoRoomError(search, less)


def _finished(search: Search, found: Found, program: Program, designs: tuple[Design, ...], objective: Objective,
              less: Resources, max_latency: int | None) -> Optimum:  # fmt: skip
    """With FIFOs as they must be, and a unit for several tasks where that is smaller; as it is where it does not
    fit."""
    part = search.part
    used = estimate(program, designs, part)

    def schedule(program: Program, cores: Mapping[str, Sequence[str]]) -> Schedule:
        return Schedule(program.name, found.unrolls, depths_of(program), search.clock, part.port, cores)

    if not _fits(used, part):
        return Optimum(schedule(program, {}), program, designs, _unbounded(program, designs), used, [])
    program = with_depths(program, depths(program, designs))  # known when all of them were tried
    used = estimate(program, designs, part)
    timing, front = timing_of(program, designs), search.front(less)
    unit = shared(search.network, program, timing, used, part, objective, search.share, max_latency)
    if unit is not None and _fits(unit.used, part):
        cores = schedule(unit.program, unit.cores)
        return Optimum(cores, unit.program, unit.designs, unit.timing, unit.used, front)
    return Optimum(schedule(program, {}), program, designs, timing, used, front)


def _designs(search: Search, objective: Objective, less: Resources, name: str,
             max_latency: int | None) -> Iterator[tuple[Found, Program, tuple[Design, ...]]]:  # fmt: skip
    """Those to be looked at: what is best by its costs, or some that may be within a limit."""
    if max_latency is None:
        yield _quickest(search, objective, less, name)
    else:
        for found in search.within(max_latency, less)[:_LOOKED_AT]:
            yield _made(search, found, name)


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
    program = program_of(search.network, found.unrolls, name, search.clock, search.part.port)
    return found, program, designs_of(program)


def _unbounded(program: Program, designs: tuple[Design, ...]) -> Timing:
    """With FIFOs that are never full."""
    return timing_of(program, designs, {channel.name: channel.count for channel in program.channels}, images=1)
