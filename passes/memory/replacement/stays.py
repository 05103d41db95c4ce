"""From an order and what is kept between its steps to stays with addresses."""

from __future__ import annotations

from collections.abc import Sequence

from passes.memory.graph import Buffer, place_greedily
from passes.memory.replacement.problem import Replacement, ReplacementProblem, Role, Stay, touched_at

#: For each tensor and each time but the last at which it is touched: whether it stays until it is touched again.
Keeps = Sequence[Sequence[bool]]


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


def placed(problem: ReplacementProblem, order: Sequence[int], stays: Sequence[Stay]) -> Replacement | None:
    """The stays with addresses, if a way is found to put them into the fast memory."""
    buffers = [Buffer(stay.first, stay.last + 1, problem.tensors[stay.tensor].size) for stay in stays]
    offsets = place_greedily(buffers)
    if any(o + b.size > problem.capacity for o, b in zip(offsets, buffers, strict=True)):
        return None
    rows = zip(stays, offsets, strict=True)
    return Replacement(tuple(order), tuple(Stay(s.tensor, s.first, s.last, o, s.fetched, s.stored) for s, o in rows))
