"""Keeping a program to a budget of the GPU's memory: which weights stay there, and when the others come over the bus.

What counts is all memory that the model takes of the device: inputs and outputs of its own, activations, scratch
memory, and weights, those that stay and those in the window, where the others take turns. Weights that do not stay lie
in memory of the host's that the GPU copies from by itself, beside the kernels that run meanwhile. Tables of which rows
are looked up lie there too, and kernels read the rows where they are.

Weights come in batches: those that one launch is the first to read, or some launches where that is little. What streams
weights on the CPU says which batches stay and when the others are there, and the planner of activations where. A run
begins with an empty window: its recording does not begin before all of the last run's has ended, so what that would
fetch for it came no sooner.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from passes.memory.portfolio import quick_offsets
from passes.memory.problem import Buffer, Problem
from passes.memory.streaming import Runs, StreamPlan, least_capacity, plan_stream
from targets.built import too_small
from targets.control import Branch, Control, Loop, Repeat, addresses, spans
from targets.cuda.program import Action, Argument, CudaProgram, Transfer, Wait
from tensorc.options import format_bytes

#: Constants begin at multiples of it, as allocations do.
_ALIGNMENT = 256
#: A batch of less is joined with the next one: a copy of so much takes many times as long as to begin one.
_BATCH = 1 << 20
#: Where what comes and goes does not find room, the next try gives it so much less at least.
_LOWER = 0.98
#: Bytes a second over PCIe 4.0 with 16 lanes.
_RATE = 25e9


@dataclass(frozen=True)
class _Visit:
    """A batch has its place in the window from span `begin` to before `end`, and is needed from `need` on."""

    batch: int
    begin: int
    end: int
    need: int


@dataclass(frozen=True)
class _Held:
    """What comes and goes, each at its offset in a window of so many bytes, beside the bytes that stay."""

    visits: tuple[_Visit, ...]
    offsets: tuple[int, ...]
    window: int
    resident: int

    @property
    def nbytes(self) -> int:
        return self.window + self.resident


class Keeper:
    """Holds a program to a budget of `budget` bytes. `constants` has their sizes; of `tables`, by their numbers, rows
    of so many bytes are looked up in a run, and nothing else is read."""

    def __init__(self, program: CudaProgram, constants: Sequence[int], tables: Mapping[int, int], budget: int):
        self._program = program
        self._constants = constants
        self._tables = tables
        self._budget = budget
        #: All but weights.
        self._data = program.device_bytes([])
        self._whole = sum(constants)
        self._spans = list(spans(program.steps, 0, len(program.steps)))
        reads = [list(dict.fromkeys(self._weights(program.steps[begin:end]))) for begin, end in self._spans]
        self._batches = list(_batches(reads, [_aligned(nbytes) for nbytes in constants]))
        of = {number: batch for batch, numbers in enumerate(self._batches) for number in numbers}
        self._needs = [frozenset(of[number] for number in numbers) for numbers in reads]
        self._sizes = {
            batch: sum(_aligned(constants[number]) for number in numbers) for batch, numbers in enumerate(self._batches)
        }
        self._least = least_capacity(self._needs, [0] * len(self._needs), self._sizes)
        self.summary: list[tuple[str, str]] = []

    @property
    def arena_room(self) -> int:
        """The size of the largest arena for which there is room."""
        least = min(self._held(self._least).nbytes, self._whole)
        return max(self._budget - (self._data - self._program.arena_bytes) - least, 0)

    def program(self) -> CudaProgram:
        """With as many of its weights on the device as the budget allows. Raises UserError where it is too small, with
        the least that is enough, given an arena as small as it can be."""
        room = self._budget - self._data
        if self._whole <= room:
            self._tell(self._whole)
            return self._program
        held = self._fit(room)
        if held.nbytes > room:
            raise too_small(self._budget, self._data + min(held.nbytes, self._whole))
        streamed = sum(self._sizes[visit.batch] for visit in held.visits) + sum(self._tables.values())
        seconds = f"{1e3 * streamed / _RATE:.1f} ms at {_RATE / 1e9:.0f} GB/s, as PCIe 4.0 has them"
        self._tell(held.nbytes)
        self.summary.append(("weights streamed", f"{format_bytes(streamed)} a run, {seconds}"))
        return self._moved(held)

    def _tell(self, weights: int) -> None:
        arena = self._program.arena_bytes
        parts = {"activations": arena, "other data": self._data - arena, "weights": weights}
        shares = ", ".join(f"{format_bytes(nbytes)} for {name}" for name, nbytes in parts.items())
        self.summary = [("memory budget", f"{format_bytes(self._budget)}: {shares}")]

    def _weights(self, steps: Any) -> Iterator[int]:
        """The constants that some steps read, but for tables."""
        for argument in addresses(steps, Argument):
            if argument.space == "constant" and argument.index not in self._tables:
                yield argument.index

    def _fit(self, room: int) -> _Held:
        """That fits, or the least."""
        capacity = max(room, self._least)
        while True:
            held = self._held(capacity)
            if held.nbytes <= room or capacity == self._least:
                return held
            capacity = max(min(capacity - (held.nbytes - room), int(_LOWER * capacity)), self._least)

    def _held(self, capacity: int) -> _Held:
        """For a plan of `capacity` bytes. More may be held: what comes and goes leaves gaps between what is there."""
        plan = plan_stream(self._needs, [0] * len(self._needs), capacity, self._sizes)
        visits = tuple(sorted(_visits(plan, self._needs), key=lambda visit: (visit.begin, visit.need)))
        problem = Problem.of(Buffer(visit.begin, visit.end, self._sizes[visit.batch], _ALIGNMENT) for visit in visits)
        offsets = quick_offsets(problem)
        away = {visit.batch for visit in visits}
        resident = sum(nbytes for batch, nbytes in self._sizes.items() if batch not in away)
        return _Held(visits, offsets, problem.height(offsets), resident)

    def _moved(self, held: _Held) -> CudaProgram:
        """The program with copies between its steps."""
        begun = defaultdict[int, list[tuple[_Visit, int]]](list)
        for visit, offset in zip(held.visits, held.offsets, strict=True):
            begun[visit.begin].append((visit, offset))
        homes, host = self._homes({visit.batch for visit in held.visits})
        window: dict[int, int] = {}  # by constant, where it is now
        arrivals: dict[int, int] = {}  # by batch, the number of its last transfer

        def place(argument: Argument) -> Argument:
            number = argument.index
            if argument.space != "constant" or number not in homes:
                return argument
            if number in self._tables:
                return Argument("host", 0, homes[number] + argument.offset)
            return Argument("window", 0, window[number] + argument.offset)

        steps: list[Action | Control[Argument]] = []
        count = waited = 0
        for span, ((begin, end), need) in enumerate(zip(self._spans, self._needs, strict=True)):
            for visit, offset in begun[span]:
                numbers = self._batches[visit.batch]
                start = homes[numbers[0]]
                window |= {number: offset + homes[number] - start for number in numbers}
                to = Argument("window", 0, offset)
                steps.append(Transfer("weights", to, start, self._sizes[visit.batch], beside=True))
                count += 1
                arrivals[visit.batch] = count
            wanted = max((arrivals[batch] for batch in need if batch in arrivals), default=0)
            if wanted > waited:
                steps.append(Wait(wanted))
                waited = wanted
            ahead = len(steps) - begin
            steps += [_changed(_shifted(step, ahead), place) for step in self._program.steps[begin:end]]
        return replace(self._program, steps=tuple(steps), window_bytes=held.window, host_bytes=host, homes=homes)

    def _homes(self, away: Set[int]) -> tuple[dict[int, int], int]:
        """Where tables and the batches that are `away` lie in the host's memory, and how much of that there is."""
        homes: dict[int, int] = {}
        end = _aligned(self._program.host_bytes)
        for number in (*self._tables, *(number for batch in sorted(away) for number in self._batches[batch])):
            homes[number] = end
            end += _aligned(self._constants[number])
        return homes, end


