"""Measures candidates on this machine: builders and one runner, at work on successive batches at the same time.

The runner has processors of its own while it times: builders that share them are stopped for so long. With one thread
on two cores, one builder goes on on the other core. The caller is moved there too, since the search works while it
waits. Where all processors are timed on, nothing is timed until the caller asks for the result, and so has nothing else
to do.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from targets.cpu.machine import Machine, available_cores, missing_features
from targets.cpu.tuning.measure import BUDGET, MEMORY_LIMIT, STEP_LIMIT, core_cpus
from targets.cpu.tuning.pool import BUILD_LIMIT, BuilderPool
from tensorc.errors import UserError
from tensorc.ir import Graph
from tensorc.search.measure import Measurer, Outcome
from tensorc.search.scratch import ScratchFolder
from tensorc.search.space import ScheduleJson
from tensorc.search.worker import Worker, WorkerError
from tensorc.workload import workload_key

_MEASURE = Path(__file__).with_name("measure.py")
#: Each takes some 400 MB.
_MOST_BUILDERS = 8
#: Bytes of workloads' data to keep for later batches.
_DATA_KEPT = 1 << 30


class CpuMeasurer(Measurer):
    """Builds for `machine` and times on `threads` processors of this one, which must have its features.

    `budget` is the seconds of rounds for each batch; `limit` those that one run of a candidate may take, `build_limit`
    those that it may take to compile; `memory` the bytes that a candidate may allocate. Until `close`, the thread that
    made it keeps off the runner's processors, where there are others.

    Raises UserError if there is no C compiler, not so many cores, or a CPU that `machine`'s code does not run on.
    """

    def __init__(self, machine: Machine, threads: int = 1, *, budget: float = BUDGET, limit: float = STEP_LIMIT,
                 build_limit: float = BUILD_LIMIT, memory: int = MEMORY_LIMIT):  # fmt: skip
        missing = missing_features(machine.features)
        if missing:
            raise UserError(f"no kernel for {machine.name} runs on this CPU, which lacks {', '.join(missing)}: "
                            "export a bundle and measure it there")  # fmt: skip
        cores = core_cpus()
        if threads > len(cores):
            raise UserError(f"there are {len(cores)} cores to measure on, not {threads}")
        self.threads = threads
        self._settings = {"budget": budget, "limit": limit, "memory": memory}
        self._runner_cpus = cores[len(cores) - threads :]
        self._caller_cpus = os.sched_getaffinity(0)
        builders = [{cpu} for cpu in cores[: min(available_cores(), _MOST_BUILDERS)]]
        self._pool = BuilderPool(machine, builders, build_limit)
        self._runner = Worker([sys.executable, str(_MEASURE), "--serve"], cpus=self._runner_cpus)
        self._folder = ScratchFolder("tensorc-measure-")
        self._data = _DataFolders(Path(self._folder.name, "data"))
        # Two at once, so that no builder is idle at a batch's end.
        self._building = ThreadPoolExecutor(2, "batch")
        self._running = ThreadPoolExecutor(1, "run")
        self._futures: set[_Batch] = set()
        self._jobs = 0
        self._waiting = _Waiting()
        if self._keep_off(set(self._runner_cpus)):
            self._waiting.open()

    def _keep_off(self, cpus: set[int]) -> bool:
        """Whether there are others."""
        rest = self._caller_cpus - cpus
        if rest:
            os.sched_setaffinity(0, rest)
        return bool(rest)

    def submit(self, body: Graph, schedules: Sequence[ScheduleJson]) -> Future[list[Outcome]]:
        future = _Batch(self._waiting)
        self._jobs += 1
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        job = Path(self._folder.name, "jobs", str(self._jobs))
        self._building.submit(self._build, future, body, list(schedules), job)
        return future

    def _build(self, future: _Batch, body: Graph, schedules: list[ScheduleJson], job: Path) -> None:
        key = workload_key(body)
        data = self._data.taken(key)
        try:
            failures = self._pool.build(body, schedules, self.threads, job, data)
            self._running.submit(self._run, future, schedules, failures, job, key)
        except BaseException as error:
            self._finish(future, error, job, key)

    def _run(self, future: _Batch, schedules: list[ScheduleJson], failures: list[Outcome | None], job: Path,
             key: str) -> None:  # fmt: skip
        try:
            self._waiting.until_any()
            built = [schedule for schedule, failure in zip(schedules, failures, strict=True) if failure is None]
            measured = iter(self._measured(job, built) if built else [])
            outcomes = [next(measured) if failure is None else failure for failure in failures]
        except BaseException as error:
            self._finish(future, error, job, key)
        else:
            self._finish(future, outcomes, job, key)

    def _finish(self, future: _Batch, result: list[Outcome] | BaseException, job: Path,
                key: str) -> None:  # fmt: skip
        shutil.rmtree(job, ignore_errors=True)
        self._data.given_back(key)
        self._waiting.discard(future)  # now, lest the next batch be timed while the caller wakes up
        with suppress(InvalidStateError):  # cancelled meanwhile
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _measured(self, job: Path, schedules: Sequence[ScheduleJson]) -> list[Outcome]:
        request = {"job": str(job), "cpus": self._runner_cpus, **self._settings}
        # The runner keeps the limits by itself; this is in case that it fails at that.
        limit = 300 + 4 * len(schedules) * self._settings["limit"]
        with self._quiet():
            try:
                answer = self._runner.call(request, limit)
            except WorkerError as error:
                return [Outcome(schedule, failure=error.failure, detail=error.detail) for schedule in schedules]
        if "error" in answer:
            raise RuntimeError(f"cannot measure candidates: {answer['error']}")
        return [
            Outcome(schedule, tuple(row.get("seconds", ())), row.get("failure", ""), row.get("detail", ""))
            for schedule, row in zip(schedules, answer["outcomes"], strict=True)
        ]

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Nobody else on the runner's processors."""
        guests = [worker for worker in self._pool.workers if worker.cpus & set(self._runner_cpus)]
        for worker in guests:
            worker.pause()
        try:
            yield
        finally:
            for worker in guests:
                worker.resume()

    def close(self) -> None:
        for future in list(self._futures):
            future.cancel()
        self._waiting.open()
        self._building.shutdown(wait=False, cancel_futures=True)
        self._running.shutdown(wait=False, cancel_futures=True)
        self._runner.close()
        self._pool.close()
        self._building.shutdown()
        self._running.shutdown()
        self._folder.cleanup()
        with suppress(OSError):  # some of them may have gone meanwhile
            os.sched_setaffinity(0, self._caller_cpus)


