"""What a program moves to and from memory outside the chip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from targets.hls.program import Deposit, Fetch, Memory, Nest, Program, Repeat, Step, element_bytes


@dataclass(frozen=True)
class Traffic:
    """Of a port: bytes that its memory has, those that are read and written for an image, and those that pass in a
    cycle at most. `what` is for people."""

    port: str
    what: str
    nbytes: int
    read: int
    written: int
    rate: float

    @property
    def moved(self) -> int:
        return self.read + self.written


def traffic_of(program: Program) -> list[Traffic]:
    found = []
    for port, process, memory in program.outside:
        word = memory.lanes * element_bytes(memory.kind)
        read, written = (word * _times(process.steps, memory, kind) for kind in (Fetch, Deposit))
        found.append(Traffic(port, process.title, memory.nbytes, read, written, word / memory.pace))
    return found


def _times(steps: Sequence[Step], memory: Memory, kind: type) -> int:
    """How often a memory is reached in that way."""
    return sum(nest.trip * turns for nest, turns in _nests(steps, 1) if _reaches(nest, memory, kind))


def _nests(steps: Sequence[Step], turns: int) -> Iterator[tuple[Nest, int]]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _nests(step.steps, turns * (step.counter.high + 1))
        else:
            yield step, turns


def _reaches(nest: Nest, memory: Memory, kind: type) -> bool:
    return any(isinstance(one, (Fetch, Deposit)) and isinstance(one, kind) and one.memory is memory
               for one in nest.body)  # fmt: skip


def gigabytes(nbytes: float, cycles: float, clock: float) -> float:
    """In a second, where so many bytes pass in so many cycles of `clock` nanoseconds."""
    return nbytes / cycles / clock
