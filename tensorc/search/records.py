"""One measured candidate, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tensorc.errors import UserError
from tensorc.search.space import ScheduleJson

#: Why a candidate gave no time. `wrong` computed other numbers than the reference.
FAILURES = ("crash", "timeout", "memory", "wrong", "build")


@dataclass(frozen=True)
class Key:
    """What a measurement is of: the workload's key, the machine it ran on (target and features), the compiler's
    version, and the number of threads."""

    workload: str
    target: str
    compiler: str
    threads: int


@dataclass(frozen=True)
class Record:
    """`seconds` holds the repeats' times, sorted; empty where the candidate failed, for which `failure` is one of
    `FAILURES` and `detail` says more. `body` is the workload's text, so that a record can be understood alone."""

    key: Key
    schedule: ScheduleJson
    seconds: tuple[float, ...] = ()
    failure: str = ""
    detail: str = ""
    body: str = ""
    created: float = field(default=0.0, compare=False)

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
        return json.dumps(self.schedule, sort_keys=True, separators=(",", ":"))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Record:
        """Raises UserError when `row` is not a record."""
        try:
            key = Key(**row["key"])
            seconds = tuple(sorted(float(s) for s in row["seconds"]))
            record = cls(key, dict(row["schedule"]), seconds, str(row["failure"]), str(row["detail"]),
                         str(row["body"]), float(row["created"]))  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"not a tuning record: {error!r}") from error
        if bool(record.seconds) == bool(record.failure):
            raise UserError("not a tuning record: it must have either times or a failure")
        return record
