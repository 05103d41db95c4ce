"""Jobs on the machines of a Ray cluster, as many at a time as it has cores for.

Models are lowered here; a worker is sent the texts of workloads, so it needs neither the model's file nor its weights.
It sends each batch's records back at once, and they go into the database here: a job whose worker dies is taken up by
another one, which is told all that was measured before and spends what is left of the budget.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tensorc.batch.cores import claimed
from tensorc.batch.job import Job
from tensorc.batch.result import BatchWatch, JobResult
from tensorc.driver import tuning_tasks
from tensorc.errors import UserError
from tensorc.ir.text import parse_graph, print_graph
from tensorc.search.budget import Budget
from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.records import Record
from tensorc.search.tasks import tasks_of_bodies
from tensorc.search.tuner import TuningProgress, tune
from tensorc.target import find_target

#: Workers that a job may lose before it is given up.
MOST_DEATHS = 3
#: Seconds after which a worker that has nothing to tell says so.
_SILENCE = 1.0


@dataclass(frozen=True)
class _Order:
    """What a worker is sent. `bodies` has texts and how often each kernel is called; `records` are JSON lines."""

    job: Job
    machine: str
    compiler: str
    threads: int
    bodies: Sequence[tuple[str, int]]
    records: Sequence[str]
    budget: Budget


@dataclass(frozen=True)
class _News:
    """What a worker sends: records as JSON lines, progress (None where there is none), and who it is."""

    records: Sequence[str]
    progress: TuningProgress | None
    worker: str


class _Outbox(Database):
    """A database in memory that keeps what was added last to be sent."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._unsent: list[str] = []

    def add(self, records: Iterable[Record]) -> int:
        batch = list(records)
        self._unsent += [record.to_line() for record in batch]
        return super().add(batch)

    def taken(self) -> list[str]:
        lines, self._unsent = self._unsent, []
        return lines


