"""A run that goes on by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

#: Begins a run, and gives what waits for its end.
Begin = Callable[[], Callable[[], None]]


class Run:
    """A run that was begun. `outputs` are the model's, in order: each the caller's own buffer, or an array where the
    target computes: numpy's, or a `DeviceArray` that other libraries take by DLPack and that they may be asked to wait
    for on a stream of theirs. To read them in any other way, `wait` first."""

    def __init__(self, outputs: Sequence[Any], begin: Begin):
        """Begins it."""
        self.outputs = list(outputs)
        self._begin = begin
        self._wait = begin()

    def again(self) -> Self:
        """Begin another run from the same inputs' memory, whatever is in it now, to the same outputs, on the same
        stream. Nothing is checked again, so this takes the least of the host's time. Producers of inputs are not made
        to wait: that is for the stream that was given, or for the caller."""
        self._wait = self._begin()
        return self

    def wait(self) -> list[Any]:
        """The outputs, written."""
        self._wait()
        return self.outputs
