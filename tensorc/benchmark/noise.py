"""How much of the machine other processes took while something was timed.

Two threads on two cores, one of them busy with somebody else's work, run at half their speed or worse, and engines
suffer differently. A ratio measured then is not a result, and nothing in the times themselves shows it.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from types import TracebackType
from typing import Self

#: From this many cores on, times are not to be trusted.
TOLERABLE = 0.15

_STAT = Path("/proc/stat")


class OtherLoad:
    """Context manager; afterwards `cores` is how many cores were busy for others, on average.

    Child processes count as ours once they are waited for. None where the system does not tell.
    """

    cores: float | None = None

    def __enter__(self) -> Self:
        self.start = time.perf_counter(), _busy_seconds(), _own_seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        then, busy_then, own_then = self.start
        busy, elapsed = _busy_seconds(), time.perf_counter() - then
        if busy is not None and busy_then is not None:
            self.cores = max(busy - busy_then - (_own_seconds() - own_then), 0.0) / elapsed


def _busy_seconds() -> float | None:
    """CPU time of the whole machine that was not idle; time that a hypervisor took away is somebody's too."""
    if not _STAT.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, _STAT.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
