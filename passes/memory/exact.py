"""Exact search: a plan under a capacity, or the proof that there is none.

A depth-first search over plans in which nothing can be moved down, as in Moffitt, "MiniMalloc: A Lightweight Memory
Allocator for Hardware-Accelerated Machine Learning" (ASPLOS 2023), but decided buffer by buffer instead of offset by
offset: a buffer either stands where it falls now, or something comes below it. Either answer raises the lowest offsets
of others, and those are stacked up in every section of time to see whether they still fit. Parts of time between which
nothing lives on are solved apart. The inner loop is search.c.

What such a search meets first decides whether it takes a thousand nodes or a billion. So it starts again and again with
a different taste (what to try first), chosen at random behind the first few, for Luby's sequence of lengths: "Optimal
Speedup of Las Vegas Algorithms" (1993). The sequence is unbounded, so a proof is found too, in the end. Sections in
which it fails gain weight, which later attempts look at.
"""

from __future__ import annotations

import ctypes
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from passes.memory import native
from passes.memory.problem import Offsets, Problem, Status, sections

#: Nodes of the shortest attempt.
_SHORTEST = 1000
#: Capacities that a 32-bit sum of two holds; in units, so nothing real is larger.
_LARGEST = 1 << 28
#: The search's memory grows with the square.
_MOST_BUFFERS = 4000

_Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Answer:
    """SOLVED with offsets, INFEASIBLE, or UNKNOWN when the time or the nodes were used up."""

    status: Status
    offsets: Offsets | None
    nodes: int


@dataclass(frozen=True)
class Taste:
    """Of buffers that may go to the same offset, the one with the highest sum of these is tried first: powers of its
    lifetime and size, noise, and weights of what search.c says."""

    lifetime: float = 0
    size: float = 0
    noise: float = 0
    critical: bool = False
    flush: float = 0
    level: float = 0
    pressure: float = 0


_TASTES = (
    Taste(lifetime=1, size=1),
    Taste(lifetime=100, size=1),
    Taste(pressure=1),
    Taste(lifetime=0.6, critical=True, flush=2.5, level=1, pressure=0.2),
    Taste(lifetime=1, size=1, critical=True),
    Taste(size=100, lifetime=1),
)


def search(problem: Problem, seconds: float = math.inf, most_nodes: int | None = None, seed: int = 0) -> Answer:
    """Offsets within the problem's capacity. With `most_nodes` and no time limit, always the same answer.

    Raises UserError where there is no C compiler, ValueError if the problem has no capacity.
    """
    if problem.capacity is None:
        raise ValueError("an exact search needs a capacity")
    deadline = time.monotonic() + seconds
    most_nodes = 1 << 62 if most_nodes is None else most_nodes
    if not problem.buffers:
        return Answer(Status.SOLVED, (), 0)
    if any(buffer.size > problem.capacity for buffer in problem.buffers):
        return Answer(Status.INFEASIBLE, None, 0)
    instance = _Instance(problem, problem.capacity)
    if instance.overfull:
        return Answer(Status.INFEASIBLE, None, 0)
    if instance.capacity > _LARGEST or len(problem.buffers) > _MOST_BUFFERS:
        return Answer(Status.UNKNOWN, None, 0)
    nodes = 0
    for number, (taste, length) in enumerate(zip(_tastes(random.Random(seed)), _lengths(), strict=False)):
        left = deadline - time.monotonic()
        if left <= 0 or nodes >= most_nodes:
            break
        noise = np.random.default_rng((seed, number))
        status, offsets, used = instance.attempt(taste, noise, min(length, most_nodes - nodes), left)
        nodes += used
        if status is not Status.UNKNOWN:
            return Answer(status, offsets, nodes)
    return Answer(Status.UNKNOWN, None, nodes)


def _tastes(rng: random.Random) -> Iterator[Taste]:
    yield from _TASTES

    def some(low: float, high: float, share: float = 0.5) -> float:
        return rng.uniform(low, high) if rng.random() < share else 0

    while True:
        yield Taste(
            lifetime=some(-0.3, 1.5),
            size=some(-0.3, 1.5),
            noise=0.3,
            critical=rng.random() < 0.5,
            flush=some(0, 4, 0.7),
            level=some(0, 2, 0.7),
            pressure=some(0, 1),
        )


def _lengths() -> Iterator[int]:
    """Luby's sequence, once each of the first tastes had its turn: 1 1 2 1 1 2 4 ..."""
    for _ in _TASTES:
        yield _SHORTEST
    number, power = 1, 1
    while True:
        yield _SHORTEST * power
        if number & -number == power:
            number, power = number + 1, 1
        else:
            power *= 2


class _Instance:
    """A problem in the units and arrays of search.c. `overfull`: some section's buffers alone exceed the capacity."""

    def __init__(self, problem: Problem, capacity: int):
        buffers = problem.buffers
        self.unit = math.gcd(*(b.size for b in buffers), *(b.alignment for b in buffers))
        self.capacity = capacity // self.unit
        times, ranges = sections(buffers)
        load = [0] * len(times)
        for buffer, (first, last) in zip(buffers, ranges, strict=True):
            for section in range(first, last):
                load[section] += buffer.size
        self.overfull = max(load) > capacity
        self.lifetime = np.log([b.upper - b.lower for b in buffers])
        self.size = np.log([b.size for b in buffers])
        self.weight = np.ones(len(times))
        if self.capacity <= _LARGEST and not self.overfull:
            self.first: _Ints = np.array([first for first, _ in ranges], np.int32)
            self.last: _Ints = np.array([last for _, last in ranges], np.int32)
            self.sizes: _Ints = np.array([b.size // self.unit for b in buffers], np.int32)
            alignments = [b.alignment // self.unit for b in buffers]
            # No offset but 0 is a multiple of what is above the capacity, and whatever is above does as well.
            self.alignments: _Ints = np.array([min(a, self.capacity + 1) for a in alignments], np.int32)

    def attempt(
        self, taste: Taste, rng: np.random.Generator, nodes: int, seconds: float
    ) -> tuple[Status, Offsets | None, int]:
        rank = (
            taste.lifetime * self.lifetime + taste.size * self.size + taste.noise * rng.standard_normal(len(self.size))
        )
        offsets = np.zeros(len(self.size), np.int32)
        used = ctypes.c_int64()
        found = native.library().tensorc_search(
            len(self.size), len(self.weight), self.capacity,
            self.first.ctypes.data, self.last.ctypes.data, self.sizes.ctypes.data, self.alignments.ctypes.data,
            native.Taste(taste.critical, taste.flush, taste.level, taste.pressure), rank.ctypes.data,
            self.weight.ctypes.data, nodes, min(seconds, 1e9), offsets.ctypes.data,
            ctypes.byref(used),
        )  # fmt: skip
        if found == 1:
            return Status.SOLVED, tuple(int(offset) * self.unit for offset in offsets), used.value
        return Status.INFEASIBLE if found == 0 else Status.UNKNOWN, None, used.value
