"""Builds jobs, in several worker processes at once. TVM is theirs alone to import."""

from __future__ import annotations

import queue
import sys
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from targets.cpu.link import compile_object
from targets.cpu.machine import Machine
from tensorc.ir import Graph, print_graph
from tensorc.search.measure import Outcome
from tensorc.search.scratch import ScratchFolder
from tensorc.search.space import ScheduleJson
from tensorc.search.worker import Worker, WorkerError

#: Seconds that compiling one candidate may take; linking a job.
BUILD_LIMIT, _LINK_LIMIT = 60.0, 60.0
_STEPPER = Path(__file__).with_name("stepper.c")
_ROOT = Path(__file__).parents[3]
_MOST_DETAIL = 500


class BuilderPool:
    """A worker for each of `cpus`, the processors that each may use. `build` may be called from several threads.

    Raises UserError if there is no C compiler, RuntimeError if it does not work.
    """

    def __init__(self, machine: Machine, cpus: Sequence[Collection[int]], limit: float = BUILD_LIMIT):
        self._machine = vars(machine) | {"features": sorted(machine.features)}
        self._limit = limit
        self._folder = ScratchFolder("tensorc-build-")
        self._stepper = Path(self._folder.name, "stepper.o")
        try:
            compile_object(_STEPPER, self._stepper)
        except BaseException:
            self._folder.cleanup()
            raise
        command = [sys.executable, "-P", "-m", "targets.cpu.tuning.builder"]
        self.workers = [Worker(command, {"PYTHONPATH": str(_ROOT)}, each) for each in cpus]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(len(self.workers), "build")

    def build(self, body: Graph, schedules: Sequence[ScheduleJson], threads: int, job: Path,
              data: Path) -> list[Outcome | None]:  # fmt: skip
        """Make `job` a folder with a job, whose workload's data is in `data` afterwards.

        For each schedule its failure, or None if it is in the job, where those that are stand in order. There is no
        job if there are none. Raises RuntimeError for what is not a candidate's doing.
        """
        job.mkdir(parents=True)
        text = print_graph(body)
        objects = [job / f"c{number}.o" for number in range(len(schedules))]

        def compile_one(number: int) -> dict[str, Any]:
            row = {"body": text, "machine": self._machine, "schedule": schedules[number], "symbol": f"c{number}",
                   "data": str(data), "object": str(objects[number])}  # fmt: skip
            return self._ask("candidate", row, self._limit)

        answers = list(self._threads.map(compile_one, range(len(schedules))))
        good = [number for number, answer in enumerate(answers) if "built" in answer]
        if good:
            fault = self._link(job, data, answers, objects, good, threads)
            if fault:
                # Rarely: each by itself shows which it is.
                for number in good:
                    alone = self._link(job, data, answers, objects, [number], threads)
                    if alone or len(good) == 1:
                        answers[number] = {"failure": alone or fault}
                good = [number for number in good if "built" in answers[number]]
                if good and (fault := self._link(job, data, answers, objects, good, threads)):
                    raise RuntimeError(fault)
        for path in objects:
            path.unlink(missing_ok=True)
        return [
            None if "built" in answer else Outcome(schedule, failure="build", detail=answer["failure"][:_MOST_DETAIL])
            for schedule, answer in zip(schedules, answers, strict=True)
        ]

    def _link(self, job: Path, data: Path, answers: Sequence[dict[str, Any]], objects: Sequence[Path],
              chosen: Sequence[int], threads: int) -> str:  # fmt: skip
        """What is wrong with a job of the chosen candidates, "" if nothing."""
        row = {"folder": str(job), "data": str(data), "stepper": str(self._stepper), "machine": self._machine,
               "candidates": [answers[number]["built"] for number in chosen],
               "objects": [str(objects[number]) for number in chosen], "threads": threads}  # fmt: skip
        return str(self._ask("job", row, _LINK_LIMIT).get("failure", ""))

    def _ask(self, what: str, row: dict[str, Any], limit: float) -> dict[str, Any]:
        with self._worker() as worker:
            try:
                answer: dict[str, Any] = worker.call({what: row}, limit)
            except WorkerError as error:
                return {"failure": f"the compiler gave no answer: {error}"}
        if "error" in answer:
            raise RuntimeError(f"cannot build a candidate: {answer['error']}")
        return answer

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        """One that has nothing to do."""
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self.workers:
            worker.close()
        self._threads.shutdown()
        self._folder.cleanup()
