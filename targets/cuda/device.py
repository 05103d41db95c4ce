"""What the executable asks of what kernels run on: a GPU (`driver`), or a CPU that stands for one (`emulator`)."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from targets.cuda.roofline import Facts
from tensorc.errors import UserError
from tensorc.options import format_bytes


class OutOfMemoryError(UserError):
    """The device has not as much memory as was asked for."""

    def __init__(self, asked: int, free: int, total: int):
        self.free = free
        super().__init__(
            f"the GPU has no {format_bytes(asked)} left: {format_bytes(free)} of its {format_bytes(total)} are free"
        )


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
    kernel: Any
    blocks: int
    threads: int
    shared_bytes: int
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Copy:
    """`nbytes` at an `address` of the device's go `out` to `host`, memory that `Device.reachable` gave, or come from
    there. `beside`: on a stream of their own, each when all is done that stands before it."""

    address: int
    host: int
    nbytes: int
    out: bool
    beside: bool


@dataclass(frozen=True)
class Await:
    """What stands behind it begins when so many of the copies beside have ended."""

    count: int


#: What a recording is made of.
Work = Call | Copy | Await


class Lease(abc.ABC):
    """Memory at `address` that lives as long as this object, whatever becomes of the device."""

    address: int

    @abc.abstractmethod
    def read(self, out: np.ndarray) -> None:
        """To the host; it is there when this returns."""


class Mark(abc.ABC):
    """A place in the work that a stream was given."""

    @property
    @abc.abstractmethod
    def is_past(self) -> bool:
        """Whether all before it is done."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Until it is past."""

    @abc.abstractmethod
    def hold(self, stream: int) -> None:
        """What `stream` is asked for from now on happens when it is past."""


class Device(abc.ABC):
    """Memory is named by addresses; allocations begin at multiples of 256. What is asked of one stream happens in
    order; a stream is a handle, None the device's own. May be used from several threads, which see to it themselves
    that what one of them uses is not freed by another."""

    #: As DLPack names the memory that kernels read: kind and number.
    memory: tuple[int, int]
    #: The handle of the device's own stream.
    stream: int

    @property
    @abc.abstractmethod
    def capability(self) -> int | None:
        """Ten times the compute capability; None for a device that runs every kernel."""

    @abc.abstractmethod
    def entered(self) -> AbstractContextManager[None]:
        """For several calls in a row: what each of them would do first and last is done once."""

    @abc.abstractmethod
    def allocate(self, nbytes: int) -> int:
        """Raises OutOfMemoryError."""

    @abc.abstractmethod
    def lend(self, nbytes: int) -> Lease:
        """Memory that does not end with the device. Raises OutOfMemoryError."""

    @abc.abstractmethod
    def staging(self, nbytes: int) -> np.ndarray:
        """Bytes of the host's memory that `write` and `read` need not copy first."""

    @abc.abstractmethod
    def reachable(self, nbytes: int) -> np.ndarray:
        """Bytes of the host's memory that kernels and recorded copies reach, by the addresses that they have there.
        Raises UserError where there is not so much."""

    @property
    @abc.abstractmethod
    def free_bytes(self) -> int | None:
        """That are left of the device's memory, if that is known."""

    @abc.abstractmethod
    def free(self, address: int) -> None: ...

    @abc.abstractmethod
    def write(self, address: int, data: np.ndarray, stream: int | None = None) -> None:
        """From the host. `data` is contiguous, and not changed until the stream has come past it: until then the device
        holds it."""

    @abc.abstractmethod
    def read(self, address: int, out: np.ndarray, stream: int | None = None) -> None:
        """To the host; it is there when the stream has come past it."""

    @abc.abstractmethod
    def copy(self, address: int, source: int, nbytes: int, stream: int | None = None) -> None:
        """Within the device."""

    @abc.abstractmethod
    def clear(self, address: int, nbytes: int, stream: int | None = None) -> None:
        """To zeros."""

    @abc.abstractmethod
    def load(self, name: str, code: KernelCode) -> object:
        """A kernel ready to be launched. Raises UserError for code that this device does not take."""

    @abc.abstractmethod
    def record(self, work: Sequence[Work]) -> object:
        """To be done again and again, in order."""

    @abc.abstractmethod
    def rebind(self, recording: Any, number: int, arguments: tuple[int, ...]) -> None:
        """Other arguments for a call, which is `number` of what was recorded, from the next replay on."""

    @abc.abstractmethod
    def replay(self, recording: Any, stream: int | None = None) -> None:
        """One replay of a recording begins when the one before has ended."""

    @abc.abstractmethod
    def time(self, work: Sequence[Work]) -> list[float]:
        """Seconds that each call takes, one after the other; copies are done where they stand."""

    @abc.abstractmethod
    def facts(self) -> Facts:
        """What its driver says of it."""

    @abc.abstractmethod
    def mark(self, stream: int | None = None) -> Mark:
        """After all that the stream was asked for."""

    @abc.abstractmethod
    def synchronize(self, stream: int | None = None) -> None:
        """Wait until all is done that the stream was asked for."""

    @abc.abstractmethod
    def close(self) -> None:
        """Waits for all that goes on. Nothing that came from here is used afterwards but leases and marks."""
