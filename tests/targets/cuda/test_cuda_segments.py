"""Random programs of loops and branches, gone through in every way, against steps that are followed one by one.

Memory is cells of 8 bytes, and a kernel is a sum: nothing is compiled.
"""

from __future__ import annotations

import ctypes
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.control import Branch, Carried, Control, Loop, Repeat, Slice
from targets.cuda import replay
from targets.cuda.device import Call
from targets.cuda.emulator import Emulator
from targets.cuda.program import Argument, Code, CudaProgram, Launch
from targets.cuda.replay import Replay
from targets.cuda.segments import Chosen, Copied, Segment, Walked, segments, users

CELLS, COUNTERS = 24, 8
Step = Launch | Control[Argument]


class Sums(Emulator):
    """A kernel takes two cells and writes one."""

    def replay(self, recording: list[Call], stream: int | None = None) -> None:
        del stream
        for call in recording:
            first, second, result = map(ctypes.c_int64.from_address, call.arguments)
            result.value = added(first.value, second.value, call.kernel)


def added(first: int, second: int, kernel: int) -> int:
    return (3 * first + 5 * second + kernel) % 1000


def cell(number: int) -> Argument:
    return Argument("arena", 0, 8 * number)


class Programs:
    """A random program. Regions read what they find, write where they may, and count in cells of their own."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.steps: list[Step] = []
        self.pointers = self.counters = 0
        #: Counters, and the pointers that they are read through: what lies beside them is no step's.
        self.counting: set[Argument] = set()
        self.region(2, [], [])

    def region(self, depth: int, readable: list[Argument], writable: list[Argument]) -> None:
        for _ in range(self.random.randint(1, 3)):
            kind = self.random.choice(["launch", "launch", "loop", "loop", "branch"] if depth else ["launch"])
            if kind == "launch":
                first, second = self.address(readable), self.beside(readable)
                self.steps.append(Launch("k", (first, second, self.beside(writable)), "sum"))
            elif kind == "loop":
                self.loop(depth, readable, writable)
            else:
                self.branch(depth, readable, writable)

    def address(self, pointers: list[Argument]) -> Argument:
        return self.random.choice([*pointers, *pointers, cell(self.random.randrange(CELLS - 1))])

    def beside(self, pointers: list[Argument]) -> Argument:
        """Or the next cell."""
        found = self.address(pointers)
        if found not in self.counting and self.random.random() < 0.3:
            return replace(found, offset=found.offset + 8)
        return found

    def pointer(self) -> int:
        self.pointers += 1
        return self.pointers - 1

    def loop(self, depth: int, readable: list[Argument], writable: list[Argument]) -> None:
        trips = self.random.randint(0, 5)
        carried = tuple(self.carried(readable, writable, trips) for _ in range(self.random.randint(0, 2)))
        slices = []
        for _ in range(self.random.randint(0, 2)):
            start, stride = self.random.randrange(CELLS - 5), 8
            if self.random.random() < 0.5:
                start, stride = start + 4, -8
            slices.append(Slice(self.pointer(), cell(start), stride))
        conditional = carried and self.random.random() < 0.4
        condition = Argument("pointer", carried[0].read) if conditional else None
        counter = cell(CELLS + self.counters % COUNTERS)
        self.counters += 1
        self.counting.add(counter)
        begin = len(self.steps)
        self.steps.append(Repeat("", 0))
        moving = [Argument("pointer", part.pointer) for part in slices]
        written = [Argument("pointer", value.write) for value in carried]
        read = [Argument("pointer", value.read) for value in carried]
        self.region(depth - 1, [*readable, *moving, *read, counter], [*writable, *moving, *written])
        self.steps[begin] = Loop("", trips, len(self.steps), counter, condition, carried, tuple(slices))
        self.steps.append(Repeat("", begin))

    def carried(self, readable: list[Argument], writable: list[Argument], trips: int) -> Carried[Argument]:
        result, other = self.address(writable), cell(self.random.randrange(CELLS - 1))
        slots = (result, other) if trips % 2 else (other, result)
        value = Carried(self.pointer(), self.pointer(), self.address(readable), slots, result, 8)
        if value.start in self.counting:
            self.counting.add(Argument("pointer", value.read))
        return value

    def branch(self, depth: int, readable: list[Argument], writable: list[Argument]) -> None:
        begin = len(self.steps)
        self.steps.append(Repeat("", 0))
        self.region(depth - 1, readable, writable)
        middle = len(self.steps)
        self.steps.append(Repeat("", 0))
        self.region(depth - 1, readable, writable)
        self.steps[begin] = Branch("", middle + 1, self.address(readable))
        self.steps[middle] = Branch("", len(self.steps))


def followed(steps: list[Step], cells: list[int]) -> list[int]:
    """What the cells have when each step has said which is next."""
    pointers: dict[int, int] = {}
    numbers: dict[int, int] = {}

    def at(argument: Argument) -> int:
        return argument.offset // 8 + (pointers[argument.index] if argument.space == "pointer" else 0)

    def opened(begin: int, loop: Loop[Argument]) -> int:
        cells[at(loop.counter)] = numbers[begin]
        if numbers[begin] < loop.trips and (loop.condition is None or cells[at(loop.condition)] & 255):
            return begin + 1
        if loop.condition is not None or not loop.trips:
            for value in loop.carried:
                cells[at(value.result)] = cells[pointers[value.read]]
        return loop.end + 1

    number = 0
    while number < len(steps):
        match steps[number]:
            case Launch(arguments=(first, second, result)):
                cells[at(result)] = added(cells[at(first)], cells[at(second)], 7)
                number += 1
            case Branch(target=target, unless=unless):
                number = number + 1 if unless is not None and cells[at(unless)] & 255 else target
            case Repeat(begin=begin):
                loop = steps[begin]
                assert isinstance(loop, Loop)
                numbers[begin] += 1
                for value in loop.carried:
                    pointers[value.read] = pointers[value.write]
                    pointers[value.write] = at(value.slots[numbers[begin] % 2])
                for part in loop.slices:
                    pointers[part.pointer] += part.stride // 8
                number = opened(begin, loop)
            case Loop() as loop:
                numbers[number] = 0
                for value in loop.carried:
                    pointers[value.read], pointers[value.write] = at(value.start), at(value.slots[0])
                for part in loop.slices:
                    pointers[part.pointer] = at(part.start)
                number = opened(number, loop)
    return cells


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 30), most=st.sampled_from([0, 4, 20, 1 << 20]))
def test_random_programs(seed: int, most: int) -> None:
    made = Programs(seed)
    program = CudaProgram("sm_90", {"k": Code(1, 1, 0, (0, 0), (0, 0), (0, 0))}, tuple(made.steps), (), (), 0, 0, 0)
    device = Sums()
    cells = [made.random.randrange(256) for _ in range(CELLS)] + [0] * COUNTERS
    memory = np.array(cells, np.int64)
    bases = {("arena", 0): device.allocate(memory.nbytes)}
    device.write(bases["arena", 0], memory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "segments", lambda steps: segments(steps, most))
        runs = Replay(device, program, {"k": 7}, bases)
    for _ in range(2):  # the second time, recordings have been told other addresses before
        runs.run({})
        device.read(bases["arena", 0], memory.view(np.uint8))
        cells = followed(made.steps, cells)
        assert memory.tolist()[:CELLS] == cells[:CELLS]
    device.close()


def launch(*arguments: Argument) -> Launch:
    return Launch("k", arguments, "")


COUNTER, X, Y, Z = Argument("arena"), Argument("input"), Argument("output"), Argument("arena", 0, 64)
READ, WRITE, ROW = (Argument("pointer", number) for number in range(3))


def looped(trips: int, *inside: Step, condition: Argument | None = None) -> list[Step]:
    carried = Carried(0, 1, X, (Z, Y) if trips % 2 == 0 else (Y, Z), Y, 4)
    end = len(inside) + 1
    return [Loop("", trips, end, COUNTER, condition, (carried,), (Slice(2, Argument("input", 1, 8), -4),)), *inside,
            Repeat("", 0), launch(Y)]  # fmt: skip


def test_loops_are_written_out() -> None:
    steps = looped(3, launch(READ, ROW, WRITE), launch(COUNTER))
    (segment,), numbers = segments(steps)
    assert isinstance(segment, Segment)
    row = [Argument("input", 1, 8 - 4 * number) for number in range(3)]
    count = [Argument("numbers", 0, 8 * number) for number in range(3)]
    assert [(n, *arguments) for n, arguments in segment.launches] == [
        (1, X, row[0], Y), (2, count[0]), (1, Y, row[1], Z), (2, count[1]), (1, Z, row[2], Y), (2, count[2]), (4, Y),
    ]  # fmt: skip
    assert numbers == 3
    assert users([segment])[("input", 1)] == 3
    _, numbers = segments(looped(3, launch(READ, WRITE)))
    assert numbers == 0, "nobody asks for it"


def test_loops_that_end_before_they_begin() -> None:
    parts, _ = segments(looped(0, launch(READ, WRITE)), most=0)
    assert parts[0] == Copied(Y, X, 4)
    assert len(parts) == 2


def test_what_is_gone_through() -> None:
    inside = launch(READ, WRITE)
    for steps, most in ((looped(4, inside), 3), (looped(4, inside, condition=READ), 99)):
        (walked, segment), numbers = segments(steps, most)
        assert isinstance(walked, Walked)
        assert not walked.counts
        assert [arguments for _, arguments in walked.body[0].launches] == [(READ, WRITE)]
        assert isinstance(segment, Segment)
        assert numbers == 0
    (walked, _), _ = segments(looped(2, Branch("", 4, X), launch(COUNTER), Branch("", 4)), 99)
    assert isinstance(walked, Walked)
    assert walked.counts
    assert isinstance(walked.body[0], Chosen)
    assert walked.body[0].no == ()
