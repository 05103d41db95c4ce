"""From an order and what is kept between its steps to stays with addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from passes.memory import greedy
from passes.memory.portfolio import solve
from passes.memory.problem import Buffer, Problem
from passes.memory.replacement.problem import Replacement, ReplacementProblem, Role, Stay, touched_at
from tensorc.errors import UserError

#: For each tensor and each time but the last at which it is touched: whether it stays until it is touched again.
Keeps = Sequence[Sequence[bool]]

#: For a search of addresses.
_SECONDS = 5.0


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


def _offsets(problem: ReplacementProblem, stays: Sequence[Stay]) -> Sequence[int]:
    """All below the capacity, if a way is found."""
    buffers = [Buffer(stay.first, stay.last + 1, problem.tensors[stay.tensor].size) for stay in stays]
    try:
        plan = solve(Problem.of(buffers, problem.capacity), _SECONDS)
    except UserError:  # no C compiler
        return greedy.place(buffers)
    assert plan.offsets is not None
    return plan.offsets
