"""The roofline: the least time that arithmetic and memory leave a piece of work.

The model is that of Williams, Waterman and Patterson (2009), with one memory roof for each level of cache: work takes
at least the time of its arithmetic at the highest rate, and at least the time of its bytes at the rate of the fastest
level that holds all of them. One is hidden behind the other, so the longer of the two counts. Bytes are taken to be in
that level when the work begins, which flatters the ceiling where they come from further away (weights of a model that
is larger than the cache): it stays a bound, and how far off a kernel is says how much is left to explain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Level:
    """A level of memory: how many bytes it holds (infinity for the last), and bytes a second read from it."""

    name: str
    capacity: float
    bandwidth: float


@dataclass(frozen=True)
class Ceilings:
    """What `threads` threads do together at best: operations a second on numbers of the type `products`, and bytes
    from each level.

    `levels` go from the fastest to the last, which holds everything. `other_load` is how many cores were busy for
    others while this was measured, None if that is not known. `byte_ops` are operations a second in products of bytes,
    None where no instruction is made for those.
    """

    threads: int
    flops: float
    levels: Sequence[Level]
    other_load: float | None = None
    byte_ops: float | None = None
    products: str = "float32"

    def level(self, nbytes: float) -> Level:
        """The fastest level that holds so many bytes."""
        return next(level for level in self.levels if nbytes <= level.capacity)

    def attainable_seconds(self, flops: float, nbytes: float, of_bytes: bool = False) -> float:
        """The least time for this much work at once; `of_bytes`: whether it is products of bytes."""
        return max(flops / self.rate(of_bytes), nbytes / self.level(nbytes).bandwidth)

    def bound(self, flops: float, nbytes: float, of_bytes: bool = False) -> str:
        """What that time is spent on: "compute", or the name of a level."""
        level = self.level(nbytes)
        return "compute" if flops / self.rate(of_bytes) >= nbytes / level.bandwidth else level.name

    def rate(self, of_bytes: bool) -> float:
        """Operations a second."""
        return self.byte_ops if of_bytes and self.byte_ops is not None else self.flops

    def best_of(self, other: Ceilings) -> Ceilings:
        """The higher rate of each kind; both are of the same machine and number of threads."""
        levels = [
            Level(mine.name, mine.capacity, max(mine.bandwidth, theirs.bandwidth))
            for mine, theirs in zip(self.levels, other.levels, strict=True)
        ]
        loads = [load for load in (self.other_load, other.other_load) if load is not None]
        byte_ops = max((rate for rate in (self.byte_ops, other.byte_ops) if rate is not None), default=None)
        return Ceilings(self.threads, max(self.flops, other.flops), levels, min(loads, default=None), byte_ops,
                        self.products)  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """JSON has no infinity: the capacity of the last level is null."""
        return {
            "threads": self.threads,
            "flops_per_second": self.flops,
            "byte_operations_per_second": self.byte_ops,
            "levels": [
                {
                    "name": level.name,
                    "capacity": None if math.isinf(level.capacity) else int(level.capacity),
                    "bytes_per_second": level.bandwidth,
                }
                for level in self.levels
            ],
            "other_load": self.other_load,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Ceilings:
        """Raises KeyError, TypeError or ValueError for anything that `to_json` does not give."""
        levels = [
            Level(level["name"], math.inf if level["capacity"] is None else level["capacity"],
                  float(level["bytes_per_second"]))
            for level in row["levels"]
        ]  # fmt: skip
        byte_ops = row["byte_operations_per_second"]
        rates = [float(row["flops_per_second"]), float(byte_ops or 1), *(level.bandwidth for level in levels)]
        if not all(math.isfinite(rate) and rate > 0 for rate in rates) or not math.isinf(levels[-1].capacity):
            raise ValueError("ceilings are positive, and the last level holds everything")
        return cls(row["threads"], rates[0], levels, row["other_load"], byte_ops)
