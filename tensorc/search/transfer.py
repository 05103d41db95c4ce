"""What served similar workloads: the best schedules of records whose workloads look alike to the cost model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tensorc.errors import IRError
from tensorc.ir.text import parse_graph
from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.space import ScheduleJson, Values
from tensorc.search.tasks import Task

_SUGGESTIONS = 3
#: Workloads of a database that are looked at.
_MOST_WORKLOADS = 1000


class Transfer:
    """Reads the database once, when it is first asked."""

    def __init__(self, context: TuningContext, database: Database):
        self.context = context
        self.database = database
        self._known: list[tuple[str, ScheduleJson, np.ndarray]] | None = None

    def suggestions(self, task: Task) -> list[Values]:
        """The best schedules of the most similar other workloads that are legal for this one, nearest first.

        Workloads are alike when the features of their best candidate are near to those that the same schedule has here.
        """
        if self._known is None:
            self._known = self._read(task)
        found = []
        for workload, schedule, there in self._known:
            values = task.space.values(schedule)
            if values is not None and workload != task.key.workload:
                here = self.context.features(task.body, [schedule])[0]
                found.append((float(np.abs(here - there).sum()), values))
        found.sort(key=lambda pair: pair[0])
        return list(dict.fromkeys(values for _, values in found))[:_SUGGESTIONS]

    def _read(self, task: Task) -> list[tuple[str, ScheduleJson, np.ndarray]]:
        known = []
        for number, (workload, text) in enumerate(self.database.similar(task.key)):
            if number == _MOST_WORKLOADS:
                break
            record = self.database.best(replace(task.key, workload=workload))
            if record is None:
                continue
            try:
                body = parse_graph(text)
            except IRError:
                continue  # written by another version of the IR
            known.append((workload, record.schedule, self.context.features(body, [record.schedule])[0]))
        return known
