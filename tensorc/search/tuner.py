"""The search: which workload gets the next trials, which candidates they are, and when to stop.

Each round takes the workload whose predicted gain for the whole model is largest and measures a batch of its
candidates: the best of a population evolved under the cost model's scores, and a few where the model is unsure. The
next batch is chosen and built while the last one is still being timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from tensorc.search.budget import Budget
from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.knowledge import Knowledge
from tensorc.search.measure import Measurer, Outcome
from tensorc.search.model import CostModel
from tensorc.search.population import Population
from tensorc.search.space import Values
from tensorc.search.tasks import Task
from tensorc.search.transfer import Transfer

#: Candidates measured together, in turns.
BATCH = 8
#: Batches built or timed at one time.
_IN_FLIGHT = 2
_EXPLORED_SHARE = 0.25
#: Of a workload's first batch, which has to tell whether the workload is worth more.
_FIRST_BATCH = 6
#: Standard deviations by which a candidate may be better than predicted, when it is asked what may be gained.
_OPTIMISM = 2.0
#: Seconds after which a batch is given up, many times what the limits on building and running come to.
_PATIENCE = 3600.0
#: A workload is left alone when less than this share of the whole model's time is to be gained from it.
WORTHWHILE = 0.001


@dataclass(frozen=True)
class TuningProgress:
    """How far a search is. `model_seconds` sums over workloads the count times the best median known, infinite until
    each has one; `label` names the workload at hand."""

    trials: int
    failures: int
    seconds: float
    model_seconds: float
    label: str


@dataclass(frozen=True)
class TuningResult:
    """`history` after every batch; `stopped` says why: "budget", "nothing left to gain", "interrupted", or (a fault of
    the measurer, which keeps limits of its own) "a batch was never answered"."""

    tasks: Sequence[Task]
    history: Sequence[TuningProgress]
    trials: int
    seconds: float
    stopped: str


class Tuner:
    """Tunes the tasks of a model together. Deterministic under `seed` but for what times and the clock decide."""

    def __init__(self, tasks: Iterable[Task], context: TuningContext, database: Database, model: CostModel,
                 measurer: Measurer, *, budget: Budget, seed: int = 0,
                 watch: Callable[[TuningProgress], None] | None = None):  # fmt: skip
        self.tasks = list(tasks)
        self.context = context
        self.model = model
        self.measurer = measurer
        self.budget = budget
        self.watch = watch
        self.population = Population(context, model, seed)
        self.transfer = Transfer(context, database)
        self.knowledge = Knowledge(self.tasks, context, database, model)
        self.trials = self.failures = 0
        self.history: list[TuningProgress] = []
        self._pending: dict[int, list[Values]] = {}
        self._done: set[int] = set()
        self._started = time.monotonic()

    def run(self) -> TuningResult:
        """Search until the budget ends or nothing is left to gain. What was measured is in the database at once."""
        self._started = time.monotonic()
        self.knowledge.recall()
        waiting: list[tuple[int, list[Values], Future[list[Outcome]]]] = []
        stopped = "nothing left to gain"
        try:
            while True:
                while len(waiting) < _IN_FLIGHT and not self._over():
                    choice = self._next()
                    if choice is None:
                        break
                    number, values = choice
                    task = self.tasks[number]
                    self._pending[number] = values
                    waiting.append((number, values, self.measurer.submit(task.body, task.schedules(values))))
                if not waiting:
                    break
                number, values, future = waiting.pop(0)
                outcomes = future.result(_PATIENCE)
                del self._pending[number]
                self.knowledge.learn(number, values, outcomes)
                self._tell(self.tasks[number], outcomes)
            if self._over():
                stopped = "budget"
        except TimeoutError:
            stopped = "a batch was never answered"
        except KeyboardInterrupt:
            stopped = "interrupted"
        return TuningResult(self.tasks, self.history, self.trials, self._elapsed(), stopped)

    def _tell(self, task: Task, outcomes: Sequence[Outcome]) -> None:
        self.trials += len(outcomes)
        self.failures += sum(not outcome.ok for outcome in outcomes)
        progress = TuningProgress(
            self.trials, self.failures, self._elapsed(), model_seconds(self.tasks), task.label
        )  # fmt: skip
        self.history.append(progress)
        if self.watch is not None:
            self.watch(progress)

    # Budget ---------------------------------------------------------------------------------------------

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _left(self) -> int:
        """Trials that may still be started."""
        if self.budget.trials is None:
            return BATCH
        return self.budget.trials - self.trials - sum(map(len, self._pending.values()))

    def _over(self) -> bool:
        return self._elapsed() >= self.budget.seconds or self._left() <= 0

    # Choice ---------------------------------------------------------------------------------------------

    def _next(self) -> tuple[int, list[Values]] | None:
        """The workload with the largest predicted gain and the candidates to try on it; None when none is worth it."""
        fresh = [n for n, task in enumerate(self.tasks) if task.best is None and self._is_open(n)]
        first = self._first(fresh)
        if first is not None:
            return first
        whole = sum(task.seconds for task in self.tasks)
        best: tuple[float, int, list[Values]] | None = None
        for number, task in enumerate(self.tasks):
            if not self._is_open(number):
                continue
            known = task.best
            if known is None:
                continue
            # No candidate makes a workload take no time at all: those too small to matter are not even scored.
            if task.count * known.median < WORTHWHILE * whole:
                continue
            values, hoped = self._candidates(task, known)
            gain = task.count * (known.median - hoped)
            if not values:
                self._done.add(number)
            elif gain >= WORTHWHILE * whole and (best is None or gain > best[0]):
                best = gain, number, values
        return None if best is None else (best[1], best[2])

    def _is_open(self, number: int) -> bool:
        return number not in self._pending and number not in self._done

    def _first(self, fresh: list[int]) -> tuple[int, list[Values]] | None:
        """The first batch of the workload that takes longest by prediction: what the rules pick, what served similar
        workloads, and what the model thinks best. None when nothing is left to try for any of `fresh`."""
        if not fresh:
            return None
        scored = []
        for number in fresh:
            task = self.tasks[number]
            values, prediction = self.population.best(task, _FIRST_BATCH)
            scored.append((task.count * 2.0 ** float(prediction.log2_seconds.min(initial=math.inf)), number, values))
        _, number, predicted = max(scored, key=lambda row: row[0])
        task = self.tasks[number]
        if task.measured:  # all that was tried failed
            values = predicted
        else:
            values = list(dict.fromkeys([task.space.default_values(), *self.transfer.suggestions(task), *predicted]))
        values = [v for v in values if v not in task.measured][: min(_FIRST_BATCH, self._left())]
        if not values:
            self._done.add(number)
            return self._first([n for n in fresh if n != number])
        return number, values

    def _candidates(self, task: Task, known: Outcome) -> tuple[list[Values], float]:
        """A batch of new candidates, and the shortest time in seconds that the model finds plausible for one."""
        values, prediction = self.population.all(task)
        if not values:
            return [], math.inf
        count = min(BATCH, self._left())
        explored = int(count * _EXPLORED_SHARE)
        chosen = list(range(min(count - explored, len(values))))
        # Where the model is unsure it may be wrong to our advantage: what may be fast is worth a look.
        optimistic = prediction.log2_seconds - _OPTIMISM * prediction.uncertainty
        chosen += [i for i in np.argsort(optimistic, kind="stable").tolist() if i not in chosen][: count - len(chosen)]
        # Predictions count relative to what the model says of the best known one: its level may be off.
        said = self.model.predict(self.context.features(task.body, [known.schedule])).log2_seconds[0]
        hoped = 2.0 ** float(optimistic[chosen].min() + math.log2(known.median) - said)
        return [values[i] for i in chosen], hoped


def model_seconds(tasks: Iterable[Task]) -> float:
    """The sum over workloads of count times best median; infinite while one has none."""
    return sum(task.count * (task.best.median if task.best else math.inf) for task in tasks)


def tune(tasks: Iterable[Task], context: TuningContext, database: Database, budget: Budget, *, seed: int = 0,
         watch: Callable[[TuningProgress], None] | None = None) -> TuningResult:  # fmt: skip
    """Tune a model's tasks on this machine, led by the target's pretrained model where it has one."""
    model = context.pretrained(seed) or context.untrained(seed)
    with context.measurer() as measurer:
        return Tuner(tasks, context, database, model, measurer, budget=budget, seed=seed, watch=watch).run()
