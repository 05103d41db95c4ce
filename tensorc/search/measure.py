"""What the search asks of whoever measures candidates, here or on another machine."""

from __future__ import annotations

import abc
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tensorc.ir.graph import Graph
from tensorc.search.records import FAILURES, Key, Record
from tensorc.search.space import ScheduleJson


@dataclass(frozen=True)
class Outcome:
    """One candidate's times in seconds, sorted; or why there are none: one of `records.FAILURES`, and more in words.

    Raises ValueError when it has neither, both, or a failure that is not one of those.
    """

    schedule: ScheduleJson
    seconds: tuple[float, ...] = ()
    failure: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if self.failure not in ("", *FAILURES):
            raise ValueError(f"the failure must be one of {', '.join(FAILURES)}, not {self.failure!a:.200}")
        if bool(self.seconds) == bool(self.failure):
            raise ValueError("an outcome has either times or a failure")

    @property
    def ok(self) -> bool:
        return not self.failure

    @property
    def best(self) -> float:
        """The shortest time in seconds."""
        return self.seconds[0]

    @property
    def median(self) -> float:
        return self.seconds[len(self.seconds) // 2]

    def record(self, key: Key, body: str = "", created: float | None = None) -> Record:
        """As it stands in the database; `created` is in seconds since 1970, by default now."""
        now = time.time() if created is None else created
        return Record(key, self.schedule, self.seconds, self.failure, self.detail, body, now)


class Measurer(abc.ABC):
    """Builds and times candidates. Whatever a candidate does, the answer is an outcome, never an exception.

    What a future raises is not a candidate's doing: no compiler, no space on the disk.
    """

    @abc.abstractmethod
    def submit(self, body: Graph, schedules: Sequence[ScheduleJson]) -> Future[list[Outcome]]:
        """Outcomes of candidates of one workload, in order. They are timed in turns, so that all meet the same noise.

        Batches may overlap: the next one can be built while the last one is timed. Where the caller has no processor
        that is not timed on, timing begins when `result` is called, so that the caller's own work does not disturb it.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Stop the workers; what is under way is cancelled."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()
