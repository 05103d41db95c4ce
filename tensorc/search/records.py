"""One measured candidate, and how it is written.

A record is checked when it is made, so that whoever holds one (database, cost model, report) need not doubt it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tensorc.errors import UserError
from tensorc.search.space import ScheduleJson

#: Why a candidate gave no time. `wrong` computed other numbers than the reference.
FAILURES = ("crash", "timeout", "memory", "wrong", "build")
#: So many times of one candidate are kept when records are merged.
MOST_REPEATS = 64

#: Schedules are flat or nearly so; anything much deeper is made to harm whoever reads it.
_DEEPEST = 32


@dataclass(frozen=True)
class Key:
    """What a measurement is of: the workload's key, the machine it ran on (target and features), the compiler's
    version, and the number of threads. Raises ValueError for fields that are not texts and a count."""

    workload: str
    target: str
    compiler: str
    threads: int

    def __post_init__(self) -> None:
        for name in ("workload", "target", "compiler"):
            _check_text(f"the key's {name}", getattr(self, name))
        if type(self.threads) is not int or not 1 <= self.threads < 1 << 31:
            raise ValueError(f"the key's threads must be a positive number, not {self.threads!r}")


@dataclass(frozen=True)
class Record:
    """`seconds` holds the repeats' times, sorted; empty where the candidate failed, for which `failure` is one of
    `FAILURES` and `detail` says more. `body` is the workload's text, so that a record can be understood alone.
    `created` is in seconds since 1970. Raises ValueError for anything else."""

    key: Key
    schedule: ScheduleJson
    seconds: tuple[float, ...] = ()
    failure: str = ""
    detail: str = ""
    body: str = ""
    created: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, dict) or not _is_json(self.schedule):
            raise ValueError(f"the schedule must be plain JSON (no tuples, no NaN), not {self.schedule!a:.200}")
        if any(not isinstance(s, float) or not 0 < s < math.inf for s in self.seconds):
            raise ValueError(f"times must be finite and positive seconds, not {self.seconds!r:.200}")
        if any(a > b for a, b in zip(self.seconds, self.seconds[1:], strict=False)):
            raise ValueError(f"times must be sorted, not {self.seconds!r:.200}")
        if self.failure not in ("", *FAILURES):
            raise ValueError(f"the failure must be one of {', '.join(FAILURES)}, not {self.failure!a:.200}")
        if bool(self.seconds) == bool(self.failure):
            raise ValueError("it must have either times or a failure")
        if not isinstance(self.detail, str):
            raise ValueError(f"the detail must be a text, not {self.detail!r:.200}")
        _check_text("the body", self.body)
        if not math.isfinite(self.created):
            raise ValueError(f"the time of creation must be finite, not {self.created}")

    @property
    def ok(self) -> bool:
        return not self.failure

    @property
    def best(self) -> float:
        """The shortest time in seconds: what the machine can do when nothing else disturbs."""
        return self.seconds[0]

    @property
    def median(self) -> float:
        return self.seconds[len(self.seconds) // 2]

    @property
    def identity(self) -> str:
        """The schedule as one canonical string."""
        return identity_of(self.schedule)

    def merged(self, other: Record) -> Record:
        """What is known from both records of one candidate; merging a record again changes nothing.

        A success outweighs failures, whichever came first: a noisy machine lets good candidates time out. Of two
        failures the later one stays. Times are put together; equal ones count as often as the record that has
        most of them says, since they are one measurement met twice rather than a coincidence to the last digit.
        """
        body, created = self.body or other.body, max(self.created, other.created)
        if self.ok and other.ok:
            seconds = _thinned(sorted((Counter(self.seconds) | Counter(other.seconds)).elements()))
            return replace(self, seconds=seconds, body=body, created=created)
        kept = max(self, other, key=lambda record: (record.ok, record.created))
        return replace(kept, body=body, created=created)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "key": dict(vars(self.key))}

    def to_line(self) -> str:
        """JSON on one line of ASCII, without the line's end."""
        return json.dumps(self.to_json(), separators=(",", ":"))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Record:
        """Fields that are not known are passed over. Raises UserError when `row` is not a record."""
        try:
            seconds = tuple(sorted(s if isinstance(s, float) else _real(s) for s in row["seconds"]))
            return cls(Key(**row["key"]), row["schedule"], seconds, row["failure"], row["detail"], row["body"],
                       _real(row["created"]))  # fmt: skip
        except KeyError as error:
            raise UserError(f"not a tuning record: it has no {error}") from error
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UserError(f"not a tuning record: {error}") from error

    @classmethod
    def from_line(cls, line: str | bytes) -> Record:
        """Raises UserError, without the place of the line, when it holds no record."""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError("not a tuning record: not JSON") from error
        return cls.from_json(row)


def identity_of(schedule: ScheduleJson) -> str:
    """One string for a schedule, whatever the order of its knobs."""
    return json.dumps(schedule, sort_keys=True, separators=(",", ":"))


def _thinned(times: Sequence[float]) -> tuple[float, ...]:
    """At most `MOST_REPEATS` of sorted times, evenly from the shortest to the longest so that the median holds."""
    if len(times) <= MOST_REPEATS:
        return tuple(times)
    return tuple(times[i * (len(times) - 1) // (MOST_REPEATS - 1)] for i in range(MOST_REPEATS))


def _is_json(value: object, depth: int = _DEEPEST) -> bool:
    """Whether `value` comes back equal from JSON, and from strict readers of it too."""
    if isinstance(value, dict):
        return depth > 0 and all(_is_text(name) and _is_json(item, depth - 1) for name, item in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_json(item, depth - 1) for item in value)
    if isinstance(value, str):
        return _is_text(value)
    return value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: object) -> bool:
    """A lone surrogate has no place in a file."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _check_text(what: str, text: object) -> None:
    if not _is_text(text):
        raise ValueError(f"{what} must be a text, not {text!a:.200}")


def _real(number: object) -> float:
    """JSON writes whole numbers without a point; a text, true or false is no number."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"expected a number, not {number!r:.200}")
    return float(number)
