"""Which schedule each workload of a model gets when it is compiled: a record, else a prediction, else a rule's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.model import CostModel, Prediction
from tensorc.search.population import Population
from tensorc.search.space import ScheduleJson
from tensorc.search.tasks import Task


@dataclass(frozen=True)
class Choice:
    """`origin` is "record", "prediction" or "default" (a rule's). `predicted_seconds` is what the cost model says of
    one call and `deviation` the standard deviation of log2 of that; None without a pretrained model."""

    schedule: ScheduleJson
    origin: str
    predicted_seconds: float | None = None
    deviation: float | None = None


def choose(tasks: Iterable[Task], context: TuningContext, database: Database | None,
           model: CostModel | None) -> dict[str, Choice]:  # fmt: skip
    """A choice for each task, by workload key."""
    return {task.key.workload: _choose(task, context, database, model) for task in tasks}


def _choose(task: Task, context: TuningContext, database: Database | None, model: CostModel | None) -> Choice:
    known = database.records(task.key) if database is not None else ()
    # Of another numeric policy, or of before a knob had fewer choices, there may be records that are not legal here.
    legal = [record for record in known if record.ok and task.space.values(record.schedule) is not None]
    if legal:
        schedule = min(legal, key=lambda record: record.median).schedule
        return Choice(schedule, "record", *_predicted(task, schedule, context, model))
    if model is None:
        return Choice(task.space.default, "default")
    values, prediction = Population(context, model).best(task, 1)
    if not values:
        return Choice(task.space.default, "default")
    return Choice(task.space.schedule(values[0]), "prediction", *_first(prediction))


def _predicted(
    task: Task, schedule: ScheduleJson, context: TuningContext, model: CostModel | None
) -> tuple[float | None, float | None]:
    return (None, None) if model is None else _first(model.predict(context.features(task.body, [schedule])))


def _first(prediction: Prediction) -> tuple[float, float]:
    """Seconds and deviation of the first candidate."""
    return math.pow(2.0, float(prediction.log2_seconds[0])), float(prediction.uncertainty[0])
