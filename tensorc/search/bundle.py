"""Candidates to be measured elsewhere: what goes into a bundle, and what comes back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tensorc.ir.graph import Graph
from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.knowledge import Knowledge
from tensorc.search.model import CostModel
from tensorc.search.population import Population
from tensorc.search.records import Key, Record
from tensorc.search.space import ScheduleJson
from tensorc.search.tasks import Task
from tensorc.search.transfer import Transfer


@dataclass(frozen=True)
class BundleTask:
    """Candidates of one workload; `key` is what their records will bear."""

    key: Key
    body: Graph
    schedules: Sequence[ScheduleJson]


@dataclass(frozen=True)
class BundleResults:
    """What came back: records of all candidates that were timed or could not be built; jobs without an answer yet."""

    records: list[Record]
    unmeasured: int


def bundle_tasks(tasks: Sequence[Task], context: TuningContext, database: Database, model: CostModel, trials: int,
                 seed: int = 0) -> list[BundleTask]:  # fmt: skip
    """At most `trials` candidates that are not in the database yet, dealt out by the workloads' shares of the time.

    Of each workload: the rules' schedule, what served similar ones, then the model's favourites.
    """
    Knowledge(tasks, context, database, model).recall()
    population, transfer = Population(context, model, seed), Transfer(context, database)
    wanted, seconds = [], []
    for task in tasks:
        values, prediction = population.all(task)
        first = [task.space.default_values(), *transfer.suggestions(task)]
        values = [v for v in dict.fromkeys([*first, *values]) if v not in task.measured]
        wanted.append(values)
        predicted = 2.0 ** float(prediction.log2_seconds.min(initial=math.inf))
        seconds.append(task.seconds or (task.count * predicted if values else 0.0))
    counts = [min(1, len(values)) for values in wanted]
    while sum(counts) < trials:
        open_ = [number for number, values in enumerate(wanted) if counts[number] < len(values)]
        if not open_:
            break
        # To whom the next candidate is worth most: the one with most time for each candidate that it has.
        counts[max(open_, key=lambda number: seconds[number] / (1 + counts[number]))] += 1
    longest_first = sorted(range(len(tasks)), key=lambda number: -seconds[number])
    rows, left = [], trials
    for number in longest_first:
        values = wanted[number][: min(counts[number], left)]
        left -= len(values)
        if values:
            task = tasks[number]
            rows.append(BundleTask(task.key, task.body, task.schedules(values)))
    return rows
