"""Records: refused where they are no measurement, merged without surprises, and the same after their JSON line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorc.errors import UserError
from tensorc.search.records import FAILURES, MOST_REPEATS, Key, Record, identity_of

KEY = Key("ab" * 16, "cpu-znver5", "0.1.0", 2)
SCHEDULE = {"kind": "conv", "columns": 14, "unroll": True}
RECORD = Record(KEY, SCHEDULE, (1e-3, 2e-3), body="graph workload() {}", created=5.0)
FAILED = Record(KEY, SCHEDULE, failure="crash", detail="signal 11", created=6.0)

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(texts, values, max_size=3),
    max_leaves=6,
)
seconds = st.lists(st.floats(0, 1e6, exclude_min=True), min_size=1, max_size=MOST_REPEATS).map(sorted).map(tuple)
keys = st.builds(Key, texts, texts, texts, st.integers(1, 2**31 - 1))
records = st.builds(
    Record,
    key=keys,
    schedule=st.dictionaries(texts, json_values, max_size=4),
    seconds=seconds,
    body=texts,
    created=st.floats(allow_nan=False, allow_infinity=False),
) | st.builds(
    Record,
    key=keys,
    schedule=st.dictionaries(texts, json_values, max_size=4),
    failure=st.sampled_from(FAILURES),
    detail=texts,
    body=texts,
)


@given(records)
def test_a_line_gives_the_record_back(record: Record) -> None:
    line = record.to_line()
    assert line.isascii()
    assert len(line.splitlines()) == 1
    for form in (line, line.encode(), line + "\r\n"):
        again = Record.from_line(form)
        assert again == record
        assert again.created == record.created
        assert again.identity == record.identity


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-3, 0.0])
def test_times_that_no_clock_gives_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite and positive"):
        Record(KEY, SCHEDULE, (bad,))
    with pytest.raises(UserError, match="finite and positive"):
        Record.from_line(RECORD.to_line().replace("[0.001,", f"[{json.dumps(bad)},"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": (2.0, 1.0)}, "sorted"),
        ({"seconds": (1,)}, "finite and positive"),
        ({"seconds": ()}, "either times or a failure"),
        ({"failure": "crash"}, "either times or a failure"),
        ({"seconds": (), "failure": "tired"}, "one of crash, timeout, memory, wrong, build"),
        ({"schedule": {"tile": (4, 8)}}, "plain JSON"),
        ({"schedule": {"tile": math.nan}}, "plain JSON"),
        ({"schedule": {4: "tile"}}, "plain JSON"),
        ({"schedule": {"tile": "\ud83d"}}, "plain JSON"),
        ({"schedule": [["tile", 4]]}, "plain JSON"),
        ({"detail": None}, "detail must be a text"),
        ({"body": "\ud83d"}, "body must be a text"),
        ({"created": math.nan}, "creation must be finite"),
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECORD, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workload": 7}, "workload must be a text"),
        ({"target": "\udfff"}, "target must be a text"),
        ({"threads": 0}, "threads must be a positive number"),
        ({"threads": True}, "threads must be a positive number"),
        ({"threads": 2**31}, "threads must be a positive number"),
    ],
)
def test_what_is_no_key_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(KEY, **change)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        b"\xff\xfe\x00garbage",
        "null",
        "7",
        "[]",
        '"text"',
        "{}",
        RECORD.to_line()[:-1],
        RECORD.to_line() * 2,
        "[" * 100_000,
        RECORD.to_line().replace('"columns":14', '"columns":' + "[" * 500 + "]" * 500),
        RECORD.to_line().replace("0.001", "1e999"),
        RECORD.to_line().replace("0.001", "1" + "0" * 400),
        RECORD.to_line().replace("0.001", '"0.001"'),
        RECORD.to_line().replace("0.001", "true"),
        RECORD.to_line().replace('"threads":2', '"threads":2,"cores":2'),
        RECORD.to_line().replace('"threads":2', '"threads":1e9'),
        RECORD.to_line().replace('"failure":""', '"failure":null'),
        RECORD.to_line().replace('"created":5.0', '"created":null'),
        RECORD.to_line().replace('"created":5.0', '"updated":5.0'),
    ],
    ids=range(21),
)
def test_a_broken_line_is_said_in_one_line(line: str | bytes) -> None:
    with pytest.raises(UserError, match=r"^not a tuning record: [^\n]{1,400}$"):
        Record.from_line(line)


@given(st.binary() | st.text() | json_values.map(json.dumps))
def test_any_line_is_a_record_or_a_user_error(line: str | bytes) -> None:
    with pytest.raises(UserError):
        Record.from_line(line)


def test_fields_of_later_versions_are_passed_over() -> None:
    assert Record.from_json({**RECORD.to_json(), "energy": 3}) == RECORD


def test_whole_numbers_and_any_order_of_times_are_read() -> None:
    assert Record.from_json({**RECORD.to_json(), "seconds": [3, 1, 2.5]}).seconds == (1.0, 2.5, 3.0)


def test_identity_does_not_depend_on_the_order_of_knobs() -> None:
    assert identity_of(dict(reversed(SCHEDULE.items()))) == RECORD.identity
    assert identity_of({**SCHEDULE, "unroll": 1}) != RECORD.identity


def test_a_success_outweighs_failures() -> None:
    assert RECORD.merged(FAILED) == RECORD
    assert FAILED.merged(RECORD) == RECORD


def test_the_later_failure_stays() -> None:
    later = replace(FAILED, failure="timeout", detail="10 s", created=9.0)
    assert FAILED.merged(later) == later.merged(FAILED) == later
    assert FAILED.merged(later).created == 9.0


def test_times_are_put_together() -> None:
    other = replace(RECORD, seconds=(5e-4, 2e-3, 2e-3))
    assert RECORD.merged(other).seconds == (5e-4, 1e-3, 2e-3, 2e-3)


def test_a_body_is_kept_whoever_brings_it() -> None:
    bare = replace(RECORD, body="")
    assert bare.merged(RECORD).body == RECORD.merged(bare).body == FAILED.merged(RECORD).body == RECORD.body


@given(seconds, seconds)
def test_merging_is_bounded_and_forgets_neither_end(one: tuple[float, ...], two: tuple[float, ...]) -> None:
    a, b = replace(RECORD, seconds=one), replace(RECORD, seconds=two)
    merged = a.merged(b)
    assert merged == b.merged(a)
    assert merged.seconds[0] == min(one + two)
    assert merged.seconds[-1] == max(one + two)
    assert len(merged.seconds) <= MOST_REPEATS
    assert a.merged(a) == a
    assert merged.merged(merged) == merged


def test_too_many_times_keep_their_median() -> None:
    low, high = (tuple(float(i) for i in range(start, 129, 2)) for start in (1, 2))
    merged = replace(RECORD, seconds=low).merged(replace(RECORD, seconds=high))
    assert len(merged.seconds) == MOST_REPEATS
    assert merged.median == pytest.approx(65, abs=1.5)
