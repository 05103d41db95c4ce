"""Fast plans: buffers in some order, each at the lowest gap that holds it.

By size it is the heuristic of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from passes.memory.bounds import lower_bound
from passes.memory.problem import Buffer, Offsets, Problem

Order = Callable[[Buffer], tuple[int, ...]]

#: What comes first, by name; the first is the one that is best most often.
ORDERS: dict[str, Order] = {
    "size": lambda b: (-b.size, b.lower),
    "area": lambda b: (-b.size * (b.upper - b.lower), b.lower),
    "lifetime": lambda b: (b.lower - b.upper, -b.size),
    "start": lambda b: (b.lower, -b.size),
    "end": lambda b: (-b.upper, -b.size),
}


def place(buffers: Sequence[Buffer], order: Order = ORDERS["size"]) -> list[int]:
    """An offset for each buffer, such that those that live at one time do not overlap."""
    offsets = [0] * len(buffers)
    done: list[int] = []
    for number in sorted(range(len(buffers)), key=lambda i: order(buffers[i])):
        buffer = buffers[number]
        lower, upper, size, alignment = buffer.lower, buffer.upper, buffer.size, buffer.alignment
        rivals = [i for i in done if buffers[i].lower < upper and lower < buffers[i].upper]
        offset = 0
        for rival in sorted(rivals, key=offsets.__getitem__):
            if offset + size <= offsets[rival]:
                break
            end = offsets[rival] + buffers[rival].size
            offset = max(offset, -(-end // alignment) * alignment)
        offsets[number] = offset
        done.append(number)
    return offsets


def variants(problem: Problem, most_pairs: int | None = None) -> Iterator[tuple[str, list[int]]]:
    """Plans in all orders, by name, up to the first that is as low as any can be.

    The first in any case; the others as long as all have compared no more than about `most_pairs` pairs of buffers.
    """
    least = lower_bound(problem)
    for number, (name, order) in enumerate(ORDERS.items()):
        if number and most_pairs is not None and (number + 1) * len(problem.buffers) ** 2 > most_pairs:
            return
        offsets = place(problem.buffers, order)
        yield name, offsets
        if problem.height(offsets) <= least:
            return


def best(problem: Problem, most_pairs: int | None = None) -> tuple[str, Offsets]:
    """The lowest of the variants, and its order's name."""
    name, offsets = min(variants(problem, most_pairs), key=lambda plan: problem.height(plan[1]))
    return name, tuple(offsets)
