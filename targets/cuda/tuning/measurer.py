"""Measures candidates on this machine's GPU: built here, timed by children of `measure.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from targets.cuda import gpu as gpus
from targets.cuda.driver import capability
from targets.cuda.gpu import Gpu
from targets.cuda.tuning.jobs import build_job
from targets.cuda.tuning.measure import measure
from tensorc.errors import UserError
from tensorc.ir import Graph
from tensorc.search.measure import Measurer, Outcome
from tensorc.search.space import ScheduleJson
from tensorc.workload import workload_key


class CudaMeasurer(Measurer):
    """One batch after the other is built; meanwhile the one before is timed."""

    def __init__(self, gpu: Gpu):
        """Raises UserError where the first GPU is none that `gpu`'s machine code runs on."""
        found = capability()
        if found is None:
            raise UserError("there is no NVIDIA GPU to measure on: export a bundle and measure it where one is")
        if gpus.detect() != gpu:
            raise UserError(f"this GPU is of sm_{found}: tune for cuda:sm_{found}, or measure a bundle elsewhere")
        self._gpu = gpu
        self._folder = tempfile.TemporaryDirectory(prefix="tensorc-measure-")
        self._building = ThreadPoolExecutor(1, "build")
        self._timing = ThreadPoolExecutor(1, "time")
        self._jobs = 0

    def submit(self, body: Graph, schedules: Sequence[ScheduleJson]) -> Future[list[Outcome]]:
        self._jobs += 1
        root = Path(self._folder.name)
        job, data = root / "jobs" / str(self._jobs), root / "data" / workload_key(body)
        built = self._building.submit(build_job, body, list(schedules), self._gpu, job, data)
        return self._timing.submit(_timed, list(schedules), built, job)

    def close(self) -> None:
        for pool in (self._building, self._timing):
            pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


def _timed(schedules: Sequence[ScheduleJson], built: Future[list[Outcome | None]], job: Path) -> list[Outcome]:
    failures = built.result()
    rows = iter(measure(job) if None in failures else ())
    outcomes = []
    for schedule, failure in zip(schedules, failures, strict=True):
        if failure is not None:
            outcomes.append(failure)
            continue
        row = next(rows)
        outcomes.append(Outcome(schedule, tuple(row.get("seconds", ())), row.get("failure", ""), row.get("detail", "")))
    return outcomes
