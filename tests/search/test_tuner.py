"""The search on a machine that is a formula: it finds the best, keeps to its budget, and survives failures."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import Future

import numpy as np
import pytest

from tensorc.ir import parse_graph
from tensorc.search.budget import Budget
from tensorc.search.choice import choose
from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.measure import Measurer, Outcome
from tensorc.search.model import CostModel, Prediction
from tensorc.search.space import Algorithm, Space
from tensorc.search.tasks import tasks_of
from tensorc.search.transfer import Transfer
from tensorc.search.tuner import Tuner, model_seconds
from tensorc.workload import workload_key

GRAPH = """graph @main(%x: f32[8,16], %y: f32[4,16]) {
  %a = group(%x) { graph @body(%p: f32[8,16]) { %q = relu(%p) : f32[8,16] return %q } } : f32[8,16]
  %b = group(%y) { graph @body(%p: f32[4,16]) { %q = relu(%p) : f32[4,16] return %q } } : f32[4,16]
  %c = group(%b) { graph @body(%p: f32[4,16]) { %q = relu(%p) : f32[4,16] return %q } } : f32[4,16]
  return %a, %c
}"""


def seconds(rows, schedule):
    """The formula: the best tile is as high as the tensor."""
    return 1e-3 * (1 + abs(math.log2(schedule["tile"] / rows))) * (1 + schedule["unroll"] / 10)


class Formula(Measurer):
    """`broken` schedules crash."""

    def __init__(self, broken=lambda _: False):
        self.broken = broken
        self.batches = []

    def submit(self, body, schedules):
        rows = body.inputs[0].shape[0]
        self.batches.append(list(schedules))
        future = Future()
        future.set_result([
            Outcome(s, failure="crash", detail="as planned") if self.broken(s) else Outcome(s, (seconds(rows, s),))
            for s in schedules
        ])  # fmt: skip
        return future

    def close(self):
        pass


class Guess(CostModel):
    """Knows the first feature, and counts what it is told."""

    name = "guess"

    def __init__(self):
        self.told = 0

    def predict(self, features):
        return Prediction(features[:, 0], np.full(len(features), 1.0))

    def rank(self, features):
        return -features[:, 0]

    def update(self, samples):
        self.told = len(samples)


class Bench(TuningContext):
    machine, compiler, threads = "formula", "none", 1

    def space(self, _body):
        algorithm = Algorithm("tile", {"tile": (1, 2, 4, 8, 16, 32), "unroll": (1, 2, 3, 4)}, lambda _: True)
        return Space((algorithm,), {"kind": "tile", "tile": 1, "unroll": 4})

    def features(self, body, schedules):
        rows = body.inputs[0].shape[0]
        # Right about the tile, blind to the unrolling.
        return np.array([[math.log2(seconds(rows, s | {"unroll": 1})), s["unroll"]] for s in schedules])

    def pretrained(self, seed=0):  # noqa: ARG002
        return None

    def untrained(self, seed=0):  # noqa: ARG002
        return Guess()

    def measurer(self):
        return Formula()


@pytest.fixture
def graph():
    return parse_graph(GRAPH)


def tuned(graph, database=None, measurer=None, **budget):
    context = Bench()
    tasks = tasks_of(graph, context)
    measurer = measurer or Formula()
    model = Guess()
    tuner = Tuner(tasks, context, database or Database.memory(), model, measurer, budget=Budget(**budget))
    return tuner.run(), measurer, model


def test_tasks_are_distinct_workloads_with_their_counts(graph):
    tasks = tasks_of(graph, Bench())
    assert [(task.count, task.label) for task in tasks] == [(1, "relu"), (2, "relu")]
    assert [task.key.workload for task in tasks] == [workload_key(n.body) for n in graph.nodes[:2]]


def test_it_finds_the_best_and_stops_by_itself(graph):
    result, measurer, model = tuned(graph)
    assert result.stopped == "nothing left to gain"
    assert [task.best.schedule for task in result.tasks] == [
        {"kind": "tile", "tile": 8, "unroll": 1}, {"kind": "tile", "tile": 4, "unroll": 1},
    ]  # fmt: skip
    assert model_seconds(result.tasks) == pytest.approx(3 * 1.1e-3)
    assert result.trials == sum(map(len, measurer.batches)) == model.told


def test_nothing_is_measured_twice(graph):
    _, measurer, _ = tuned(graph)
    seen = [tuple(sorted(s.items())) for batch in measurer.batches for s in batch]
    assert len(seen) <= 2 * 24
    database = Database.memory()
    first, _, _ = tuned(graph, database)
    again, measurer, _ = tuned(graph, database)
    assert measurer.batches == []
    assert again.trials == 0
    assert model_seconds(again.tasks) == model_seconds(first.tasks)


@pytest.mark.parametrize("trials", [1, 5, 8, 13])
def test_a_budget_of_trials_is_kept_to_the_trial(graph, trials):
    result, measurer, _ = tuned(graph, trials=trials)
    assert result.stopped == "budget"
    assert result.trials == sum(map(len, measurer.batches)) == trials


def test_a_budget_of_time_that_is_over_measures_nothing(graph):
    result, measurer, _ = tuned(graph, seconds=0)
    assert (result.stopped, result.trials, measurer.batches) == ("budget", 0, [])


def test_the_first_batch_holds_what_the_rules_pick(graph):
    _, measurer, _ = tuned(graph, trials=16)
    assert all({"kind": "tile", "tile": 1, "unroll": 4} in batch for batch in measurer.batches[:2])


def test_failures_are_records_and_the_search_goes_on(graph):
    database = Database.memory()
    result, _, _ = tuned(graph, database, Formula(lambda s: s["tile"] in (1, 4, 8)))
    failed = [record for record in database.records() if not record.ok]
    assert failed
    assert {record.failure for record in failed} == {"crash"}
    assert all(record.schedule["tile"] in (1, 4, 8) for record in failed)
    assert {task.best.schedule["tile"] for task in result.tasks} <= {2, 16}


def test_where_everything_fails_it_ends(graph):
    result, _, _ = tuned(graph, measurer=Formula(lambda _: True))
    assert result.stopped == "nothing left to gain"
    assert all(task.best is None for task in result.tasks)
    assert result.trials == 2 * 24


def test_runs_with_one_seed_are_alike(graph):
    batches = [tuned(graph)[1].batches for _ in range(2)]
    assert batches[0] == batches[1]


def test_progress_is_told_after_every_batch(graph):
    result, measurer, _ = tuned(graph)
    trials = np.cumsum([len(batch) for batch in measurer.batches]).tolist()
    assert [progress.trials for progress in result.history] == trials
    times = [progress.model_seconds for progress in result.history]
    assert all(after <= before for before, after in itertools.pairwise(times))


def test_what_served_a_similar_workload_is_suggested(graph):
    database = Database.memory()
    tuned(graph, database)
    other = parse_graph(GRAPH.replace("8,16", "9,16"))
    context = Bench()
    (task, _) = tasks_of(other, context)
    first, *_ = Transfer(context, database).suggestions(task)
    assert task.space.schedule(first) == {"kind": "tile", "tile": 8, "unroll": 1}


def test_choices_come_from_records_then_predictions_then_rules(graph):
    context, database = Bench(), Database.memory()
    tasks = tasks_of(graph, context)
    by_rule = choose(tasks, context, database, None)
    assert {choice.origin for choice in by_rule.values()} == {"default"}
    predicted = choose(tasks, context, database, Guess())
    assert {choice.origin for choice in predicted.values()} == {"prediction"}
    assert predicted[tasks[0].key.workload].schedule["tile"] == 8
    tuned(graph, database)
    for choice in choose(tasks_of(graph, context), context, database, Guess()).values():
        assert choice.origin == "record"
        assert choice.schedule["unroll"] == 1


def test_another_specialisation_takes_what_is_packed_unless_it_is_slow(graph):
    class Packed(Bench):
        def packing(self, _body, schedule):
            return schedule["tile"]

    class Near(Guess):
        """Says of no tile that it is much slower than the best, of 8."""

        def predict(self, features):
            return Prediction(np.minimum(features[:, 0], features[:, 0].min() + 0.06), np.ones(len(features)))

    context, task = Packed(), tasks_of(graph, Packed())[0]
    for packings, tile in (({16}, 16), ({8, 16}, 8), (set(), 8)):
        known = set(packings)
        (choice,) = choose([task], context, None, Near(), known).values()
        assert choice.schedule["tile"] == tile
        assert known == packings | {tile}
    (choice,) = choose([task], context, None, Guess(), {16}).values()
    assert choice.schedule["tile"] == 8


def test_a_record_that_is_no_longer_legal_is_passed_over(graph):
    context, database = Bench(), Database.memory()
    tasks = tasks_of(graph, context)
    database.add([Outcome({"kind": "tile", "tile": 64, "unroll": 1}, (1e-9,)).record(tasks[0].key)])
    assert {choice.origin for choice in choose(tasks, context, database, None).values()} == {"default"}


@pytest.mark.parametrize(
    ("text", "budget"),
    [("60s", Budget(60)), ("1.5min", Budget(90)), ("2h", Budget(7200)), ("200", Budget(trials=200))],
)
def test_budgets(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "0", "-1", "60 sec", "s", "1e3", "1.5"])
def test_what_is_no_budget(text):
    with pytest.raises(ValueError, match="is not a budget"):
        Budget.parse(text)


def test_a_measurer_that_never_answers_ends_the_run_not_what_was_learned(graph, monkeypatch):
    monkeypatch.setattr("tensorc.search.tuner._PATIENCE", 0.05)

    class Stuck(Formula):
        def submit(self, body, schedules):
            return Future() if self.batches else super().submit(body, schedules)

    database = Database.memory()
    result, measurer, _ = tuned(graph, database, Stuck())
    assert result.stopped == "a batch was never answered"
    assert result.trials == database.count() == len(measurer.batches[0])
