"""Runs a program on a device: replays recordings, and goes through what only data decide.

A recording is told other addresses when they have changed: those of inputs and outputs between runs, those of a loop's
pointers between iterations. What a loop carries is in one of two places in turn, so that its steps are recorded once
for each, and once for the first iteration, which finds it elsewhere: then nothing has to be told on the way but the
slices of what is scanned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from targets.cuda.device import Await, Call, Copy, Device, Work
from targets.cuda.program import Argument, CudaProgram, Launch, Space, Transfer, Wait
from targets.cuda.segments import Chosen, Copied, Part, Segment, Walked, segments, users

#: What has another address from time to time.
_MOVING: frozenset[Space] = frozenset({"input", "output", "pointer"})
#: Launches that may be told another address before a run, which takes the host several us for each.
_FEW = 64


class Replay:
    """`bases` has the addresses of spaces, by space and index: inputs and outputs of the next run among them.
    `kernels` is what `Device.load` gave, by name."""

    def __init__(self, device: Device, program: CudaProgram, kernels: Mapping[str, object],
                 bases: dict[tuple[Space, int], int]):  # fmt: skip
        """Raises OutOfMemoryError."""
        self._device = device
        self._bases = bases
        self._steps = program.steps
        self._calls = {
            number: _call(step, program, kernels[step.kernel])
            for number, step in enumerate(program.steps) if isinstance(step, Launch)
        }  # fmt: skip
        self._parts, count = segments(program.steps)
        #: Inputs and outputs whose address should stay: the iterations of a loop have to do with them.
        self.fixed = {key for key, count in users(self._parts).items() if key[0] in _MOVING and count > _FEW}
        numbers = np.arange(count, dtype=np.int64)
        bases["numbers", 0] = device.allocate(numbers.nbytes)
        device.write(bases["numbers", 0], numbers)
        self._byte = device.staging(1)
        #: Inputs of one bool, as far as they are known in this run.
        self._flags: dict[int, bool] = {}
        self._recorded: dict[tuple[Segment, int], _Recorded] = {}
        for part in self._parts:
            if isinstance(part, Segment):
                self._recording(part, 0)

    def run(self, flags: Mapping[int, bool], stream: int | None = None) -> None:
        """Returns when all is asked for of the stream; where data decide, when they have done so for the last time.
        `flags` has what is known of inputs, by their numbers: nobody waits for these."""
        self._flags = dict(flags)

        def play(segment: Segment, turn: int) -> None:
            self._recording(segment, turn).replay(self._bases, stream)

        self._walk(self._parts, 0, play, stream)

    def time(self) -> np.ndarray:
        """Run on the device's own stream, one launch after the other: the seconds of each step, in all."""
        self._flags = {}
        seconds = dict.fromkeys(self._calls, 0.0)

        def play(segment: Segment, _turn: int) -> None:
            numbers = [number for number, _ in segment.launches if number in self._calls]
            for number, took in zip(numbers, self._device.time(self._work(segment)), strict=True):
                seconds[number] += took

        self._walk(self._parts, 0, play, None)
        return np.array(list(seconds.values()))

    def _walk(self, parts: Sequence[Part], turn: int, play: Callable[[Segment, int], None], stream: int | None) -> None:
        """`turn` says which of a segment's recordings is the one for this iteration."""
        for part in parts:
            match part:
                case Segment():
                    play(part, turn)
                case Copied():
                    self._device.copy(self._at(part.target), self._at(part.source), part.nbytes, stream)
                case Chosen():
                    self._walk(part.yes if self._is(part.condition, stream) else part.no, turn, play, stream)
                case Walked():
                    self._iterate(part, play, stream)

    def _iterate(self, part: Walked, play: Callable[[Segment, int], None], stream: int | None) -> None:
        loop, bases = part.loop, self._bases
        for carried in loop.carried:
            bases["pointer", carried.read] = self._at(carried.start)
        number = 0
        while number < loop.trips and (loop.condition is None or self._is(loop.condition, stream)):
            if part.counts:
                self._device.write(self._at(loop.counter), np.array(number), stream)
            for carried in loop.carried:
                bases["pointer", carried.write] = self._at(carried.slots[number % 2])
            for moved in loop.slices:
                bases["pointer", moved.pointer] = self._at(moved.start) + number * moved.stride
            self._walk(part.body, min(number, 2 - number % 2), play, stream)
            for carried in loop.carried:
                bases["pointer", carried.read] = bases["pointer", carried.write]
            number += 1
        if loop.condition is None:
            return
        for carried in loop.carried:
            last, result = bases["pointer", carried.read], self._at(carried.result)
            if last != result:
                self._device.copy(result, last, carried.nbytes, stream)

    def _is(self, condition: Argument, stream: int | None) -> bool:
        """Waits for it; for an input's once in a run."""
        is_input = condition.space == "input"
        if is_input and condition.index in self._flags:
            return self._flags[condition.index]
        self._device.read(self._at(condition), self._byte, stream)
        self._device.synchronize(stream)
        found = bool(self._byte[0])
        if is_input:
            self._flags[condition.index] = found
        return found

    def _at(self, argument: Argument) -> int:
        return self._bases[argument.space, argument.index] + argument.offset

    def _work(self, segment: Segment) -> list[Work]:
        """With the addresses of now. What went beside in a recording before has ended with it."""
        first = segment.launches[0][0]
        ended = sum(isinstance(step, Transfer) and step.beside for step in self._steps[:first])
        work: list[Work] = []
        for number, arguments in segment.launches:
            addresses = tuple(map(self._at, arguments))
            match self._steps[number]:
                case Launch():
                    work.append(replace(self._calls[number], arguments=addresses))
                case Transfer(offset=offset, nbytes=nbytes, out=out, beside=beside):
                    work.append(Copy(addresses[0], self._bases["host", 0] + offset, nbytes, out, beside))
                case Wait(count=count):
                    work.append(Await(max(count - ended, 0)))
        return work

    def _recording(self, segment: Segment, turn: int) -> _Recorded:
        found = self._recorded.get((segment, turn))
        if found is None:
            found = self._recorded[segment, turn] = _Recorded(self._device, segment, self._work(segment), self._bases)
        return found


class _Recorded:
    """A recording of a segment, and the addresses that it was last told."""

    def __init__(self, device: Device, segment: Segment, work: Sequence[Work],
                 bases: Mapping[tuple[Space, int], int]):  # fmt: skip
        self._device = device
        self._arguments = [arguments for _, arguments in segment.launches]
        self._recording: Any = device.record(work)
        #: Input, output or pointer -> the launches that read or write there.
        self._users: dict[tuple[Space, int], list[int]] = {}
        for number, arguments in enumerate(self._arguments):
            for key in {(argument.space, argument.index) for argument in arguments if argument.space in _MOVING}:
                self._users.setdefault(key, []).append(number)
        self._told = {key: bases[key] for key in self._users}

    def replay(self, bases: Mapping[tuple[Space, int], int], stream: int | None) -> None:
        changed: set[int] = set()
        for key, address in self._told.items():
            if bases[key] != address:
                self._told[key] = bases[key]
                changed.update(self._users[key])
        for number in sorted(changed):
            addresses = tuple(bases[a.space, a.index] + a.offset for a in self._arguments[number])
            self._device.rebind(self._recording, number, addresses)
        self._device.replay(self._recording, stream)


def _call(launch: Launch, program: CudaProgram, kernel: object) -> Call:
    """Without arguments."""
    code = program.kernels[launch.kernel]
    return Call(launch.label, kernel, code.blocks, code.threads, code.shared_bytes, ())
