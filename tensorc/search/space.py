"""What may be chosen for one workload: algorithms, each with a few knobs.

A schedule is a frozen dataclass of the target's (hashable, replayable); a space turns knob values into schedules and
says which combinations are legal. Spaces are small enough to reason about and may be large enough not to enumerate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: A schedule as plain JSON: `{"kind": "conv", "columns": 14, ...}`. It stands in records, manifests and reports.
ScheduleJson = dict[str, Any]
#: The kind, then a value for each of its knobs in order.
Values = tuple[Any, ...]

#: How often a mutation changes the algorithm rather than a knob, where there are several.
_CHANGE_OF_KIND = 0.1


@dataclass(frozen=True)
class Algorithm:
    """`knobs` maps names to choices; `legal(values)` says whether values, by knob, go together."""

    kind: str
    knobs: Mapping[str, tuple[Any, ...]]
    legal: Callable[[Mapping[str, Any]], bool]

    def size(self) -> int:
        """Combinations, legal or not."""
        return int(np.prod([len(choices) for choices in self.knobs.values()], dtype=np.int64))

    def is_legal(self, values: Values) -> bool:
        if len(values) != len(self.knobs):
            return False
        known = all(v in choices for v, choices in zip(values, self.knobs.values(), strict=True))
        return known and self.legal(dict(zip(self.knobs, values, strict=True)))


@dataclass(frozen=True)
class Space:
    """The algorithms for one workload. `default` is the schedule that rules pick without any measurement; where a cost
    model has not learned of the algorithms (`predicted`), it is better than what that picks."""

    algorithms: tuple[Algorithm, ...]
    default: ScheduleJson
    predicted: bool = True

    def algorithm(self, kind: str) -> Algorithm | None:
        return next((a for a in self.algorithms if a.kind == kind), None)

    def schedule(self, values: Values) -> ScheduleJson:
        algorithm = self.algorithm(values[0])
        assert algorithm is not None
        return {"kind": values[0], **dict(zip(algorithm.knobs, values[1:], strict=True))}

    def values(self, schedule: Mapping[str, Any]) -> Values | None:
        """The knob values of a schedule; None when it is of another space, or not legal in this one."""
        algorithm = self.algorithm(schedule.get("kind", ""))
        if algorithm is None or schedule.keys() - {"kind"} != algorithm.knobs.keys():
            return None
        values = tuple(schedule[name] for name in algorithm.knobs)
        return (algorithm.kind, *values) if algorithm.is_legal(values) else None

    def is_legal(self, values: Values) -> bool:
        algorithm = self.algorithm(values[0])
        return algorithm is not None and algorithm.is_legal(values[1:])

    def default_values(self) -> Values:
        values = self.values(self.default)
        if values is None:
            raise ValueError(f"the default is not in its space: {self.default}")
        return values

    def size(self) -> int:
        """Combinations, legal or not."""
        return sum(algorithm.size() for algorithm in self.algorithms)

    def enumerate(self) -> Iterator[Values]:
        """Every legal combination."""
        for algorithm in self.algorithms:
            for values in itertools.product(*algorithm.knobs.values()):
                if algorithm.is_legal(values):
                    yield (algorithm.kind, *values)

    def sample(self, rng: np.random.Generator, attempts: int = 1000) -> Values:
        """A random legal combination; the default when none is met."""
        algorithm = self.algorithms[rng.integers(len(self.algorithms))]
        for _ in range(attempts):
            values = tuple(choices[rng.integers(len(choices))] for choices in algorithm.knobs.values())
            if algorithm.is_legal(values):
                return (algorithm.kind, *values)
        return self.default_values()

    def mutate(self, values: Values, rng: np.random.Generator, attempts: int = 100) -> Values:
        """`values` with one knob turned, or now and then another algorithm; `values` itself when no turn is legal."""
        if len(self.algorithms) > 1 and rng.random() < _CHANGE_OF_KIND:
            return self.sample(rng)
        algorithm = self.algorithm(values[0])
        assert algorithm is not None
        knobs = list(algorithm.knobs.values())
        turnable = [i for i, choices in enumerate(knobs) if len(choices) > 1]
        if not turnable:
            return values
        for _ in range(attempts):
            position = turnable[rng.integers(len(turnable))]
            choice = knobs[position][rng.integers(len(knobs[position]))]
            turned = (*values[: position + 1], choice, *values[position + 2 :])
            if turned != values and self.is_legal(turned):
                return turned
        return values

    def cross(self, a: Values, b: Values, rng: np.random.Generator) -> Values:
        """Each knob from one of two parents; the first parent when the child is not legal or they differ in kind."""
        if a[0] != b[0]:
            return a
        child = tuple(x if take else y for x, y, take in zip(a, b, rng.random(len(a)) < 0.5, strict=True))
        return child if self.is_legal(child) else a
