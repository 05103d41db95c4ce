"""The order of a dataflow's steps that holds the fewest bytes at its peak.

The problem is NP-hard, and networks are easy cases of it: where all other steps come before or after some step, the
order falls apart into stretches that have nothing to do with each other, and most of these are short. A stretch is
searched over the sets of steps that have run: how they ran is forgotten but for the peak on the way, and the search is
for the path to the set of all whose peak is least (the dynamic programming of Ahn et al., "Ordering Chaos: Memory-Aware
Scheduling of Irregularly Wired Neural Networks for Edge Devices", 2020). Three rules make it short:

- Paths that hold least come first; what is at the head of the queue bounds every order from below at any time.
- A step that fits under the peak reached so far and leaves no more held than there was runs at once; so does a chain of
  steps, each of which waits for the one before it, that first leaves no more at its end. Nothing is lost: the bytes
  held are a submodular function of the steps that have run, so that whatever comes later finds no more held than
  without them.
- No order is better than what a step cannot be without: its own buffers, and those that any order has filled before it
  and reads behind it.

What is too large for that is searched with a beam, from both ends. Effort is counted in moves and not in seconds, so
that the result does not depend on the machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from passes.memory.dataflow import Dataflow, peak_of

#: A move runs one step from one state. So many take 2 to 3 s.
EFFORT = 1_200_000
_LONGEST_CHAIN = 4
_WIDEST_BEAM = 256


@dataclass(frozen=True)
class Ordering:
    """An order of the steps, its peak, and what no order is below. Both in bytes."""

    order: tuple[int, ...]
    peak: int
    lower_bound: int


def best_ordering(flow: Dataflow, effort: int = EFFORT) -> Ordering:
    """At least as good as the order that the steps are numbered in, which is kept where no better is found."""
    given = Ordering(tuple(range(len(flow))), peak_of(flow), lower_bound(flow))
    if given.peak <= given.lower_bound:
        return given
    parts = [flow.restricted(steps, done) for steps, done in _stretches(flow)]
    searches = [_Search(part) for part, _ in parts]
    floor = max(search.lower_bound for search in searches)
    # The highest first: below what one stretch needs, nothing is gained in others.
    for search in sorted(searches, key=lambda search: -search.peak):
        effort -= search.run(floor, effort)
        floor = max(floor, search.lower_bound)
    order = [
        inside[step - 1] for (_, inside), search in zip(parts, searches, strict=True) for step in search.order[1:-1]
    ]
    peak = peak_of(flow, order)
    return Ordering(tuple(order), peak, floor) if peak < given.peak else Ordering(given.order, given.peak, floor)


def lower_bound(flow: Dataflow) -> int:
    """What no order is below."""
    highest = 0
    for step in range(len(flow)):
        before, behind = flow.ancestors[step] | 1 << step, flow.descendants[step] | 1 << step
        held = sum(
            size for size, touchers in zip(flow.sizes, flow.touchers, strict=True)
            if touchers & before and touchers & behind
        )  # fmt: skip
        # The pair that shares a place needs no more than its size; only the order says whether it can.
        shared = max((flow.sizes[written] for _, written in flow.in_place[step]), default=0)
        highest = max(highest, held + flow.extra[step] - shared)
    return highest


def _stretches(flow: Dataflow) -> Iterator[tuple[int, int]]:
    """Sets of steps, each with the set of those before: all orders go through them one after the other."""
    everything = (1 << len(flow)) - 1
    done = 0
    for step in range(len(flow)):
        if flow.ancestors[step] | flow.descendants[step] | 1 << step == everything:
            if flow.ancestors[step] & ~done:
                yield flow.ancestors[step] & ~done, done
            done = flow.ancestors[step]
    yield everything & ~done, done


class _Search:
    """The best order of one stretch: first the given one, then better ones as `run` finds them."""

    def __init__(self, flow: Dataflow):
        self.flow = flow
        self.order: Sequence[int] = range(len(flow))
        self.peak = peak_of(flow)
        self.lower_bound = lower_bound(flow)

    def run(self, floor: int, effort: int) -> int:
        """Look for an order of `floor` or the best there is. Gives the number of moves made, about `effort` at most."""
        directions = [(_States(self.flow), False), (_States(self.flow.reversed()), True)]
        spent, width = 0, 1
        # Ever wider beams, in turn with the search that is exact if it comes to an end.
        while width <= _WIDEST_BEAM:
            for method in ("beam", "search"):
                for states, backwards in directions:
                    goal = max(floor, self.lower_bound)
                    spent = sum(states.moves for states, _ in directions)
                    if self.peak <= goal or spent >= effort:
                        return spent
                    if method == "beam":
                        moves = effort - spent if width > 1 else 4 * effort  # the narrowest comes to its end
                        self._take(states.beam(width, goal, self.peak, moves), backwards)
                    else:
                        order, bound = states.search(goal, self.peak, min(32 * width * len(self.flow), effort - spent))
                        self._take(order, backwards)
                        self.lower_bound = max(self.lower_bound, min(bound, self.peak))
            width *= 4
        return spent

    def _take(self, order: Sequence[int] | None, backwards: bool) -> None:
        if order is None:
            return
        if backwards:
            order = [len(self.flow) - 1 - step for step in reversed(order)]
        peak = peak_of(self.flow, order)
        if peak < self.peak:
            self.order, self.peak = order, peak


class _States:
    """The sets of steps that may have run, and the moves between them."""

    def __init__(self, flow: Dataflow):
        self.steps = len(flow)
        self.all = (1 << self.steps) - 1
        self.before = flow.before
        self.extra = flow.extra
        self.buffers = [[(flow.touchers[b], flow.sizes[b]) for b in touched] for touched in flow.touches]
        self.pairs = [
            [(flow.touchers[r], flow.touchers[w], flow.sizes[w]) for r, w in pairs] for pairs in flow.in_place
        ]
        self.followers: list[list[int]] = [[] for _ in range(self.steps)]
        for step, after in enumerate(flow.after):
            for earlier in after:
                self.followers[earlier].append(step)
        #: Steps for which it may have become worthwhile to run at once, when another has run.
        self.neighbours = [0] * self.steps
        for step, touched in enumerate(flow.touches):
            for buffer in touched:
                self.neighbours[step] |= flow.touchers[buffer]
        self.first = sum(1 << step for step in range(self.steps) if not self.before[step])
        self.moves = 0

    def move(self, step: int, done: int, live: int) -> tuple[int, int]:
        """The bytes held while `step` runs, and after."""
        self.moves += 1
        now = done | 1 << step
        freed = 0
        for touchers, size in self.buffers[step]:
            if not touchers & done:
                live += size
            if not touchers & ~now:
                freed += size
        peak = live + self.extra[step]
        for read, written, size in self.pairs[step]:
            if read & done and not read & ~now and written & ~now and not written & done:
                peak -= size
                break
        return peak, live - freed

    def ready_after(self, step: int, done: int) -> int:
        """The steps that have waited for `step` alone."""
        ready = 0
        for follower in self.followers[step]:
            if not self.before[follower] & ~done:
                ready |= 1 << follower
        return ready

    def close(self, done: int, ready: int, live: int, peak: int, waiting: int) -> tuple[int, int, int, list[int]]:
        """Run what of the steps `waiting`, or behind these, can run at once under `peak`: the state then, and the steps
        on the way."""
        path: list[int] = []
        waiting &= ready
        while waiting:
            step = (waiting & -waiting).bit_length() - 1
            waiting &= waiting - 1
            chain = self._chain(step, done, live, peak, live, _LONGEST_CHAIN)
            if chain is None:
                continue
            for one in chain:
                _, live = self.move(one, done, live)
                done |= 1 << one
                fresh = self.ready_after(one, done)
                ready = ready & ~(1 << one) | fresh
                waiting |= fresh | self.neighbours[one]
            path += chain
            waiting &= ready
        return done, ready, live, path

    def _chain(self, step: int, done: int, live: int, peak: int, most: int, longest: int) -> list[int] | None:
        """Steps from `step` on, each of which has waited for the one before, that leave `most` at last."""
        needed, left = self.move(step, done, live)
        if needed > peak:
            return None
        if left <= most:
            return [step]
        if longest > 1:
            done |= 1 << step
            followers = self.ready_after(step, done)
            while followers:
                follower = (followers & -followers).bit_length() - 1
                followers &= followers - 1
                rest = self._chain(follower, done, left, peak, most, longest - 1)
                if rest is not None:
                    return [step, *rest]
        return None

    def search(self, floor: int, ceiling: int, moves: int) -> tuple[list[int] | None, int]:
        """The best order, if its peak is below `ceiling` and not too many moves find it; at `floor` and below all are
        alike. Gives also what no order is below as far as is known, 0 if nothing is."""
        last = self.moves + moves
        queue: list[_Entry] = [(floor, 0, 0, 0, 0, self.first, self.first, None)]
        reached: dict[int, int] = {}
        closed: set[int] = set()
        while queue:
            peak, _, live, _, done, ready, waiting, path = heapq.heappop(queue)
            bound = peak if peak > floor else 0
            if self.moves > last:
                return None, bound
            done, ready, live, steps = self.close(done, ready, live, peak, waiting)
            if done == self.all:
                return _steps((path, steps)), bound
            if done in closed:
                continue
            closed.add(done)
            for step, needed, left in self._moves(done, ready, live):
                now, highest = done | 1 << step, max(peak, needed)
                if reached.get(now, ceiling) > highest:
                    reached[now] = highest
                    rest = ready & ~(1 << step) | self.ready_after(step, now)
                    again = self.neighbours[step] | rest & ~ready if highest == peak and left >= live else rest
                    entry = highest, -now.bit_count(), left, len(reached), now, rest, again, ((path, steps), [step])
                    heapq.heappush(queue, entry)
        return None, ceiling

    def beam(self, width: int, floor: int, ceiling: int, moves: int) -> list[int] | None:
        """An order whose peak is below `ceiling`, if there is one among those that go on from the best `width` states
        of each size, and not too many moves find it."""
        last = self.moves + moves
        states: list[dict[int, tuple[int, int, int, _Path]]] = [{} for _ in range(self.steps + 1)]
        states[0][0] = floor, 0, self.first, None
        for size, found in enumerate(states):
            best = sorted(found.items(), key=lambda item: (item[1][0], item[1][1], item[0]))[:width]
            if best and size == self.steps:
                return _steps(best[0][1][3])
            if self.moves > last:
                return None
            for done, (peak, live, ready, path) in best:
                for step, needed, left in self._moves(done, ready, live):
                    if needed >= ceiling:
                        continue
                    highest, now = max(peak, needed), done | 1 << step
                    rest = ready & ~(1 << step) | self.ready_after(step, now)
                    waiting = self.neighbours[step] | rest & ~ready if highest == peak and left >= live else rest
                    now, rest, left, steps = self.close(now, rest, left, highest, waiting)
                    known = states[now.bit_count()].get(now)
                    if known is None or known[0] > highest:
                        states[now.bit_count()][now] = highest, left, rest, (path, [step, *steps])
            found.clear()
        return None

    def _moves(self, done: int, ready: int, live: int) -> Iterator[tuple[int, int, int]]:
        """Each step that is ready, with what is held while it runs and after."""
        while ready:
            step = (ready & -ready).bit_length() - 1
            ready &= ready - 1
            yield step, *self.move(step, done, live)


#: The steps on the way to a state: those to an earlier one, and those from there.
_Path = Any
#: Of the queue: the peak, less the number of steps, the bytes held, a number to tell entries apart; then the steps that
#: have run, that are ready, that may run at once, and the path.
_Entry = tuple[int, int, int, int, int, int, int, _Path]


def _steps(path: _Path) -> list[int]:
    parts = []
    while path is not None:
        path, steps = path
        parts.append(steps)
    return [step for steps in reversed(parts) for step in steps]
