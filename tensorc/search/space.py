"""What may be chosen for one workload: a few knobs, each with its choices.

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
Values = tuple[Any, ...]


@dataclass(frozen=True)
class Space:
    """`knobs` maps names to choices; `legal(values)` says whether values, in the knobs' order, go together.

    `default` is what rules pick without any measurement; it is legal.
    """

    kind: str
    knobs: Mapping[str, tuple[Any, ...]]
    legal: Callable[[Mapping[str, Any]], bool]
    default: Mapping[str, Any]

    def schedule(self, values: Values) -> ScheduleJson:
        return {"kind": self.kind, **dict(zip(self.knobs, values, strict=True))}

    def values(self, schedule: Mapping[str, Any]) -> Values | None:
        """The knob values of a schedule; None when it is of another kind or of another space."""
        if schedule.get("kind") != self.kind or schedule.keys() - {"kind"} != self.knobs.keys():
            return None
        values = tuple(schedule[name] for name in self.knobs)
        return values if self.is_legal(values) else None

    def is_legal(self, values: Values) -> bool:
        known = all(v in choices for v, choices in zip(values, self.knobs.values(), strict=True))
        return known and self.legal(dict(zip(self.knobs, values, strict=True)))

    def default_values(self) -> Values:
        return tuple(self.default[name] for name in self.knobs)

    def size(self) -> int:
        """Combinations, legal or not."""
        return int(np.prod([len(choices) for choices in self.knobs.values()], dtype=np.int64))

    def enumerate(self) -> Iterator[Values]:
        """Every legal combination."""
        return (values for values in itertools.product(*self.knobs.values()) if self.is_legal(values))

    def sample(self, rng: np.random.Generator, attempts: int = 1000) -> Values:
        """A random legal combination; the default when none is met."""
        for _ in range(attempts):
            values = tuple(choices[rng.integers(len(choices))] for choices in self.knobs.values())
            if self.is_legal(values):
                return values
        return self.default_values()

    def mutate(self, values: Values, rng: np.random.Generator, attempts: int = 100) -> Values:
        """`values` with one knob turned; `values` itself when no turn is legal."""
        turnable = [i for i, choices in enumerate(self.knobs.values()) if len(choices) > 1]
        if not turnable:
            return values
        for _ in range(attempts):
            position = turnable[rng.integers(len(turnable))]
            choices = list(self.knobs.values())[position]
            turned = (*values[:position], choices[rng.integers(len(choices))], *values[position + 1 :])
            if turned != values and self.is_legal(turned):
                return turned
        return values

    def cross(self, a: Values, b: Values, rng: np.random.Generator) -> Values:
        """Each knob from one of two parents; the first parent when the child is not legal."""
        child = tuple(x if take else y for x, y, take in zip(a, b, rng.random(len(a)) < 0.5, strict=True))
        return child if self.is_legal(child) else a
