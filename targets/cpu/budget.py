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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

from passes.streaming import least_capacity, plan_stream
from targets.cpu.machine import available_cores
from targets.cpu.program import BLOCK, Argument, Branch, Change, Control, CpuProgram, Loop, Step, Stream, Transfer
from tensorc.errors import UserError
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

#: A matrix of 768 x 768 in float32.
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
class Gather:
    """A step that looks up `lookups` rows in the constant whose space is `space`; a task those of its own."""

    space: int
    lookups: int


class Keeper:
    """Holds a program to a budget of `budget` bytes by streaming its weights."""

    def __init__(
        self,
        program: CpuProgram,
        constants: Sequence[PackedConstant],
        gathers: Mapping[int, Gather],
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
        self._weights = _Weights(program, constants, gathers)
        self.summary: list[tuple[str, str]] = []

    @property
    def arena_room(self) -> int:
        """The size of the largest arena for which there is room."""
        room = max(self._budget - self._process - self._weights.least * BLOCK, 0)
        return room // BLOCK * BLOCK if room >= BLOCK else room

    def program(self) -> CpuProgram:
        """With as many of its weights resident as the budget allows. Raises UserError where it is too small, with the
        least that is enough, given an arena as small as it can be."""
        blocks = (self._budget - self._process - self._arena) // BLOCK
        if blocks < self._weights.least:
            least = self._process + self._arena + self._weights.least * BLOCK + _SPARE
            raise UserError(
                f"a memory budget of {_text(self._budget)} is too small: the smallest feasible one is "
                f"{-(-least // _MIB)}MiB"
            )
        program, pinned, window, streamed = self._weights.plan(blocks)
        parts = {"the process": self._process, "activations": self._arena, "weights": (pinned + window) * BLOCK}
        shares = ", ".join(f"{_text(nbytes)} for {name}" for name, nbytes in parts.items())
        seconds = streamed * BLOCK / mapping_rate()
        self.summary = [
            ("memory budget", f"{_text(self._budget)}: {shares}"),
            ("weights streamed", f"{_text(streamed * BLOCK)} a run, which takes {1e3 * seconds:.1f} ms as predicted"),
        ]
        return program


class _Weights:
    """Which blocks of the weights a program needs when."""

    def __init__(self, program: CpuProgram, constants: Sequence[PackedConstant], gathers: Mapping[int, Gather]):
        self.program = program
        rows = table(constants)
        self.nbytes = sum(rows[-1]) if rows else 0
        self.spans = list(_spans(program.steps))
        self._extents = {program.first_constant + number: row for number, row in enumerate(rows)}
        self._gathers = gathers
        #: By span: all blocks, and how many more where gathers are sliced.
        self.whole = [self._blocks(begin, end, {}) for begin, end in self.spans]
        self.tables = {number: found for number in gathers if (found := self._table(number)) is not None}
        self.needs = [self._blocks(begin, end, self.tables) for begin, end in self.spans]
        self.loose = [
            max((self._loose(n) for n in range(begin, end) if n in self.tables), default=0) for begin, end in self.spans
        ]

    @property
    def least(self) -> int:
        """Blocks without which it cannot be run."""
        return min(least_capacity(self.needs, self.loose), len(set().union(*self.whole)))

    def plan(self, blocks: int) -> tuple[CpuProgram, int, int, int]:
        """The program that has at most so many blocks resident, and the blocks that stay, those of the window, and
        those that come and go in each run. `blocks` are `least` at least."""
        everything = len(set().union(*self.whole))
        if everything <= blocks:
            return replace(self.program, stream=Stream(self.nbytes, ())), everything, 0, 0
        steps = list(self.program.steps)
        for number, (first, count) in self.tables.items():
            step = steps[number]
            assert isinstance(step, Step)
            steps[number] = replace(step, slice=self._slice(number), table=(first, count))
        plan = plan_stream(self.needs, self.loose, blocks)
        begins = [begin for begin, _ in self.spans] + [len(steps)]
        changes = tuple(Change(begins[change.span], change.drops, change.fetches) for change in plan.changes)
        program = replace(self.program, steps=tuple(steps), stream=Stream(self.nbytes, changes))
        return program, plan.pinned, plan.window, plan.streamed + sum(self.loose)

    def _blocks(self, begin: int, end: int, tables: Mapping[int, tuple[int, int]]) -> frozenset[int]:
        blocks: set[int] = set()
        for number in range(begin, end):
            first, count = tables.get(number, (0, 0))
            for argument in _arguments(self.program.steps[number]):
                if argument.space in self._extents:
                    offset, nbytes = self._extents[argument.space]
                    blocks.update(range(offset // BLOCK, -(-(offset + nbytes) // BLOCK)))
            blocks.difference_update(range(first, first + count))
        return frozenset(blocks)

    def _table(self, number: int) -> tuple[int, int] | None:
        """The blocks (first, count) that are the table's alone, if a slice touches fewer."""
        offset, nbytes = self._extents[self._gathers[number].space]
        first, end = -(-offset // BLOCK), (offset + nbytes) // BLOCK
        return (first, end - first) if end - first > self._loose(number) else None

    def _slice(self, number: int) -> int:
        step = self.program.steps[number]
        assert isinstance(step, Step)
        return max(step.tasks * _LOOKUPS // self._gathers[number].lookups, 1)

    def _loose(self, number: int) -> int:
        """Blocks that a slice touches: one for each of its rows, and one that a row may reach into."""
        step = self.program.steps[number]
        assert isinstance(step, Step)
        return -(-self._slice(number) * self._gathers[number].lookups // step.tasks) + 1


def _allocated(nbytes: int) -> int:
    """As the executor's `allocate` has it resident."""
    return -(-nbytes // BLOCK) * BLOCK if nbytes >= BLOCK else nbytes


def _spans(steps: Sequence[Step | Control | Transfer]) -> Iterator[tuple[int, int]]:
    """Steps from .. to; a loop or branch is one."""
    begin = 0
    while begin < len(steps):
        step = steps[begin]
        end = begin + 1
        if isinstance(step, Loop):
            end = step.end + 1
        elif isinstance(step, Branch):
            middle = steps[step.target - 1]
            assert isinstance(middle, Branch)
            end = middle.target
        yield begin, end
        begin = end


def _arguments(step: Any) -> Iterator[Argument]:
    """All that a step points to."""
    if isinstance(step, Argument):
        yield step
    elif isinstance(step, tuple):
        for item in step:
            yield from _arguments(item)
    elif is_dataclass(step):
        for field in fields(step):
            yield from _arguments(getattr(step, field.name))


def _text(nbytes: int) -> str:
    return f"{nbytes / _MIB:.1f} MiB"


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
