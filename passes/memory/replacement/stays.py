"""From an order and what is kept between its steps to stays with addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from passes.memory.graph import Buffer
from passes.memory.replacement.problem import Replacement, ReplacementProblem, Role, Stay, touched_at

#: For each tensor and each time but the last at which it is touched: whether it stays until it is touched again.
Keeps = Sequence[Sequence[bool]]

_ATTEMPTS = 40


def unplaced(problem: ReplacementProblem, order: Sequence[int], keeps: Keeps) -> list[Stay]:
    """The stays, all at offset 0. What leaves is stored if it is to come again, and slow memory has not got it yet."""
    stays = []
    for tensor, times in enumerate(touched_at(problem, order)):
        role = problem.tensors[tensor].role
        valid = made = role is Role.INPUT
        first, fetched = None, made
        for i, time in enumerate(times):
            first = time if first is None else first
            if tensor in problem.operators[order[time]].writes:
                valid = False
            last = i == len(times) - 1
            if last or not keeps[tensor][i]:
                stored = not valid and (not last or role is Role.OUTPUT)
                stays.append(Stay(tensor, first, time, 0, fetched, stored))
                valid |= stored
                first, fetched = None, True
    return stays


def placed(problem: ReplacementProblem, order: Sequence[int], keeps: Keeps) -> Replacement:
    """The stays with addresses. Where no way is found to put all into the fast memory, something is not kept after all:
    the least that lies in the way of what has no place."""
    kept = [list(row) for row in keeps]
    times = touched_at(problem, order)
    while True:
        stays = unplaced(problem, order, kept)
        offsets = _offsets(problem, stays)
        homeless = [
            s for s, o in zip(stays, offsets, strict=True) if o + problem.tensors[s.tensor].size > problem.capacity
        ]
        if not homeless:
            rows = zip(stays, offsets, strict=True)
            return Replacement(tuple(order), tuple(replace(stay, offset=offset) for stay, offset in rows))
        gaps = [
            (problem.tensors[tensor].size, -(after - before), tensor, i)
            for tensor, at in enumerate(times)
            for i, (before, after) in enumerate(pairwise(at))
            if kept[tensor][i] and any(before < stay.last + 1 and stay.first < after + 1 for stay in homeless)
        ]
        _, _, tensor, i = min(gaps)
        kept[tensor][i] = False


def _offsets(problem: ReplacementProblem, stays: Sequence[Stay]) -> list[int]:
    """All below the capacity if a way is found, section by section: what is there at no common time need not be placed
    together."""
    offsets = [0] * len(stays)
    for section in _sections(stays):
        buffers = [Buffer(stays[i].first, stays[i].last + 1, problem.tensors[stays[i].tensor].size) for i in section]
        for number, offset in zip(section, place_within(buffers, problem.capacity), strict=True):
            offsets[number] = offset
    return offsets


def _sections(stays: Sequence[Stay]) -> list[list[int]]:
    sections: list[list[int]] = []
    end = -1
    for number in sorted(range(len(stays)), key=lambda i: (stays[i].first, i)):
        if stays[number].first > end:
            sections.append([])
        sections[-1].append(number)
        end = max(end, stays[number].last)
    return sections


def place_within(buffers: Sequence[Buffer], capacity: int) -> list[int]:
    """Offsets that end below `capacity` if a way is found. Each buffer goes to the lowest gap that holds it; what has
    come out too high has the choice before all others the next time."""
    starts: list[Callable[[Buffer], int]] = [
        lambda b: -b.size, lambda b: -b.size * (b.upper - b.lower), lambda b: b.lower - b.upper,
    ]  # fmt: skip
    for key in starts:
        sequence = sorted(range(len(buffers)), key=lambda i: (key(buffers[i]), i))
        for _ in range(_ATTEMPTS):
            offsets = _lowest(buffers, sequence)
            high = [i for i in sequence if offsets[i] + buffers[i].size > capacity]
            if not high:
                return offsets
            sequence = [*high, *(i for i in sequence if i not in set(high))]
    return offsets


def _lowest(buffers: Sequence[Buffer], sequence: Sequence[int]) -> list[int]:
    offsets = [0] * len(buffers)
    done: list[int] = []
    for number in sequence:
        buffer = buffers[number]
        rivals = [i for i in done if buffers[i].lower < buffer.upper and buffer.lower < buffers[i].upper]
        for rival in sorted(rivals, key=offsets.__getitem__):
            if offsets[number] + buffer.size <= offsets[rival]:
                break
            offsets[number] = max(offsets[number], offsets[rival] + buffers[rival].size)
        done.append(number)
    return offsets
