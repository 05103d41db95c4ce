"""How a batch of jobs runs and shows: one bar for all, a line for each, a table at the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from tensorc.batch.job import Job
from tensorc.batch.result import BatchWatch, JobResult
from tensorc.cli.console import duration, print_json, print_table, progress_bar
from tensorc.driver import Watch
from tensorc.search.tuner import TuningProgress

#: The bar's steps for a whole batch.
_STEPS = 1000


def run_batch(jobs: Sequence[Job], database: Path | None, cluster: str | None) -> list[JobResult]:
    """Results in the jobs' order; where the batch was interrupted, those that did not start are failures too."""
    results: dict[int, JobResult] = {}
    # Ray prints what happens to its workers on standard output, where the results belong.
    with redirect_stdout(sys.stderr), progress_bar() as bar:
        progress = _BatchProgress(jobs, bar)
        for number, result in _started(jobs, database, cluster, progress.tell):
            results[number] = result
            progress.end(number, result)
    return [results.get(n, JobResult(job, error="not run: the batch was interrupted")) for n, job in enumerate(jobs)]


def _started(
    jobs: Sequence[Job], database: Path | None, cluster: str | None, watch: BatchWatch
) -> Iterator[tuple[int, JobResult]]:
    if cluster == "ray":
        from tensorc.batch.ray import run_jobs
    else:
        from tensorc.batch.local import run_jobs
    return run_jobs(jobs, database, watch)


class _BatchProgress:
    """The share of all jobs' budgets that is spent; each job counts as much as its time, if all are given times."""

    def __init__(self, jobs: Sequence[Job], bar: Watch):
        self.jobs = jobs
        self.bar = bar
        times = [job.budget.seconds for job in jobs]
        self.weights = times if all(map(math.isfinite, times)) else [1.0] * len(jobs)
        self.shares = [0.0] * len(jobs)
        self.ended = 0
        self._show(jobs[0].label if jobs else "")

    def tell(self, number: int, progress: TuningProgress, worker: str) -> None:
        budget = self.jobs[number].budget
        spent = [progress.seconds / budget.seconds] + ([progress.trials / budget.trials] if budget.trials else [])
        self.shares[number] = min(max(spent), 1.0)
        best = "measuring" if math.isinf(progress.model_seconds) else f"best {duration(progress.model_seconds)}"
        where = f" on {worker}" if worker else ""
        self._show(f"{self.jobs[number].label}: {best}, {progress.trials} trials{where}")

    def end(self, number: int, result: JobResult) -> None:
        self.shares[number] = 1.0
        self.ended += 1
        line = f"{result.job.label}: {_outcome(result)}"
        self._show(line)
        if not sys.stderr.isatty():  # in a log a bar is nothing, and a night is long
            print(f"job {self.ended} of {len(self.jobs)}: {line}", file=sys.stderr, flush=True)

    def _show(self, label: str) -> None:
        spent = sum(share * weight for share, weight in zip(self.shares, self.weights, strict=True))
        done = int(_STEPS * spent / sum(self.weights)) if self.jobs else 0
        self.bar(f"{self.ended} of {len(self.jobs)} jobs", done, _STEPS, label)


def _outcome(result: JobResult) -> str:
    if not result.ok:
        return result.error
    _, best, gain = _times(result)
    return f"{best} ({gain}), {result.trials} trials, stopped: {result.stopped}"


def _times(result: JobResult) -> tuple[str, str, str]:
    """By rule, best, and the gain."""
    before, after = result.rule_seconds, result.best_seconds
    gain = f"{before / after:.2f}x" if before and after else "-"
    return "-" if before is None else duration(before), "-" if after is None else duration(after), gain


def print_batch(results: Sequence[JobResult]) -> None:
    rows = []
    for result in results:
        trials = str(result.trials) + (f" ({result.failures} failed)" if result.failures else "")
        ended = result.stopped if result.ok else result.error
        rows.append((result.job.label, *_times(result), trials, duration(result.seconds), ended))
    failed = sum(not result.ok for result in results)
    title = f"{len(results)} jobs" + (f", {failed} failed" if failed else "")
    print_table(title, ("job", "by rule", "best", "gain", "trials", "time", "stopped"), rows)


def print_batch_json(results: Iterable[JobResult]) -> None:
    print_json({"jobs": [result.to_json() for result in results]})
