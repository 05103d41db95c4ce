"""The problem that every planner solves: buffers with a lifetime each, and a memory space to put them in.

Time and bytes are whole numbers of any unit. What a buffer holds, and for whom, is not known here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

Offsets = tuple[int, ...]


@dataclass(frozen=True)
class Buffer:
    """`size` bytes needed at times lower <= t < upper, at an offset that `alignment` divides."""

    lower: int
    upper: int
    size: int
    alignment: int = 1

    def __post_init__(self) -> None:
        if self.lower >= self.upper:
            raise ValueError(f"a buffer's lifetime [{self.lower}, {self.upper}) is empty")
        if self.size < 1 or self.alignment < 1:
            raise ValueError(f"a buffer's size {self.size} and alignment {self.alignment} must be 1 or more")

    def meets(self, other: Buffer) -> bool:
        """Both live at one time."""
        return self.lower < other.upper and other.lower < self.upper


@dataclass(frozen=True)
class MemorySpace:
    """`capacity` in bytes, None where there is always enough; `bandwidth` in bytes a second, where it is known."""

    name: str = "memory"
    capacity: int | None = None
    bandwidth: float | None = None


@dataclass(frozen=True)
class Problem:
    """Find an offset for each buffer so that those that live at one time lie apart: below the capacity of `space` if it
    has one, else with the least height."""

    buffers: tuple[Buffer, ...]
    space: MemorySpace = MemorySpace()

    @classmethod
    def of(cls, buffers: Iterable[Buffer], capacity: int | None = None) -> Problem:
        return cls(tuple(buffers), MemorySpace(capacity=capacity))

    @property
    def capacity(self) -> int | None:
        return self.space.capacity

    def within(self, capacity: int | None) -> Problem:
        return replace(self, space=replace(self.space, capacity=capacity))

    def height(self, offsets: Sequence[int]) -> int:
        """The first byte above all buffers."""
        return max((o + b.size for o, b in zip(offsets, self.buffers, strict=True)), default=0)


class Status(enum.Enum):
    """What is known of a plan: of a problem with a capacity whether it fits, of one without whether it is the best."""

    SOLVED = "solved"  # within the capacity; without one, proven to have the least height
    FEASIBLE = "feasible"  # valid, and no capacity was asked for
    INFEASIBLE = "infeasible"  # proven: nothing fits the capacity
    UNKNOWN = "unknown"  # neither found nor proven in time


@dataclass(frozen=True)
class Plan:
    """`offsets` is the lowest plan that was found, None if there is none; where the status is INFEASIBLE or UNKNOWN it
    is valid but higher than the capacity. No plan is lower than `lower_bound`. `solver` names who found it."""

    status: Status
    offsets: Offsets | None
    height: int | None
    lower_bound: int
    solver: str
    seconds: float

    @property
    def gap(self) -> float | None:
        """How far the height may be above the least one, as a share of the bound."""
        if self.height is None:
            return None
        return self.height / self.lower_bound - 1 if self.lower_bound else 0.0


def sections(buffers: Sequence[Buffer]) -> tuple[list[int], list[tuple[int, int]]]:
    """The times at which the most buffers live, and which of these each buffer lives through, as a half-open range.

    No set of buffers that live at one time is missing: each is part of one of these, the maximal cliques.
    """
    starts, ends = {b.lower for b in buffers}, {b.upper for b in buffers}
    times: list[int] = []
    fresh = False
    for time, following in pairwise(sorted(starts | ends)):
        fresh |= time in starts
        if fresh and following in ends:
            times.append(time)
            fresh = False
    index = {time: number for number, time in enumerate(times)}
    # The first section at or after each border: lifetimes are half-open, as are the ranges.
    at: dict[int, int] = {}
    number = len(times)
    for time in sorted(starts | ends, reverse=True):
        number = index.get(time, number)
        at[time] = number
    return times, [(at[b.lower], at[b.upper]) for b in buffers]
