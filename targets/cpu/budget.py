"""Keeping a program to a memory budget: what a process that runs it has resident, and which weights come and go.

What counts is everything that the process has resident at one time, as `VmHWM` in /proc/PID/status says it:

    base       Python, numpy and tensorc as `tensorc run` has them, measured in a process of its own when a model is
               compiled, and an allowance for what grows while a model is loaded
    code       the kernels, once as they are run and once as they are read from the artifact
    data       inputs, and the outputs of two runs: the caller often still holds those of the run before
    arena      activations, and scratch memory for each thread
    weights    those blocks of the mapped artifact that are resident at one time

Weights are streamed before activations are moved to a file: pages of a file that the system has in its cache are mapped
at tens of gigabytes a second, and values would have to be copied twice.
"""

from __future__ import annotations

import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from passes.memory.streaming import least_capacity, plan_stream
from targets.built import too_small
from targets.control import Branch, Control, Loop, Repeat, addresses, spans
from targets.cpu.machine import available_cores
from targets.cpu.program import (
    BLOCK,
    Argument,
    Change,
    CpuProgram,
    Step,
    Stream,
    Transfer,
)
from tensorc.errors import UserError
from tensorc.options import format_bytes
from tensorc.runtime.constants import table
from tensorc.target import PackedConstant

_MIB = 1 << 20
#: Added to the base: the parsed manifest, stacks, what allocators keep.
_ALLOWANCE = 4 * _MIB
#: What a kernel's code takes, in both places.
_KERNEL = 64 << 10
#: Least budgets are said with so much to spare: the base is not measured the same to the byte each time.
_SPARE = _MIB
#: A slice of a step that gathers looks up so many rows of its table: each may be in a block of its own.
_LOOKUPS = 4
#: Blocks of one constant that a step reads at most, if it can be split.
_STEP = 4

#: What is written to a file at once, to measure with: a matrix of 768 x 768 in float32.
_PIECE = 4 * 768 * 768
#: Linux 5.14's advice, which Python does not name.
_POPULATE_READ = 22

