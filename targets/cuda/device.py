"""What the executable asks of what kernels run on: a GPU (`driver`), or a CPU that stands for one (`emulator`)."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class KernelCode:
    """A kernel as machine code, as PTX and as CUDA C; `shared_bytes` is its dynamic shared memory."""

    cubin: bytes
    ptx: bytes
    source: str
    shared_bytes: int


@dataclass(frozen=True)
class Call:
    """A launch with its arguments' addresses; `kernel` is what `Device.load` gave."""

    name: str
    kernel: object
    blocks: int
    threads: int
    shared_bytes: int
    arguments: tuple[int, ...]


class Device(abc.ABC):
    """Memory is named by addresses; allocations begin at multiples of 256. What is asked of it happens in order."""

    @abc.abstractmethod
    def allocate(self, nbytes: int) -> int:
        """Raises UserError when there is not enough memory."""

    @abc.abstractmethod
    def free(self, address: int) -> None: ...

    @abc.abstractmethod
    def write(self, address: int, data: np.ndarray) -> None:
        """From the host; `data` may be changed afterwards."""

    @abc.abstractmethod
    def read(self, address: int, out: np.ndarray) -> None:
        """To the host; what was asked before has happened then."""

    @abc.abstractmethod
    def clear(self, address: int, nbytes: int) -> None:
        """To zeros."""

    @abc.abstractmethod
    def load(self, name: str, code: KernelCode) -> object:
        """A kernel ready to be launched."""

    @abc.abstractmethod
    def record(self, calls: Sequence[Call]) -> object:
        """Launches to be done again and again, in order."""

    @abc.abstractmethod
    def replay(self, recording: object) -> None: ...

    @abc.abstractmethod
    def close(self) -> None:
        """Nothing that came from here is used afterwards."""
