"""Which schedule each workload of a model gets when it is compiled: a record, else a prediction, else a rule's."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.model import CostModel, Prediction
from tensorc.search.population import Population
from tensorc.search.space import ScheduleJson, Values
from tensorc.search.tasks import Task


@dataclass(frozen=True)
class Choice:
    """`origin` is "record", "prediction" or "default" (a rule's). `predicted_seconds` is what the cost model says of
    one call and `deviation` the standard deviation of log2 of that; None without a pretrained model.
    `measured_seconds` is what a record says."""

    schedule: ScheduleJson
    origin: str
    predicted_seconds: float | None = None
    deviation: float | None = None
    measured_seconds: float | None = None


#: Another specialisation of a model is predicted to run at most so much longer for the sake of packed weights that
#: are in memory already. GPT-2 at ten lengths needs two packings so, and ten without.
_PACKING_MARGIN = 0.05


def choose(tasks: Iterable[Task], context: TuningContext, database: Database | None, model: CostModel | None,
           packings: set[Hashable] | None = None) -> dict[str, Choice]:  # fmt: skip
    """A choice for each task, by workload key. `packings` are those of the model's other specialisations, which are
    preferred; the new ones are added."""
    tasks = list(tasks)
    choices = {task.key.workload: _choose(task, context, database, model, packings or ()) for task in tasks}
    if packings is not None:
        packings.update(context.packing(task.body, choices[task.key.workload].schedule) for task in tasks)
    return choices


def _choose(task: Task, context: TuningContext, database: Database | None, model: CostModel | None,
            packings: Collection[Hashable]) -> Choice:  # fmt: skip
    model = model if task.space.predicted else None
    known = database.records(task.key) if database is not None else ()
    # Of another numeric policy, or of before a knob had fewer choices, there may be records that are not legal here.
    legal = [record for record in known if record.ok and task.space.values(record.schedule) is not None]
    if legal:
        best = min(legal, key=lambda record: record.median)
        return Choice(best.schedule, "record", *_predicted(task, best.schedule, context, model), best.median)
    if model is None:
        return Choice(task.space.default, "default")
    population = Population(context, model)
    values, prediction = population.all(task) if packings else population.best(task, 1)
    if not values:
        return Choice(task.space.default, "default")
    chosen = _packed_already(task, context, values, prediction, packings)
    return Choice(task.space.schedule(values[chosen]), "prediction", *_numbered(prediction, chosen))


def _packed_already(task: Task, context: TuningContext, values: Sequence[Values], prediction: Prediction,
                    packings: Collection[Hashable]) -> int:  # fmt: skip
    """The number of the first candidate that reads weights as they are packed, unless it is too slow; else 0."""
    limit = prediction.log2_seconds[0] + math.log2(1 + _PACKING_MARGIN)
    for number in np.flatnonzero(prediction.log2_seconds <= limit).tolist():
        if context.packing(task.body, task.space.schedule(values[number])) in packings:
            chosen: int = number
            return chosen
    return 0


def _predicted(
    task: Task, schedule: ScheduleJson, context: TuningContext, model: CostModel | None
) -> tuple[float | None, float | None]:
    return (None, None) if model is None else _numbered(model.predict(context.features(task.body, [schedule])), 0)


def _numbered(prediction: Prediction, number: int) -> tuple[float, float]:
    """Seconds and deviation of one candidate."""
    return math.pow(2.0, float(prediction.log2_seconds[number])), float(prediction.uncertainty[number])