def _aligned(nbytes: int) -> int:
    return -(-max(nbytes, 1) // _ALIGNMENT) * _ALIGNMENT


def _batches(reads: Sequence[Sequence[int]], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Constants that come together: small ones as long as no launch needs more at one time for that."""
    most = min(max((sum(sizes[number] for number in numbers) for numbers in reads), default=0), _BATCH)
    seen: set[int] = set()
    batch: list[int] = []
    for numbers in reads:
        fresh = [number for number in numbers if number not in seen]
        seen.update(fresh)
        if batch and sum(sizes[number] for number in (*batch, *fresh)) > most:
            yield tuple(batch)
            batch = []
        batch += fresh
    if batch:
        yield tuple(batch)


def _visits(plan: StreamPlan, needs: Sequence[Set[int]]) -> Iterator[_Visit]:
    """Of a run that begins with an empty window: what the one before would have left there is fetched first."""
    left: set[int] = set()
    for change in plan.changes:
        left = (left - set(_each(change.drops))) | set(_each(change.fetches))
    begun = dict.fromkeys(left, 0)
    stays: list[tuple[int, int, int]] = []
    for change in plan.changes:
        if change.span < len(needs):
            stays += [(batch, begun.pop(batch), change.span) for batch in _each(change.drops)]
            begun.update(dict.fromkeys(_each(change.fetches), change.span))
    stays += [(batch, begin, len(needs)) for batch, begin in begun.items()]
    for batch, begin, end in stays:
        spans = [span for span in range(begin, end) if batch in needs[span]]
        if spans:
            yield _Visit(batch, begin, spans[-1] + 1, spans[0])


def _each(runs: Runs) -> Iterator[int]:
    for first, count in runs:
        yield from range(first, first + count)


def _shifted(step: Any, ahead: int) -> Any:
    """With the numbers of the steps that it names, so many further on."""
    match step:
        case Loop():
            return replace(step, end=step.end + ahead)
        case Repeat():
            return replace(step, begin=step.begin + ahead)
        case Branch():
            return replace(step, target=step.target + ahead)
    return step


def _changed(step: Any, place: Callable[[Argument], Argument]) -> Any:
    """A step that points to what `place` says."""
    if isinstance(step, Argument):
        return place(step)
    if isinstance(step, tuple):
        return tuple(_changed(item, place) for item in step)
    if is_dataclass(step) and not isinstance(step, type):
        return replace(step, **{field.name: _changed(getattr(step, field.name), place) for field in fields(step)})
    return step
