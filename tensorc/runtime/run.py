"""A run that goes on by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Run:
    """A run that was begun. `outputs` are the model's, in order: each the caller's own buffer, or an array where the
    target computes: numpy's, or a `DeviceArray` that other libraries take by DLPack and that they may be asked to wait
    for on a stream of theirs. To read them in any other way, `wait` first."""

    def __init__(self, outputs: Sequence[Any], wait: Callable[[], None] = lambda: None):
        self.outputs = list(outputs)
        self._wait = wait

    def wait(self) -> list[Any]:
        """The outputs, written."""
        self._wait()
        return self.outputs
