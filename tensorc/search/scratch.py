"""Temporary folders that do not stay for ever when their owner is killed: the next owner removes them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

#: Locked for as long as the owner lives, which the system undoes however it ends.
_LOCK = "owner"
#: Seconds for a folder's owner to lock it.
_YOUNG = 60.0


class ScratchFolder:
    """A new folder `name` among the temporary ones, until `cleanup`; all of its kind share `prefix`."""

    def __init__(self, prefix: str):
        _remove_abandoned(prefix)
        self.name = tempfile.mkdtemp(prefix=prefix)
        self._lock = os.open(Path(self.name, _LOCK), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """What cannot be removed stays, without a word: nothing depends on it any more."""
        shutil.rmtree(self.name, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_abandoned(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        # A folder may go while it is looked at, and be somebody else's.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _YOUNG or folder.is_symlink():
                continue
            lock = os.open(folder / _LOCK, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