_PROBE = """
import tensorc.cli, tensorc.cli.run, tensorc.sampling, numpy.random
from tensorc.target import find_target
find_target("cpu")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Reads:
    """How a step reads constants, by the numbers of their spaces: of some it looks up so many rows, of others each task
    reads one of so many parts (see `Kernel.parts`)."""

    lookups: Mapping[int, int]
    parts: Mapping[int, int]


class Keeper:
    """Holds a program to a budget of `budget` bytes by streaming its weights."""

    def __init__(
        self,
        program: CpuProgram,
        constants: Sequence[PackedConstant],
        reads: Mapping[int, Reads],
        kernels: int,
        budget: int,
    ):
        data = sum(type.nbytes for type in program.inputs) + 2 * sum(type.nbytes for type in program.outputs)
        threads = program.threads or available_cores()
        scratch = _allocated(threads * -(-program.scratch_bytes // 64) * 64)
        #: Resident besides the arena and the weights.
        self._process = base_bytes() + kernels * _KERNEL + data + scratch
        self._budget = budget
        self._arena = _allocated(program.arena_bytes)
        self._whole = _Weights(program, constants)
        #: Where not all of them fit.
        self._weights = _Weights(*_split(program, constants, reads))
        self.summary: list[tuple[str, str]] = []

    @property
    def arena_room(self) -> int:
        """The size of the largest arena for which there is room."""
        room = max(self._budget - self._process - min(self._weights.least, self._whole.blocks) * BLOCK, 0)
        return room // BLOCK * BLOCK if room >= BLOCK else room

    def program(self) -> CpuProgram:
        """With as many of its weights resident as the budget allows. Raises UserError where it is too small, with the
        least that is enough, given an arena as small as it can be."""
        blocks = (self._budget - self._process - self._arena) // BLOCK
        least = min(self._weights.least, self._whole.blocks)
        if blocks < least:
            raise too_small(self._budget, self._process + self._arena + least * BLOCK + _SPARE)
        held = self._whole.resident() if self._whole.blocks <= blocks else self._weights.stream(blocks)
        resident, streamed = held.resident * BLOCK, held.streamed * BLOCK
        parts = {"the process": self._process, "activations": self._arena, "weights": resident}
        shares = ", ".join(f"{format_bytes(nbytes)} for {name}" for name, nbytes in parts.items())
        seconds = (streamed + held.lookups * BLOCK) / mapping_rate()
        self.summary = [
            ("memory budget", f"{format_bytes(self._budget)}: {shares}"),
            ("weights streamed", f"{format_bytes(streamed)} a run, which takes {1e3 * seconds:.1f} ms as predicted"),
        ]
        return held.program


@dataclass(frozen=True)
class _Held:
    """A program that has at most `resident` blocks at one time. Each run maps `streamed`, and looks up rows in tables,
    each of which may map one."""

    program: CpuProgram
    resident: int
    streamed: int = 0
    lookups: int = 0


class _Weights:
    """Which blocks of the weights a program needs when."""

    def __init__(
        self,
        program: CpuProgram,
        constants: Sequence[PackedConstant],
        gathers: Mapping[int, tuple[int, int]] | None = None,
        pieces: Mapping[int, Mapping[int, range]] | None = None,
    ):
        """`gathers` has the steps that look up rows: the space of the table, and how many. `pieces` has those that read
        of some spaces only these bytes."""
        self.program = program
        self.nbytes = sum(rows[-1]) if (rows := table(constants)) else 0
        self._extents = {
            program.first_constant + number: range(offset, offset + nbytes)
            for number, (offset, nbytes) in enumerate(rows)
        }
        self._gathers = gathers or {}
        self._pieces = pieces or {}
        self._spans = list(spans(program.steps, 0, len(program.steps)))
        self._tables = {number: found for number in self._gathers if (found := self._table(number)) is not None}
        self._needs = [self._blocks(begin, end) for begin, end in self._spans]
        self._loose = [
            max((self._touched(n) for n in range(begin, end) if n in self._tables), default=0)
            for begin, end in self._spans
        ]

    @property
    def blocks(self) -> int:
        """All that the program reads, tables apart."""
        return len(set().union(*self._needs))

    @property
    def least(self) -> int:
        """Without so many it cannot be run."""
        return least_capacity(self._needs, self._loose)

    def resident(self) -> _Held:
        """With all of them."""
        return _Held(replace(self.program, stream=Stream(self.nbytes, ())), self.blocks)

    def stream(self, blocks: int) -> _Held:
        """With at most so many, which are `least` at least."""
        steps = list(self.program.steps)
        for number, (first, count) in self._tables.items():
            step = steps[number]
            assert isinstance(step, Step)
            steps[number] = replace(step, slice=self._slice(number), table=(first, count))
        plan = plan_stream(self._needs, self._loose, blocks)
        begins = [begin for begin, _ in self._spans] + [len(steps)]
        changes = tuple(Change(begins[change.span], change.drops, change.fetches) for change in plan.changes)
        program = replace(self.program, steps=tuple(steps), stream=Stream(self.nbytes, changes))
        rows = sum(self._gathers[number][1] for number in self._tables)
        return _Held(program, blocks, plan.streamed, rows)

    def _blocks(self, begin: int, end: int) -> frozenset[int]:
        """What these steps need, but for tables."""
        blocks: set[int] = set()
        for number in range(begin, end):
            pieces = self._pieces.get(number, {})
            own: set[int] = set()
            for space in {argument.space for argument in addresses(self.program.steps[number], Argument)}:
                extent = pieces.get(space) or self._extents.get(space)
                if extent is not None:
                    own.update(range(extent.start // BLOCK, -(-extent.stop // BLOCK)))
            first, count = self._tables.get(number, (0, 0))
            blocks |= own.difference(range(first, first + count))
        return frozenset(blocks)

    def _table(self, number: int) -> tuple[int, int] | None:
        """The blocks (first, count) that are the table's alone, if a slice touches fewer."""
        extent = self._extents[self._gathers[number][0]]
        first, end = -(-extent.start // BLOCK), extent.stop // BLOCK
        return (first, end - first) if end - first > self._touched(number) else None

    def _slice(self, number: int) -> int:
        step = self.program.steps[number]
        assert isinstance(step, Step)
        return max(step.tasks * _LOOKUPS // self._gathers[number][1], 1)

    def _touched(self, number: int) -> int:
        """Blocks of its table that a slice touches: one for each of its rows, and one that a row may reach into."""
        step = self.program.steps[number]
        assert isinstance(step, Step)
        return -(-self._slice(number) * self._gathers[number][1] // step.tasks) + 1


def _split(
    program: CpuProgram, constants: Sequence[PackedConstant], reads: Mapping[int, Reads]
) -> tuple[CpuProgram, Sequence[PackedConstant], dict[int, tuple[int, int]], dict[int, dict[int, range]]]:
    """The arguments of `_Weights` for a program with fewer weights in each step: where a large constant is read part by
    part, one step becomes several."""
    extents = table(constants)
    steps: list[Step | Control[Argument] | Transfer] = []
    starts: list[int] = []
    gathers: dict[int, tuple[int, int]] = {}
    pieces: dict[int, dict[int, range]] = {}
    for number, step in enumerate(program.steps):
        starts.append(len(steps))
        if not isinstance(step, Step):
            steps.append(step)
            continue
        for space, count in reads[number].parts.items():
            offset, nbytes = extents[space - program.first_constant]
            most = max(_STEP * BLOCK * count // nbytes, 1)
            if count > most:
                size, tasks = nbytes // count, step.tasks // count
                for first in range(0, count, most):
                    here = min(most, count - first)
                    pieces[len(steps)] = {space: range(offset + first * size, offset + (first + here) * size)}
                    calls = 0 if first else step.calls
                    steps.append(replace(step, tasks=here * tasks, first=first * tasks, calls=calls))
                break
        else:
            if reads[number].lookups:
                gathers[len(steps)] = next(iter(reads[number].lookups.items()))
            steps.append(step)
    starts.append(len(steps))
    return replace(program, steps=tuple(_moved(step, starts) for step in steps)), constants, gathers, pieces


def _moved(step: Step | Control[Argument] | Transfer, starts: Sequence[int]) -> Step | Control[Argument] | Transfer:
    """With the new numbers of the steps that it names."""
    match step:
        case Loop():
            return replace(step, end=starts[step.end])
        case Repeat():
            return replace(step, begin=starts[step.begin])
        case Branch():
            return replace(step, target=starts[step.target])
    return step


def _allocated(nbytes: int) -> int:
    """As the executor's `allocate` has it resident."""
    return -(-nbytes // BLOCK) * BLOCK if nbytes >= BLOCK else nbytes


@cache
def base_bytes() -> int:
    """What `tensorc run` has resident before it loads a model."""
    if not sys.platform.startswith("linux"):
        raise UserError("memory budgets need Linux, whose /proc says what a process has resident")
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout) + _ALLOWANCE


@cache
def mapping_rate() -> float:
    """Bytes a second at which blocks of a file that the system has in its cache are mapped and let go."""
    size = 32 * _MIB
    with tempfile.TemporaryFile(prefix="tensorc-") as file:
        # In pieces as weights are: the system keeps a file in pages as large as fit into what was written at once.
        for _ in range(0, size, _PIECE):
            file.write(bytes(_PIECE))
        file.flush()
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            return size / min(_remapped(mapped) for _ in range(5))


def _remapped(mapped: mmap.mmap) -> float:
    """Seconds to map all of it and let it go."""
    start = time.perf_counter()
    for block in range(0, len(mapped), BLOCK):
        mapped.madvise(_POPULATE_READ, block, BLOCK)
        mapped.madvise(mmap.MADV_DONTNEED, block, BLOCK)
    return time.perf_counter() - start
