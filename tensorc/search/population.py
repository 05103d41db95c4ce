"""Candidates of one workload in the order in which the cost model would try them."""

from __future__ import annotations

import numpy as np

from tensorc.search.context import TuningContext
from tensorc.search.model import CostModel, Prediction
from tensorc.search.space import Values
from tensorc.search.tasks import Task

_SIZE = 256
_GENERATIONS = 4
#: Spaces up to this many combinations are scored whole instead of evolved.
_ENUMERABLE = 30_000


class Population:
    """Enumerates small spaces and evolves large ones under the model's scores."""

    def __init__(self, context: TuningContext, model: CostModel, seed: int = 0):
        self.context = context
        self.model = model
        self.seed = seed
        self._whole: dict[str, tuple[list[Values], np.ndarray]] = {}

    def best(self, task: Task, count: int) -> tuple[list[Values], Prediction]:
        """The `count` candidates with the best scores among those not measured yet, with predictions."""
        values, rows = self._ranked(task)
        return values[:count], self.model.predict(rows[:count])

    def all(self, task: Task) -> tuple[list[Values], Prediction]:
        """Candidates not measured yet, best score first, with predictions."""
        values, rows = self._ranked(task)
        return values, self.model.predict(rows)

    def _ranked(self, task: Task) -> tuple[list[Values], np.ndarray]:
        values, features = self._enumerated(task) if task.space.size() <= _ENUMERABLE else self._evolved(task)
        fresh = [i for i, v in enumerate(values) if v not in task.measured]
        rows = features[fresh]
        order = np.argsort(-self.model.rank(rows), kind="stable")
        return [values[fresh[i]] for i in order], rows[order]

    def _enumerated(self, task: Task) -> tuple[list[Values], np.ndarray]:
        workload = task.key.workload
        if workload not in self._whole:
            values = list(task.space.enumerate())
            self._whole[workload] = values, self.context.features(task.body, task.schedules(values))
        return self._whole[workload]

    def _evolved(self, task: Task) -> tuple[list[Values], np.ndarray]:
        # Anew for each state of knowledge: a run that is taken up again evolves what the first one did.
        space, rng = task.space, np.random.default_rng([self.seed, int(task.key.workload[:8], 16), len(task.measured)])
        good = sorted((v for v, o in task.measured.items() if o.ok), key=lambda v: task.measured[v].median)
        population = list(dict.fromkeys([*good[: _SIZE // 8], *(space.sample(rng) for _ in range(_SIZE))]))
        for _ in range(_GENERATIONS):
            scores = self.model.rank(self.context.features(task.body, task.schedules(population)))
            parents = [population[i] for i in np.argsort(-scores, kind="stable")[: _SIZE // 4]]
            children = []
            for _ in range(_SIZE):
                a, b = (parents[rng.integers(len(parents))] for _ in range(2))
                children.append(space.mutate(space.cross(a, b, rng), rng))
            population = list(dict.fromkeys([*parents, *children]))
        return population, self.context.features(task.body, task.schedules(population))
