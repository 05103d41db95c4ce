"""Cores of a machine that several processes share out among themselves, so that none disturbs what another measures."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tensorc.errors import UserError


@contextmanager
def claimed(cores: Sequence[int], count: int, patience: float = 120.0) -> Iterator[set[int]]:
    """`count` of `cores` that no other process has claimed, until the context or the process ends.

    The calling thread, and what it starts, run on them alone. Raises UserError when there are not so many, or not
    within `patience` seconds.
    """
    if count > len(cores):
        raise UserError(f"there are {len(cores)} cores to measure on, not {count}")
    folder = Path(tempfile.gettempdir(), f"tensorc-cores-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    before = os.sched_getaffinity(0)
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        while len(mine := _free(cores, count, folder, stack)) < count:
            stack.close()
            if time.monotonic() >= deadline:
                raise UserError(f"no {count} of {len(cores)} cores were free within {patience:g} s")
            time.sleep(0.1)
        os.sched_setaffinity(0, mine)
        stack.callback(os.sched_setaffinity, 0, before)
        yield mine


def _free(cores: Sequence[int], count: int, folder: Path, stack: ExitStack) -> set[int]:
    """At most `count` cores, locked until `stack` is closed."""
    mine: set[int] = set()
    for core in cores:
        if len(mine) == count:
            break
        lock = os.open(folder / str(core), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        mine.add(core)
    return mine
