"""Streaming of weights: which blocks of a mapped file stay resident, and when the others come and go.

A program reads its weights in the same order run after run, so the best that a cache of fixed size can do is known: a
part of the blocks stays for good, and the rest passes through a window that is as small as the steps allow, since each
block that the window takes is one more to be mapped in each run. Which blocks stay is spread evenly over the program:
every step then waits for a little, and what the next one needs comes while this one computes (the layers in flight of
"Superpipeline", 2024, with the window of "LLM in a flash", 2023).

Time is counted in spans: a step, or a whole loop or branch, whose blocks are all needed while it lasts. Blocks have one
size. Nothing here knows what a block holds, or how it is mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise

#: Runs of neighbouring blocks: (first, count).
Runs = tuple[tuple[int, int], ...]

#: Blocks that the window holds at least where the capacity is this many times as large: deep enough for a disk.
_WINDOW, _WINDOW_SHARE = 8, 8


class CapacityError(Exception):
    """`least` is the number of blocks without which the program cannot be run."""

    def __init__(self, least: int):
        super().__init__(f"{least} blocks are needed at one time")
        self.least = least


@dataclass(frozen=True)
class Change:
    """Before span `span` begins, the blocks of `drops` are let go; then those of `fetches` may come, the first ones
    first. Both are runs of blocks. `span` is the number of spans for what is done after the last one, for the next
    run."""

    span: int
    drops: Runs
    fetches: Runs


@dataclass(frozen=True)
class StreamPlan:
    """`pinned` blocks stay; each run maps `streamed` others, which take turns in `window` blocks. Where nothing has to
    go there are no changes."""

    pinned: int
    window: int
    streamed: int
    changes: tuple[Change, ...]


def least_capacity(needs: Sequence[AbstractSet[int]], loose: Sequence[int]) -> int:
    return max((len(need) + extra for need, extra in zip(needs, loose, strict=True)), default=0)


def plan_stream(needs: Sequence[AbstractSet[int]], loose: Sequence[int], capacity: int) -> StreamPlan:
    """How the blocks that span i needs, `needs[i]`, are resident while it lasts, with `loose[i]` blocks besides that
    nobody plans, and never more than `capacity` at one time.

    Raises CapacityError where some span needs more.
    """
    least = least_capacity(needs, loose)
    if capacity < least:
        raise CapacityError(least)
    order = list(dict.fromkeys(block for need in needs for block in sorted(need)))
    if len(order) + max(loose, default=0) <= capacity:
        return StreamPlan(len(order), 0, 0, ())
    streamed = _streamed(needs, loose, capacity, order)
    windows = _windows(needs, loose, streamed, capacity - (len(order) - len(streamed)))
    changes = []
    fetched = 0
    for span, (before, after) in enumerate(pairwise([*windows, windows[0]]), start=1):
        new = [block for block in after if block not in set(before)]
        fetched += len(new)
        change = Change(span, _runs(sorted(set(before) - set(after))), _runs(new))
        if change.drops or change.fetches:
            changes.append(change)
    return StreamPlan(len(order) - len(streamed), capacity - len(order) + len(streamed), fetched, tuple(changes))


def _streamed(
    needs: Sequence[AbstractSet[int]], loose: Sequence[int], capacity: int, order: Sequence[int]
) -> frozenset[int]:
    """Those that do not stay: as few as will do, the same number of each span at most, evenly spread."""
    ahead = min(_WINDOW, capacity // _WINDOW_SHARE)
    owned: list[list[int]] = []
    seen: set[int] = set()
    for need in needs:
        owned.append([block for block in sorted(need) if block not in seen])
        seen |= need
    for most in range(1, max(map(len, owned), default=0) + 1):
        eligible = [block for blocks in owned for block in _spread(blocks, min(most, len(blocks)))]
        window = max(2 * most + max(loose, default=0), ahead)
        count = len(order) - capacity + window
        if count > len(eligible):
            continue
        chosen = frozenset(_spread(eligible, count))
        if all(len(need & chosen) + extra <= window for need, extra in zip(needs, loose, strict=True)):
            return chosen
    return frozenset(order)


def _spread(blocks: Sequence[int], count: int) -> list[int]:
    """`count` of them, at even distances."""
    total = len(blocks)
    return [block for i, block in enumerate(blocks) if (i + 1) * count // total > i * count // total]


def _windows(
    needs: Sequence[AbstractSet[int]], loose: Sequence[int], streamed: AbstractSet[int], window: int
) -> list[list[int]]:
    """For each span, the streamed blocks that are or become resident in it, in the order in which they are needed: its
    own, then those of the spans behind it, then those of the next run's first ones, as many as there is room for."""
    coming = [sorted(need & streamed) for need in needs]
    windows = []
    for start, extra in enumerate(loose):
        room, here = window - extra, dict[int, None]()
        for ahead in range(len(needs)):
            here.update(dict.fromkeys(coming[(start + ahead) % len(needs)]))
            if len(here) >= room:
                break
        windows.append(list(here)[:room])
    return windows


def _runs(blocks: Sequence[int]) -> Runs:
    """Neighbours that follow each other joined, in the order in which they are given."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][0] + runs[-1][1] == block:
            runs[-1][1] += 1
        else:
            runs.append([block, 1])
    return tuple((first, count) for first, count in runs)
