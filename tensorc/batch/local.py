"""Jobs one after the other on this machine, whose cores the measurements need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tensorc.batch.job import Job
from tensorc.batch.result import BatchWatch, JobResult
from tensorc.driver import tune_model
from tensorc.errors import UserError
from tensorc.search.tuner import TuningProgress


def run_jobs(jobs: Sequence[Job], database: Path | None, watch: BatchWatch) -> Iterator[tuple[int, JobResult]]:
    """(number, result) of each job as it ends. One that fails does not end the others; an interrupt does."""
    for number, job in enumerate(jobs):

        def tell(progress: TuningProgress, number: int = number) -> None:
            watch(number, progress, "")

        try:
            found = tune_model(job.model, job.options(database), job.budget, seed=job.seed, watch=tell)
            result = JobResult.of(job, found)
        except KeyboardInterrupt:
            result = JobResult(job, stopped="interrupted")
        except UserError as error:
            result = JobResult(job, error=str(error))
        except Exception as error:  # a fault of ours in one job is no reason to give up a night's others
            result = JobResult(job, error=f"internal error: {type(error).__name__}: {' '.join(str(error).split())}")
        yield number, result
        if result.stopped == "interrupted":
            return
