"""What is known of a model's tasks: recalled from the database, added to it, and taught to the cost model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.measure import Outcome
from tensorc.search.model import CostModel, Samples
from tensorc.search.space import Values
from tensorc.search.tasks import Task
from tensorc.workload import workload_text


class Knowledge:
    """Keeps `Task.measured` of `tasks`, the database and the model in step."""

    def __init__(self, tasks: Sequence[Task], context: TuningContext, database: Database, model: CostModel):
        self.tasks = tasks
        self.context = context
        self.database = database
        self.model = model
        self._features: dict[tuple[int, Values], np.ndarray] = {}

    def recall(self) -> None:
        """What earlier runs measured costs no trial."""
        for task in self.tasks:
            for record in self.database.records(task.key):
                values = task.space.values(record.schedule)
                if values is not None:
                    task.measured[values] = Outcome(record.schedule, record.seconds, record.failure, record.detail)
        self._teach()

    def learn(self, number: int, values: Sequence[Values], outcomes: Sequence[Outcome]) -> None:
        """Outcomes of candidates of the task of that number; they are in the database when this returns."""
        task = self.tasks[number]
        task.measured.update(zip(values, outcomes, strict=True))
        text = workload_text(task.body)
        self.database.add(outcome.record(task.key, text) for outcome in outcomes)
        self._teach()

    def _teach(self) -> None:
        rows, times, groups = [], [], []
        for number, task in enumerate(self.tasks):
            # In one order, however they came: a run that is taken up again makes of the same data the same model.
            good = sorted(
                ((values, outcome) for values, outcome in task.measured.items() if outcome.ok), key=_by_values
            )
            new = [values for values, _ in good if (number, values) not in self._features]
            if new:
                features = self.context.features(task.body, task.schedules(new))
                self._features.update(((number, v), row) for v, row in zip(new, features, strict=True))
            rows += [self._features[number, values] for values, _ in good]
            times += [math.log2(outcome.median) for _, outcome in good]
            groups += [number] * len(good)
        if rows:
            self.model.update(Samples(np.stack(rows), np.array(times), np.array(groups)))


def _by_values(row: tuple[Values, Outcome]) -> str:
    """Knobs of different kinds of schedules do not compare, their texts do."""
    return repr(row[0])
