"""Streaming of weights: which blocks of a mapped file stay resident, and when the others come and go.

A program reads its weights in the same order run after run, so the best that a cache of fixed size can do is known: a
part of the blocks stays for good, and the rest passes through a window that is as small as the steps allow, since each
block that the window takes is one more to be mapped in each run. Which blocks stay is spread evenly over the program:
every step then waits for a little, and what the next one needs comes while this one computes (the layers in flight of
"Superpipeline", 2024, with the window of "LLM in a flash", 2023).

Time is counted in spans: a step, or a whole loop or branch, whose blocks are all needed while it lasts. Blocks have one
size, of which amounts are multiples, or each its own. Nothing here knows what a block holds, or how it is mapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

#: Runs of neighbouring blocks: (first, count).
Runs = tuple[tuple[int, int], ...]

#: Blocks that the window holds at least where the capacity is this many times as large: deep enough for a disk.
_WINDOW, _WINDOW_SHARE = 8, 8


class CapacityError(Exception):
    """`least` is the amount of blocks without which the program cannot be run."""

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


def least_capacity(
    needs: Sequence[AbstractSet[int]], loose: Sequence[int], sizes: Mapping[int, int] | None = None
) -> int:
    size = _Sizes(sizes)
    return max((size(need) + extra for need, extra in zip(needs, loose, strict=True)), default=0)


def plan_stream(
    needs: Sequence[AbstractSet[int]], loose: Sequence[int], capacity: int, sizes: Mapping[int, int] | None = None
) -> StreamPlan:
    """How the blocks that span i needs, `needs[i]`, are resident while it lasts, with `loose[i]` besides that nobody
    plans, and never more than `capacity` at one time. Each block is 1 without `sizes`.

    Raises CapacityError where some span needs more.
    """
    least = least_capacity(needs, loose, sizes)
    if capacity < least:
        raise CapacityError(least)
    size = _Sizes(sizes)
    order = list(dict.fromkeys(block for need in needs for block in sorted(need)))
    if size(order) + max(loose, default=0) <= capacity:
        return StreamPlan(size(order), 0, 0, ())
    streamed = _streamed(needs, loose, capacity, order, size)
    pinned = size(order) - size(streamed)
    windows = _windows(needs, loose, streamed, capacity - pinned, size)
    changes = []
    fetched = 0
    for span, (before, after) in enumerate(pairwise([*windows, windows[0]]), start=1):
        new = [block for block in after if block not in set(before)]
        fetched += size(new)
        change = Change(span, _runs(sorted(set(before) - set(after))), _runs(new))
        if change.drops or change.fetches:
            changes.append(change)
    return StreamPlan(pinned, capacity - pinned, fetched, tuple(changes))


class _Sizes:
    """What blocks take in all."""

    def __init__(self, sizes: Mapping[int, int] | None):
        self._sizes = sizes

    def __call__(self, blocks: Iterable[int]) -> int:
        return sum(self.each(blocks))

    def each(self, blocks: Iterable[int]) -> list[int]:
        return [1 if self._sizes is None else self._sizes[block] for block in blocks]


def _streamed(
    needs: Sequence[AbstractSet[int]], loose: Sequence[int], capacity: int, order: Sequence[int], size: _Sizes
) -> frozenset[int]:
    """Those that do not stay: as few as will do, the same amount of each span at most, evenly spread."""
    ahead = min(_WINDOW, capacity // _WINDOW_SHARE)
    owned: list[list[int]] = []
    seen: set[int] = set()
    for need in needs:
        owned.append([block for block in sorted(need) if block not in seen])
        seen |= need
    for most in sorted({amount for blocks in owned for amount in accumulate(size.each(blocks))}):
        eligible = [block for blocks in owned for block in _spread(blocks, min(most, size(blocks)), size)]
        window = max(2 * most + max(loose, default=0), ahead)
        amount = size(order) - capacity + window
        if amount > size(eligible):
            continue
        stays = _spread(eligible[::-1], size(eligible) - amount, size)  # the first one, if any
        chosen = frozenset(eligible).difference(stays)
        if all(size(need & chosen) + extra <= window for need, extra in zip(needs, loose, strict=True)):
            return chosen
    return frozenset(order)


def _spread(blocks: Sequence[int], most: int, size: _Sizes) -> list[int]:
    """As many of them as `most` holds, at even distances."""
    total, passed, taken = size(blocks), 0, 0
    spread = []
    for block, own in zip(blocks, size.each(blocks), strict=True):
        passed += own
        if taken + own <= passed * most // total:
            taken += own
            spread.append(block)
    return spread


def _windows(
    needs: Sequence[AbstractSet[int]], loose: Sequence[int], streamed: AbstractSet[int], window: int, size: _Sizes
) -> list[list[int]]:
    """For each span, the streamed blocks that are or become resident in it, in the order in which they are needed: its
    own, then those of the spans behind it, then those of the next run's first ones, as many as there is room for."""
    coming = [sorted(need & streamed) for need in needs]
    return [_first(chain(*coming[start:], *coming[:start]), window - extra, size) for start, extra in enumerate(loose)]


def _first(blocks: Iterable[int], room: int, size: _Sizes) -> list[int]:
    """Each once, as many as there is room for."""
    here: dict[int, None] = {}
    for block in blocks:
        if block not in here:
            room -= size([block])
            if room < 0:
                break
            here[block] = None
    return list(here)


def _runs(blocks: Sequence[int]) -> Runs:
    """Neighbours that follow each other joined, in the order in which they are given."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][0] + runs[-1][1] == block:
            runs[-1][1] += 1
        else:
            runs.append([block, 1])
    return tuple((first, count) for first, count in runs)
