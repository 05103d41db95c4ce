"""The driver's calls in their order, on a library that only takes note of them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from targets.cuda import driver

_NOT_READY = 600


class Library:
    """Functions of the driver: each succeeds, and gives one number. Events are past when `is_past` says so."""

    def __init__(self) -> None:
        self.is_past = False
        self.called: list[str] = []
        self.memory: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> tuple[int, int]:
            self.called.append(name)
            return 0, len(self.called)

        return call

    def cuEventQuery(self, _: Any) -> tuple[int]:  # noqa: N802
        return (0 if self.is_past else _NOT_READY,)

    def cuMemHostAlloc(self, nbytes: int, _: int) -> tuple[int, int]:  # noqa: N802
        self.memory.append(np.zeros(nbytes, np.uint8))
        return 0, self.memory[-1].ctypes.data


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(driver, "_cuda", lambda: library)
    return library


def test_what_is_written_lives_until_the_stream_is_past_it(library):
    device = driver.Driver()
    data = [np.zeros(4), np.zeros(4)]
    left = [weakref.ref(array) for array in data]
    while data:
        device.write(4096, data.pop())
    gc.collect()
    assert all(ref() is not None for ref in left)
    library.is_past = True
    staging = device.staging(8)
    device.write(4096, staging)
    assert library.called.count("cuEventRecord") == 2, "the device's own memory is there until it is closed"
    device.write(4096, np.zeros(1))
    gc.collect()
    assert all(ref() is None for ref in left)
    device.close()
    gc.collect()
    assert library.called.count("cuEventDestroy") == library.called.count("cuEventCreate") == 3
    assert library.called.count("cuCtxPushCurrent") == library.called.count("cuCtxPopCurrent")
