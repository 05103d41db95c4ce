"""The tuning tasks of a model: its distinct workloads that leave something to choose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tensorc.ir.graph import Graph
from tensorc.search.context import TuningContext
from tensorc.search.measure import Outcome
from tensorc.search.records import Key
from tensorc.search.space import ScheduleJson, Space, Values
from tensorc.workload import workload_label


@dataclass
class Task:
    """One workload. `count` is how often one run of the model meets it; `measured` what is known of candidates."""

    key: Key
    body: Graph
    space: Space
    label: str
    count: int = 1
    measured: dict[Values, Outcome] = field(default_factory=dict)

    @property
    def best(self) -> Outcome | None:
        """The shortest median so far; None before the first success."""
        good = [outcome for outcome in self.measured.values() if outcome.ok]
        return min(good, key=lambda outcome: outcome.median, default=None)

    @property
    def default(self) -> Outcome | None:
        """The schedule that rules pick; None until it was measured well."""
        outcome = self.measured.get(self.space.default_values())
        return outcome if outcome is not None and outcome.ok else None

    @property
    def seconds(self) -> float:
        """Of one run of the model, as far as is known; 0 where nothing is."""
        return self.count * self.best.median if self.best else 0.0

    def schedules(self, values: Iterable[Values]) -> list[ScheduleJson]:
        return [self.space.schedule(v) for v in values]


def tasks_of(graph: Graph, context: TuningContext) -> list[Task]:
    """Of a graph of fused groups, in order of first use."""
    return tasks_of_bodies(_bodies(graph, 1), context)


def _bodies(graph: Graph, calls: int) -> Iterator[tuple[Graph, int]]:
    for node in graph.nodes:
        if node.body is not None:
            yield node.body, calls
        inside = calls if node.op != "loop" or node.attrs["conditional"] else calls * node.attrs["trips"]
        for region in node.regions:
            yield from _bodies(region, inside)


def tasks_of_bodies(bodies: Iterable[tuple[Graph, int]], context: TuningContext) -> list[Task]:
    """Of fused groups' bodies, each with the number of calls of its kernel."""
    tasks: dict[Key, Task] = {}
    for body, calls in bodies:
        key = context.key(body)
        if key in tasks:
            tasks[key].count += calls
        elif (space := context.space(body)) is not None:
            tasks[key] = Task(key, body, space, workload_label(body), calls)
    return list(tasks.values())