class _TuningWorker:
    """A Ray actor with two threads: one in `run`, one in `news`."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._name = f"{socket.gethostname()}, process {os.getpid()}"

    def run(self, order: _Order) -> JobResult:
        """Tune until the budget ends. Raises UserError where this machine is not the one that the job is for."""
        job = order.job
        context = find_target(job.target).tuning(replace(job.options(None), threads=order.threads))
        assert context is not None, "the sender has asked"
        for what, here, there in (
            ("machine", context.machine, order.machine),
            ("compiler", context.compiler, order.compiler),
        ):
            if here != there:
                raise UserError(f"the {what} of {self._name} is {here}, not {there} as where the jobs come from")
        outbox = _Outbox.memory()
        outbox.load(order.records)
        outbox.taken()

        def watch(progress: TuningProgress) -> None:
            self._news.put(_News(outbox.taken(), progress, self._name))

        tasks = tasks_of_bodies(((parse_graph(text), calls) for text, calls in order.bodies), context)
        with claimed(context.cores(), order.threads):
            return JobResult.of(job, tune(tasks, context, outbox, order.budget, seed=job.seed, watch=watch))

    def news(self, patience: float) -> list[_News]:
        """What there is since the last call; an empty list when nothing comes for so many seconds."""
        found: list[_News] = []
        try:
            found.append(self._news.get(timeout=patience))
            while True:
                found.append(self._news.get_nowait())
        except queue.Empty:
            return found


_NOTHING = TuningProgress(0, 0, 0.0, 0.0, "")


@dataclass
class _Running:
    """A job in the hands of a worker. `spent` is what its earlier workers, that died, had done."""

    number: int
    job: Job
    context: TuningContext
    bodies: Sequence[tuple[str, int]]
    actor: Any = None
    done: Any = None
    telling: Any = None
    deaths: int = 0
    spent: TuningProgress = _NOTHING
    history: list[TuningProgress] = field(default_factory=list)

    @property
    def budget(self) -> Budget:
        """What is left of it."""
        whole = self.job.budget
        trials = None if whole.trials is None else max(whole.trials - self.spent.trials, 0)
        return Budget(max(whole.seconds - self.spent.seconds, 0.0), trials)

    def since_start(self, progress: TuningProgress) -> TuningProgress:
        """`progress` of the worker at hand, with what was spent before it."""
        spent = self.spent
        return replace(progress, trials=progress.trials + spent.trials, failures=progress.failures + spent.failures,
                       seconds=progress.seconds + spent.seconds)  # fmt: skip

    def failed(self, error: str) -> JobResult:
        last = self.history[-1] if self.history else self.spent
        return JobResult(self.job, error=error, trials=last.trials, failures=last.failures, seconds=last.seconds,
                         history=self.history)  # fmt: skip


def run_jobs(jobs: Sequence[Job], database: Path | None, watch: BatchWatch) -> Iterator[tuple[int, JobResult]]:
    """(number, result) of each job as it ends, on the cluster that Ray is connected to, that RAY_ADDRESS names or that
    runs on this machine; else on one that is started here for the purpose.

    Raises UserError if Ray is not installed.
    """
    ray = _import_ray()
    with _connection(ray), Database(database) as records:
        yield from _Cluster(ray, records, watch).run(jobs)


class _Cluster:
    def __init__(self, ray: Any, database: Database, watch: BatchWatch):
        self.ray = ray
        self.database = database
        self.watch = watch
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        self.cores, self.most = int(sum(nodes)), int(max(nodes, default=0))
        self.running: list[_Running] = []

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, JobResult]]:
        waiting = deque(enumerate(jobs))
        ready: _Running | None = None
        try:
            while waiting or ready or self.running:
                if ready is None and waiting:
                    number, job = waiting.popleft()
                    try:
                        ready = self._lowered(number, job)
                    except UserError as error:
                        yield number, JobResult(job, error=str(error))
                        continue
                if ready and self.cores - sum(each.context.threads for each in self.running) >= ready.context.threads:
                    self._start(ready)
                    self.running.append(ready)
                    ready = None
                    continue
                yield from self._ended()
        except KeyboardInterrupt:
            for each in self.running:
                yield each.number, replace(each.failed("interrupted"), stopped="interrupted")
        finally:
            for each in self.running:
                self.ray.kill(each.actor)

    def _lowered(self, number: int, job: Job) -> _Running:
        tasks, context = tuning_tasks(job.model, job.options(None))
        if context.threads > self.most:
            raise UserError(f"no machine of the cluster has {context.threads} cores, the largest has {self.most}")
        return _Running(number, job, context, [(print_graph(task.body), task.count) for task in tasks])

    def _start(self, running: _Running) -> None:
        context = running.context
        known = self.database.records(target=context.machine, compiler=context.compiler, threads=context.threads)
        order = _Order(
            job=running.job,
            machine=context.machine,
            compiler=context.compiler,
            threads=context.threads,
            bodies=running.bodies,
            records=[record.to_line() for record in known],
            budget=running.budget,
        )
        worker = self.ray.remote(_TuningWorker).options(num_cpus=context.threads, max_concurrency=2, max_restarts=0)
        running.actor = worker.remote()
        running.done = running.actor.run.remote(order)
        running.telling = running.actor.news.remote(_SILENCE)

    def _ended(self) -> Iterator[tuple[int, JobResult]]:
        """Wait for news of any job, and take it in; the results of those that ended."""
        answers = [answer for each in self.running for answer in (each.done, each.telling)]
        self.ray.wait(answers, num_returns=1, timeout=10 * _SILENCE)
        for each in list(self.running):
            result = self._looked_at(each)
            if result is not None:
                self.running.remove(each)
                self.ray.kill(each.actor)
                yield each.number, result

    def _looked_at(self, running: _Running) -> JobResult | None:
        """Its result, None while it goes on."""
        ray = self.ray
        try:
            if self._is_there(running.telling):
                self._take(running, ray.get(running.telling))
                running.telling = running.actor.news.remote(_SILENCE)
            if not self._is_there(running.done):
                return None
            result: JobResult = ray.get(running.done)
            self._take(running, [*ray.get(running.telling), *ray.get(running.actor.news.remote(0.0))])
        except ray.exceptions.RayActorError as error:
            running.deaths += 1
            if running.deaths == MOST_DEATHS:
                return running.failed(f"{MOST_DEATHS} workers died of it: {' '.join(str(error).split())[:300]}")
            running.spent = running.history[-1] if running.history else running.spent
            self._start(running)
            return None
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            kind = "" if isinstance(cause, UserError) else f"internal error: {type(cause).__name__}: "
            return running.failed(kind + " ".join(str(cause).split()))
        spent = running.spent
        return replace(result, trials=result.trials + spent.trials, failures=result.failures + spent.failures,
                       seconds=result.seconds + spent.seconds, history=running.history)  # fmt: skip

    def _is_there(self, answer: Any) -> bool:
        return bool(self.ray.wait([answer], timeout=0)[0])

    def _take(self, running: _Running, news: Sequence[_News]) -> None:
        for each in news:
            self.database.load(each.records)
            if each.progress is not None:
                running.history.append(running.since_start(each.progress))
                self.watch(running.number, running.history[-1], each.worker)


def _import_ray() -> Any:
    # Ray reports its use to its makers unless told not to; whoever compiles models has not been asked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--cluster ray needs Ray: pip install 'tensorc[ray]'") from error
    return ray


@contextmanager
def _connection(ray: Any) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot reach a Ray cluster: {' '.join(str(error).split())[:300]}") from error
    try:
        yield
    finally:
        ray.shutdown()
