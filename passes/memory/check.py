"""Whether a plan keeps its promises; written to be read, and to share nothing with those who make plans."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from passes.memory.problem import Problem


def faults(problem: Problem, offsets: Sequence[int]) -> list[str]:
    """Everything that is wrong with a plan, a line each; nothing if it is valid."""
    if len(offsets) != len(problem.buffers):
        return [f"{len(offsets)} offsets for {len(problem.buffers)} buffers"]
    found = []
    for number, (buffer, offset) in enumerate(zip(problem.buffers, offsets, strict=True)):
        if offset < 0:
            found.append(f"buffer {number} is at {offset}")
        if offset % buffer.alignment:
            found.append(f"buffer {number} is at {offset}, not aligned to {buffer.alignment}")
        if problem.capacity is not None and offset + buffer.size > problem.capacity:
            found.append(f"buffer {number} ends at {offset + buffer.size}, above the capacity {problem.capacity}")
    # The buffers that live when one begins are all that may meet: two lives that meet do when the later one begins.
    for now in sorted({buffer.lower for buffer in problem.buffers}):
        alive = [
            (offset, offset + buffer.size, number)
            for number, (buffer, offset) in enumerate(zip(problem.buffers, offsets, strict=True))
            if buffer.lower <= now < buffer.upper
        ]
        for (_, end, number), (start, _, other) in pairwise(sorted(alive)):
            if start < end:
                found.append(f"buffers {number} and {other} overlap at time {now}: {start} is below {end}")
    return found
