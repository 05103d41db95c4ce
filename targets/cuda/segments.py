"""A program's steps as what a device is told at once, and what the host decides in between.

Loops whose trips are known are written out, each iteration's launches with addresses of their own: with what is around
them they are one recording, which takes the host no time at all. The host goes through other loops itself: those that
data end, those with a branch inside, which data choose, and those that would be too many launches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from targets.control import Branch, Control, Loop, spans
from targets.cuda.program import Action, Argument, Space

#: Launches of a loop that is written out at most. A recording takes a GPU's driver some KiB for each, and the host some
#: 10 us when a model is loaded.
MOST = 16384
NUMBER_BYTES = 8


@dataclass(frozen=True, eq=False)
class Segment:
    """Launches in a row, each with the number of its step, and the transfers and waits between them."""

    launches: tuple[tuple[int, tuple[Argument, ...]], ...]


@dataclass(frozen=True)
class Copied:
    target: Argument
    source: Argument
    nbytes: int


@dataclass(frozen=True)
class Walked:
    """A loop that the host goes through. `counts`: its steps read the iteration's number."""

    loop: Loop[Argument]
    counts: bool
    body: tuple[Part, ...]


@dataclass(frozen=True)
class Chosen:
    """One or the other, as the byte at `condition` is not 0 or is."""

    condition: Argument
    yes: tuple[Part, ...]
    no: tuple[Part, ...]


Part = Segment | Copied | Walked | Chosen


def users(parts: Iterable[Part]) -> Counter[tuple[Space, int]]:
    """How many launches have to do with each space."""
    found: Counter[tuple[Space, int]] = Counter()
    for part in parts:
        match part:
            case Segment():
                for _, arguments in part.launches:
                    found.update({(argument.space, argument.index) for argument in arguments})
            case Walked():
                found += users(part.body)
            case Chosen():
                found += users((*part.yes, *part.no))
    return found


def segments(steps: Sequence[Action | Control[Argument]], most: int = MOST) -> tuple[tuple[Part, ...], int]:
    """The parts in order, whose pointers are those of walked loops alone, and how many numbers they read from the space
    of that name."""
    expansion = _Expansion(steps, most)
    parts = expansion.parts(0, len(steps), {})
    return parts, expansion.numbers


class _Expansion:
    def __init__(self, steps: Sequence[Action | Control[Argument]], most: int):
        self.steps = steps
        self.most = most
        self.numbers = 0
        #: Counters of walked loops that some step reads.
        self.counted: set[Argument] = set()

    def parts(self, begin: int, end: int, known: Mapping[Argument, Argument]) -> tuple[Part, ...]:
        """`known` has where pointers and counters of the loops around are."""
        return tuple(_joined(self._parts(begin, end, known)))

    def _parts(self, begin: int, end: int, known: Mapping[Argument, Argument]) -> Iterator[Part]:
        for first, after in spans(self.steps, begin, end):
            step = self.steps[first]
            if isinstance(step, Action):
                arguments = tuple(self._resolved(argument, known) for argument in step.arguments)
                yield Segment(((first, arguments),))
            elif isinstance(step, Loop):
                loop = self._placed(step, known)
                if self._launches(first, after) <= self.most:
                    yield from self._written_out(loop, step.counter, first, known)
                else:
                    yield self._walked(loop, first, known)
            elif isinstance(step, Branch):
                assert step.unless is not None
                yes = self.parts(first + 1, step.target - 1, known)
                yield Chosen(self._resolved(step.unless, known), yes, self.parts(step.target, after, known))

    def _launches(self, begin: int, end: int) -> float:
        """Of some steps with all loops written out; infinity where that cannot be."""
        count = 0.0
        for first, _ in spans(self.steps, begin, end):
            step = self.steps[first]
            if isinstance(step, Loop):
                body = max(self._launches(first + 1, step.end), 1)
                count += math.inf if step.condition is not None else step.trips and step.trips * body
            else:
                count += 1 if isinstance(step, Action) else math.inf
        return count

    def _written_out(
        self, loop: Loop[Argument], counter: Argument, first: int, known: Mapping[Argument, Argument]
    ) -> Iterator[Part]:
        last = {_pointer(carried.read): carried.start for carried in loop.carried}
        for number in range(loop.trips):
            written = {_pointer(carried.write): carried.slots[number % 2] for carried in loop.carried}
            parts = {_pointer(part.pointer): _moved(part.start, number * part.stride) for part in loop.slices}
            here = {counter: Argument("numbers", 0, number * NUMBER_BYTES)}
            yield from self._parts(first + 1, loop.end, {**known, **last, **written, **parts, **here})
            last = {_pointer(carried.read): carried.slots[number % 2] for carried in loop.carried}
        if not loop.trips:
            yield from (Copied(carried.result, carried.start, carried.nbytes) for carried in loop.carried)

    def _walked(self, loop: Loop[Argument], first: int, known: Mapping[Argument, Argument]) -> Walked:
        body = self.parts(first + 1, loop.end, {**known, loop.counter: loop.counter})
        return Walked(loop, loop.counter in self.counted, body)

    def _placed(self, loop: Loop[Argument], known: Mapping[Argument, Argument]) -> Loop[Argument]:
        """With its addresses as far as they are known. Its counter and its condition are in its iterations."""

        def resolved(argument: Argument) -> Argument:
            return self._resolved(argument, known)

        carried = tuple(
            replace(value, start=resolved(value.start), slots=(resolved(value.slots[0]), resolved(value.slots[1])),
                    result=resolved(value.result))
            for value in loop.carried
        )  # fmt: skip
        slices = tuple(replace(part, start=resolved(part.start)) for part in loop.slices)
        return replace(loop, carried=carried, slices=slices)

    def _resolved(self, argument: Argument, known: Mapping[Argument, Argument]) -> Argument:
        if argument.space == "pointer":
            place = known.get(_pointer(argument.index))
            return argument if place is None else _moved(place, argument.offset)
        place = known.get(argument, argument)
        if place.space == "numbers":
            self.numbers = max(self.numbers, place.offset // NUMBER_BYTES + 1)
        elif argument in known:
            self.counted.add(argument)
        return place


def _pointer(number: int) -> Argument:
    return Argument("pointer", number)


def _moved(argument: Argument, nbytes: int) -> Argument:
    return replace(argument, offset=argument.offset + nbytes)


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Segments that follow each other are one."""
    launches: list[tuple[int, tuple[Argument, ...]]] = []
    for part in parts:
        if isinstance(part, Segment):
            launches += part.launches
            continue
        if launches:
            yield Segment(tuple(launches))
            launches = []
        yield part
    if launches:
        yield Segment(tuple(launches))
