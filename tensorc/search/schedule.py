"""What every schedule is: a frozen value that says what a kernel needs to know beyond its workload to write its loops.

As JSON it stands in tuning records and manifests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self, TypeVar

from tensorc.search.space import ScheduleJson

S = TypeVar("S", bound="Schedule")


class Schedule:
    """Base of the schedules: `kind` names the kernel that they are for, `packing` the knobs that decide in which order
    it reads constants."""

    kind: ClassVar[str]
    packing: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> ScheduleJson:
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Raises ValueError when `row` is a schedule of another kind, or has not just this one's knobs."""
        knobs = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if row.get("kind") != cls.kind or row.keys() - {"kind"} != knobs:
            raise ValueError(f"not a schedule of a {cls.kind} kernel, which has {', '.join(sorted(knobs))}: {row}")
        return cls(**{name: row[name] for name in knobs})


def checked(schedule: Schedule | None, kind: type[S]) -> S | None:
    """`schedule` if it is of that kind, or None if there is none. Raises ValueError for another kind."""
    if schedule is None or isinstance(schedule, kind):
        return schedule
    raise ValueError(f"expected a schedule of kind {kind.kind!r}, not {schedule}")
