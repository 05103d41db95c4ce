"""A profile: what was measured of each step, put together by kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorc.profiling.ceilings import Ceilings


@dataclass(frozen=True)
class KernelFacts:
    """What the artifact says of a kernel; operations, bytes and the predicted time are of one call.

    `schedule` is empty where there was nothing to choose. `origin` is where it came from: "record", a measurement in
    the tuning database; "prediction", the cost model's best; "default"; "only", there was nothing to choose.
    `predicted_deviation` is how sure the cost model is: the standard deviation of log2 of the predicted time.
    `of_bytes`: most of its operations are products of bytes. `resources` is what the compiler says that it takes, if it
    does.
    """

    schedule: Mapping[str, Any]
    origin: str
    predicted_seconds: float | None
    predicted_deviation: float | None
    flops: int
    nbytes: int
    of_bytes: bool = False
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepTime:
    """One place in a run where a kernel is called, more than once in a loop: the median of its times in sum."""

    kernel: str
    label: str
    seconds: float
    calls: int = 1


@dataclass(frozen=True)
class KernelRow:
    """A kernel's part of one run: all its `calls` together, each of them as `facts` says.

    `attainable_seconds` is the least time that the ceilings allow all calls, `bound` what that time is spent on.
    """

    kernel: str
    labels: tuple[str, ...]
    calls: int
    seconds: float
    share: float
    facts: KernelFacts
    attainable_seconds: float
    bound: str

    @property
    def flops(self) -> int:
        return self.calls * self.facts.flops

    @property
    def nbytes(self) -> int:
        return self.calls * self.facts.nbytes

    @property
    def flops_rate(self) -> float:
        """Operations a second."""
        return _ratio(self.flops, self.seconds)

    @property
    def bytes_rate(self) -> float:
        """Bytes a second."""
        return _ratio(self.nbytes, self.seconds)

    @property
    def attained(self) -> float:
        """The part of the attainable rate that is reached, 1 for all of it. The ceilings are measured and not exact:
        it may lie above 1."""
        return _ratio(self.attainable_seconds, self.seconds)

    @property
    def predicted_ratio(self) -> float | None:
        """Predicted time over measured time; below 1 the prediction was too good. None without a prediction."""
        if self.facts.predicted_seconds is None or self.seconds <= 0:
            return None
        return self.calls * self.facts.predicted_seconds / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "labels": list(self.labels),
            "calls": self.calls,
            "seconds": self.seconds,
            "share": self.share,
            "flops": self.flops,
            "bytes": self.nbytes,
            "flops_per_second": self.flops_rate,
            "bytes_per_second": self.bytes_rate,
            "attainable_seconds": self.attainable_seconds,
            "attained": self.attained,
            "bound": self.bound,
            "schedule": dict(self.facts.schedule),
            "origin": self.facts.origin,
            "resources": dict(self.facts.resources),
            "predicted_seconds": _times(self.calls, self.facts.predicted_seconds),
            "predicted_ratio": self.predicted_ratio,
            "predicted_deviation": self.facts.predicted_deviation,
        }


@dataclass(frozen=True)
class Profile:
    """`whole_seconds` is the median of whole runs in which no step was timed; `steps` are in the order of the run.

    `overhead_seconds` is what a run spends outside its steps: between them, and on the way in and out of the target.
    """

    threads: int
    runs: int
    whole_seconds: float
    overhead_seconds: float
    steps: Sequence[StepTime]
    kernels: Mapping[str, KernelFacts]
    ceilings: Ceilings

    @property
    def kernel_seconds(self) -> float:
        """All steps together. Medians do not add up: noise sets this and the overhead apart from the whole."""
        return sum(step.seconds for step in self.steps)

    def rows(self) -> list[KernelRow]:
        """One for each kernel that is called, the one that takes longest first. Shares are of `kernel_seconds`."""
        calls: dict[str, list[StepTime]] = {}
        for step in self.steps:
            calls.setdefault(step.kernel, []).append(step)
        total = self.kernel_seconds
        rows = []
        for kernel, steps in calls.items():
            facts = self.kernels[kernel]
            seconds, count = sum(step.seconds for step in steps), sum(step.calls for step in steps)
            rows.append(KernelRow(
                kernel=kernel,
                labels=tuple(step.label for step in steps),
                calls=count,
                seconds=seconds,
                share=_ratio(seconds, total),
                facts=facts,
                attainable_seconds=count * self.ceilings.attainable_seconds(facts.flops, facts.nbytes, facts.of_bytes),
                bound=self.ceilings.bound(facts.flops, facts.nbytes, facts.of_bytes),
            ))  # fmt: skip
        return sorted(rows, key=lambda row: -row.seconds)

    def to_json(self) -> dict[str, Any]:
        """Times in seconds of one run. A row's work and times are those of all calls of its kernel."""
        rows = self.rows()
        return {
            "threads": self.threads,
            "runs": self.runs,
            "whole_seconds": self.whole_seconds,
            "kernel_seconds": self.kernel_seconds,
            "overhead_seconds": self.overhead_seconds,
            "attainable_seconds": sum(row.attainable_seconds for row in rows),
            "ceilings": self.ceilings.to_json(),
            "kernels": [row.to_json() for row in rows],
            "steps": [{"kernel": step.kernel, "label": step.label, "seconds": step.seconds} for step in self.steps],
        }


@dataclass(frozen=True)
class Totals:
    """Rows taken together; rates in operations and bytes a second."""

    calls: int
    seconds: float
    share: float
    flops_rate: float
    bytes_rate: float
    attained: float


def totals(rows: Sequence[KernelRow]) -> Totals:
    """Some rows as one."""
    seconds = sum(row.seconds for row in rows)
    return Totals(
        calls=sum(row.calls for row in rows),
        seconds=seconds,
        share=sum(row.share for row in rows),
        flops_rate=_ratio(sum(row.flops for row in rows), seconds),
        bytes_rate=_ratio(sum(row.nbytes for row in rows), seconds),
        attained=_ratio(sum(row.attainable_seconds for row in rows), seconds),
    )


def _ratio(part: float, whole: float) -> float:
    """0 where the clock was too coarse to see anything."""
    return part / whole if whole > 0 else 0.0


def _times(count: int, each: float | None) -> float | None:
    return None if each is None else count * each
