"""The baseline: replacement as a cache does it.

What nobody reads any more is forgotten at once and costs nothing. Tensors go to the lowest gap that holds them.
"""

from __future__ import annotations

from dataclasses import replace

from passes.memory.replacement.problem import Replacement, ReplacementProblem, Role, Stay, touched_at, traffic


def least_recently_used(problem: ReplacementProblem) -> Replacement:
    """The baseline: operators in the order that they have, and out with what was not used for longest."""
    return _Cache(problem).run()


def without_gaps(problem: ReplacementProblem) -> int:
    """What the baseline would move beyond the compulsory bytes if there were room wherever there is enough in sum. No
    machine does that; it says how much of what is saved is due to addresses."""
    return traffic(problem, _Cache(problem, gaps=False).run().stays) - problem.compulsory


class _Cache:
    def __init__(self, problem: ReplacementProblem, gaps: bool = True):
        self.problem = problem
        self.gaps = gaps
        self.last = [at[-1] if at else -1 for at in touched_at(problem, range(len(problem.operators)))]
        self.sizes = [tensor.size for tensor in problem.tensors]
        self.stays: list[Stay] = []
        self.here: dict[int, Stay] = {}  #: from the least recently used to the last
        self.made = [tensor.role is Role.INPUT for tensor in problem.tensors]
        self.kept = list(self.made)

    def run(self) -> Replacement:
        problem = self.problem
        for time, operator in enumerate(problem.operators):
            touched = problem.flow.touches[time]
            for tensor in touched:
                if tensor in self.here:
                    self.here[tensor] = self.here.pop(tensor)
            self._bring([tensor for tensor in touched if tensor not in self.here], time, set(touched))
            for tensor in operator.writes:
                self.made[tensor], self.kept[tensor] = True, False
            for tensor in touched:
                self.here[tensor] = replace(self.here[tensor], last=time)
                if self.last[tensor] == time:
                    self._leave(tensor, time, problem.tensors[tensor].role is Role.OUTPUT)
        return Replacement(tuple(range(len(problem.operators))), tuple(self.stays))

    def _bring(self, missing: list[int], time: int, pinned: set[int]) -> None:
        """Make room for the tensors that are missing, the largest first."""
        missing = sorted(missing, key=lambda tensor: -self.sizes[tensor])
        while (offsets := self._places(missing)) is None:
            victims = [tensor for tensor in self.here if tensor not in pinned]
            if not victims:
                # What is needed lies in the way itself: all out, and in again side by side.
                again = list(self.here)
                for tensor in again:
                    self._leave(tensor, time - 1, store=True)
                missing = sorted([*missing, *again], key=lambda tensor: -self.sizes[tensor])
                continue
            self._leave(victims[0], time - 1, store=True)
        for tensor, offset in zip(missing, offsets, strict=True):
            self.here[tensor] = Stay(tensor, time, time, offset, self.made[tensor], False)

    def _places(self, tensors: list[int]) -> list[int] | None:
        if not self.gaps:
            total = sum(self.sizes[tensor] for tensor in (*self.here, *tensors))
            return [0] * len(tensors) if total <= self.problem.capacity else None
        taken = sorted((stay.offset, stay.offset + self.sizes[tensor]) for tensor, stay in self.here.items())
        offsets = []
        for tensor in tensors:
            offset = 0
            for low, high in taken:
                if offset + self.sizes[tensor] <= low:
                    break
                offset = max(offset, high)
            if offset + self.sizes[tensor] > self.problem.capacity:
                return None
            offsets.append(offset)
            taken = sorted([*taken, (offset, offset + self.sizes[tensor])])
        return offsets

    def _leave(self, tensor: int, time: int, store: bool) -> None:
        stored = store and not self.kept[tensor]
        self.kept[tensor] |= stored
        self.stays.append(replace(self.here.pop(tensor), last=time, stored=stored))
