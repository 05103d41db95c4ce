"""What came of a job, and how far a batch is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tensorc.batch.job import Job
from tensorc.search.tuner import TuningProgress, TuningResult


@dataclass(frozen=True)
class JobResult:
    """`error` is why the job did not run to its end, "" if it did; the rest is what was found until then.

    `rule_seconds` and `best_seconds` sum over the kernels of one run of the model, as the rules schedule them and as
    the best measured schedules do; None where a kernel has no such time yet.
    """

    job: Job
    error: str = ""
    stopped: str = ""
    trials: int = 0
    failures: int = 0
    seconds: float = 0.0
    rule_seconds: float | None = None
    best_seconds: float | None = None
    history: Sequence[TuningProgress] = ()

    @property
    def ok(self) -> bool:
        return not self.error

    @classmethod
    def of(cls, job: Job, result: TuningResult) -> JobResult:
        rules = [(task.count, task.default) for task in result.tasks]
        bests = [(task.count, task.best) for task in result.tasks]
        return cls(
            job=job,
            stopped=result.stopped,
            trials=result.trials,
            failures=result.history[-1].failures if result.history else 0,
            seconds=result.seconds,
            rule_seconds=_total(rules),
            best_seconds=_total(bests),
            history=result.history,
        )

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "job": self.job.to_json(), "history": [vars(progress) for progress in self.history]}


def _total(rows: Sequence[tuple[int, Any]]) -> float | None:
    if any(outcome is None for _, outcome in rows):
        return None
    return sum(count * float(outcome.median) for count, outcome in rows)


#: Called with the job's number from 0 on, how far it is, and who runs it, such as "node1, process 4711" ("" for here).
BatchWatch = Callable[[int, TuningProgress, str], None]