class _Waiting:
    """The batches whose results somebody waits for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches: set[_Batch] = set()
        self._open = False

    def add(self, batch: _Batch) -> None:
        with self._changed:
            self._batches.add(batch)
            self._changed.notify_all()

    def discard(self, batch: _Batch) -> None:
        with self._changed:
            self._batches.discard(batch)

    def open(self) -> None:
        """Nobody has to wait for them any more."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def until_any(self) -> None:
        """Return when there are some. (Not when there is a certain one: a later batch may be built before it.)"""
        with self._changed:
            self._changed.wait_for(lambda: self._open or bool(self._batches))


class _Batch(Future[list[Outcome]]):
    def __init__(self, waiting: _Waiting):
        super().__init__()
        self._waiting = waiting

    def result(self, timeout: float | None = None) -> list[Outcome]:
        if not self.done():
            self._waiting.add(self)
        try:
            return super().result(timeout)
        finally:
            self._waiting.discard(self)


class _DataFolders:
    """The folders of workloads' data. Those that no batch has in hand go when all take too much space together, the
    one that was used longest ago first."""

    def __init__(self, root: Path):
        self._root = root
        self._users: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def taken(self, key: str) -> Path:
        with self._lock:
            self._users[key] = self._users.pop(key, 0) + 1
        return self._root / key

    def given_back(self, key: str) -> None:
        with self._lock:
            self._users[key] -= 1
            sizes = {key: _nbytes(self._root / key) for key in self._users}
            for idle in [key for key, users in self._users.items() if not users]:
                if sum(sizes.values()) <= _DATA_KEPT:
                    return
                shutil.rmtree(self._root / idle, ignore_errors=True)
                del self._users[idle], sizes[idle]


def _nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*"))
