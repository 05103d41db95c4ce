"""Outcomes: either times or a failure, and what becomes of them in the database."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from tensorc.ir import Graph
from tensorc.search.measure import Measurer, Outcome
from tensorc.search.records import FAILURES, Key
from tensorc.search.space import ScheduleJson

KEY = Key("0123", "cpu", "1", 1)


@pytest.mark.parametrize("seconds", [(0.5,), (0.25, 0.5, 1.0)])
def test_times(seconds: tuple[float, ...]) -> None:
    outcome = Outcome({"kind": "conv"}, seconds)
    assert outcome.ok
    assert outcome.best == seconds[0]
    assert outcome.median == 0.5


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_becomes_a_record_with_its_reason(failure: str) -> None:
    record = Outcome({"kind": "conv"}, failure=failure, detail="why").record(KEY, "the body", 12.0)
    assert (record.ok, record.failure, record.detail) == (False, failure, "why")
    assert (record.key, record.body, record.created) == (KEY, "the body", 12.0)


def test_a_record_is_made_now_unless_told_otherwise() -> None:
    assert Outcome({}, (1.0,)).record(KEY).created > 1.6e9


@pytest.mark.parametrize(("seconds", "failure"), [((), ""), ((1.0,), "crash"), ((), "boredom")])
def test_what_is_no_outcome(seconds: tuple[float, ...], failure: str) -> None:
    with pytest.raises(ValueError, match=r"either times or a failure|must be one of crash, timeout"):
        Outcome({}, seconds, failure)


def test_a_measurer_is_closed_by_its_block() -> None:
    class Closing(Measurer):
        closed = False

        def submit(self, body: Graph, schedules: list[ScheduleJson]) -> Future[list[Outcome]]:
            raise NotImplementedError

        def close(self) -> None:
            self.closed = True

    with Closing() as measurer:
        assert not measurer.closed
    assert measurer.closed
