"""Order and replacement as a search through states: which operators have run, what is there, what slow memory holds.

Nothing leaves before its room is needed, and no more leaves than is needed: whoever lets go earlier moves no fewer
bytes. What leaves is counted at once with what it takes to come back. For small problems the search goes through
states by what they cost, and the first end that it meets is the best; for larger ones a beam goes on from the best few
states of as many operators.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

from passes.memory.replacement.ilp import Decision
from passes.memory.replacement.problem import ReplacementProblem, Role, touched_at

#: Ways to make room that are looked at in one place; the exact search gives up where there are more.
_WAYS = 400


class _State(NamedTuple):
    """`cost` in bytes beyond the compulsory ones, `used` bytes of fast memory. Sets of operators and of tensors are
    numbers, by their bits."""

    cost: int
    used: int
    done: int
    here: int
    valid: int
    ready: int
    path: Any  #: the path before, the last operator, and what has left for it


class States:
    def __init__(self, problem: ReplacementProblem):
        self.problem = problem
        flow = problem.flow
        self.steps = len(flow)
        self.all = (1 << self.steps) - 1
        self.touchers = flow.touchers
        self.before = flow.before
        self.sizes = flow.sizes
        shared = [touchers.bit_count() > 1 for touchers in flow.touchers]
        self.inputs = sum(1 << t for t, tensor in enumerate(problem.tensors) if tensor.role is Role.INPUT)
        self.outputs = [tensor.role is Role.OUTPUT for tensor in problem.tensors]
        self.touched = [[t for t in touched if shared[t]] for touched in flow.touches]
        self.needs = [sum(1 << t for t in touched) for touched in self.touched]
        self.extra = [sum(self.sizes[t] for t in touched if not shared[t]) for touched in flow.touches]
        self.writes = [sum(1 << t for t in operator.writes) for operator in problem.operators]
        self.writers = [0] * len(self.sizes)
        for step, operator in enumerate(problem.operators):
            for tensor in operator.writes:
                self.writers[tensor] |= 1 << step
        self.followers: list[list[int]] = [[] for _ in range(self.steps)]
        for step, after in enumerate(flow.after):
            for earlier in after:
                self.followers[earlier].append(step)
        self.moves = 0
        self.complete = True
        ready = sum(1 << step for step in range(self.steps) if not self.before[step])
        self.start = _State(0, 0, 0, 0, self.inputs, ready, None)

    def search(self, below: int, moves: int) -> tuple[Decision | None, int]:
        """The best decision, if it costs less than `below` and not too many moves find it, and what none costs less
        than."""
        last = self.moves + moves
        queue: list[tuple[int, int, int, int, _State]] = [(0, 0, 0, 0, self.start)]
        best: dict[tuple[int, int, int], int] = {}
        pushed = 0
        while queue:
            *_, state = heapq.heappop(queue)
            if state.done == self.all:
                return self._decision(state), state.cost
            if self.moves > last:
                return None, state.cost
            if best.get((state.done, state.here, state.valid), state.cost) < state.cost:
                continue
            for after in self._after(state, below):
                key = after.done, after.here, after.valid
                if best.get(key, below) > after.cost:
                    best[key] = after.cost
                    pushed += 1
                    heapq.heappush(queue, (after.cost, -after.done.bit_count(), after.used, pushed, after))
        return None, below if self.complete else 0

    def beam(self, width: int, below: int, moves: int) -> Decision | None:
        """A decision that costs less than `below`, if one is among those that go on from the best `width` states of as
        many operators, and not too many moves find it."""
        last = self.moves + moves
        states = [self.start]
        for _ in range(self.steps):
            if self.moves > last:
                return None
            found: dict[tuple[int, int, int], _State] = {}
            for state in states:
                for after in self._after(state, below):
                    key = after.done, after.here, after.valid
                    known = found.get(key)
                    if known is None or known.cost > after.cost:
                        found[key] = after
            states = heapq.nsmallest(width, found.values(), key=lambda s: (s.cost, s.used, s.done, s.here, s.valid))
        return self._decision(states[0]) if states else None

    def _after(self, state: _State, below: int) -> Iterator[_State]:
        ready = state.ready
        while ready:
            step = (ready & -ready).bit_length() - 1
            ready &= ready - 1
            needed = self.needs[step]
            missing = needed & ~state.here
            used = state.used + sum(self.sizes[t] for t in self.touched[step] if missing >> t & 1)
            over = used + self.extra[step] - self.problem.capacity
            if over <= 0:
                yield self._run(state, step, 0, state.cost, used)
                continue
            for leaving, cost, size in self._ways(state, state.here & ~needed, over, below - state.cost):
                yield self._run(state, step, leaving, state.cost + cost, used - size)

    def _run(self, state: _State, step: int, leaving: int, cost: int, used: int) -> _State:
        self.moves += 1
        done = state.done | 1 << step
        here = (state.here | self.needs[step]) & ~leaving
        valid = (state.valid | leaving) & ~self.writes[step]
        for tensor in self.touched[step]:
            if not self.touchers[tensor] & ~done:
                here &= ~(1 << tensor)
                valid &= ~(1 << tensor)
                used -= self.sizes[tensor]
        ready = state.ready & ~(1 << step)
        for follower in self.followers[step]:
            if not self.before[follower] & ~done:
                ready |= 1 << follower
        return _State(cost, used, done, here, valid, ready, (state.path, step, leaving))

    def _ways(self, state: _State, present: int, over: int, below: int) -> list[tuple[int, int, int]]:
        """What may leave so that `over` bytes are free: sets of which no tensor could stay, with what they cost, less
        than `below`, and their size; the cheapest first."""
        tensors = []
        while present:
            tensor = (present & -present).bit_length() - 1
            present &= present - 1
            tensors.append((self.sizes[tensor], self._leave(state, tensor), 1 << tensor))
        tensors.sort(reverse=True)
        rest = [0]
        for size, _, _ in reversed(tensors):
            rest.append(rest[-1] + size)
        rest.reverse()
        found: list[tuple[int, int, int]] = []

        def choose(number: int, chosen: int, cost: int, size: int) -> None:
            self.moves += 1
            if cost >= below or len(found) >= _WAYS:
                self.complete &= cost >= below
                return
            if size >= over:
                found.append((chosen, cost, size))
                return
            if size + rest[number] < over:
                return
            more, price, bit = tensors[number]
            choose(number + 1, chosen | bit, cost + price, size + more)
            choose(number + 1, chosen, cost, size)

        choose(0, 0, 0, 0)
        return sorted(found, key=lambda way: (way[1], way[2], way[0]))

    def _leave(self, state: _State, tensor: int) -> int:
        """Bytes that it takes to let a tensor go and to have it again."""
        stored = not state.valid >> tensor & 1
        if self.outputs[tensor] and not self.writers[tensor] & ~state.done:
            stored = False  # it has to be stored once anyway
        return self.sizes[tensor] * (1 + stored)

    def _decision(self, state: _State) -> Decision:
        rows = []
        path = state.path
        while path is not None:
            path, step, leaving = path
            rows.append((step, leaving))
        rows.reverse()
        order = tuple(step for step, _ in rows)
        times = touched_at(self.problem, order)
        keeps = [[True] * (len(at) - 1) for at in times]
        for time, (_, leaving) in enumerate(rows):
            while leaving:
                tensor = (leaving & -leaving).bit_length() - 1
                leaving &= leaving - 1
                keeps[tensor][sum(at < time for at in times[tensor]) - 1] = False
        return Decision(order, keeps)
