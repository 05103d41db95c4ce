"""The exact cycles of a program: when each iteration is issued, so what its Verilog takes, and how deep FIFOs must be.

Nothing stalls behind the issue, so a process is the list of its iterations: how many cycles lie between them at least,
which channels each reads and writes, and how long after the issue a written word is there. The inner loop is timing.c.
"""

from __future__ import annotations

import ctypes
import functools
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from targets.hls.hardware.datapath import Affine, Loop, Op, evaluated, reachable
from targets.hls.hardware.pipeline import Design, Place, designs_of
from targets.hls.program import Program
from tensorc.errors import TensorcWarning, UserError
from tensorc.native import compiled

_SOURCE = Path(__file__).with_name("timing.c")


@dataclass(frozen=True)
class ProcessTiming:
    """Cycles of an image, counted from the first word that is taken from outside: the first issue, the end of the last
    effect, cycles in which it could work, and in which it waited for words or room after its first issue."""

    start: int
    end: int
    busy: int
    stalled: int


#: Simulated to know how far apart they are.
IMAGES = 4


@dataclass(frozen=True)
class ChannelTiming:
    """The greatest number of words that were in it or on their way; cycles that its reader waited for words, and its
    writers for room, over all images."""

    most: int
    empty: int
    full: int


@dataclass(frozen=True)
class Timing:
    """`ends[i]`: cycles from the first word taken to the last word of image i given, both included, where images follow
    without a break. `processes` are those of the first image."""

    ends: tuple[int, ...]
    processes: Mapping[str, ProcessTiming]
    channels: Mapping[str, ChannelTiming]

    @property
    def latency(self) -> int:
        """Of an image."""
        return self.ends[0]

    @property
    def interval(self) -> int:
        """Cycles between the last two images; the latency if there was only one."""
        return self.ends[-1] - self.ends[-2] if len(self.ends) > 1 else self.ends[0]


class DeadlockError(UserError):
    """No process can go on. `empty` and `full`: the channels that they wait for."""

    def __init__(self, program: str, empty: Sequence[str], full: Sequence[str]):
        super().__init__(
            f"{program} comes to a stop: it waits for words in {', '.join(empty) or 'no channel'}"
            + (f" and for room in {', '.join(full)}, which need more depth" if full else "")
        )
        self.empty = tuple(empty)
        self.full = tuple(full)


def timing_of(
    program: Program,
    designs: Sequence[Design] | None = None,
    depths: Mapping[str, int] | None = None,
    images: int = IMAGES,
) -> Timing:
    """Inputs are always there and outputs taken at once. `depths` overrides those of channels.

    Raises DeadlockError where FIFOs are too small, UserError where there is no C compiler.
    """
    return _Tables(program, designs or designs_of(program)).run(depths or {}, images)


# FIFOs --------------------------------------------------------------------------------------------------


#: Iterations with words that are simulated at most to make FIFOs as small as can be: some seconds.
_FINE_WORDS = 100_000_000
#: And to make them small at all: a minute or so.
_MOST_WORDS = 1_500_000_000


def depths(
    program: Program,
    designs: Sequence[Design] | None = None,
    images: int = IMAGES,
    narrow: Collection[str] = (),
    slack: float = 0.0,
) -> dict[str, int]:
    """Depths with which the program is as fast as with unbounded FIFOs, each of them as small as that allows, the
    others being what they are; in large programs, the next power of two instead. What can wait elsewhere does not in
    those that are `narrow`. `slack` is how much longer it may take, as a share.

    What takes too long is not done, with a TensorcWarning: FIFOs that hold few bits stay deeper than they must be."""
    tables = _Tables(program, designs or designs_of(program))
    inner = [c for c in program.channels if not tables.is_outside[tables.number[c.name]]]
    unbounded = {channel.name: channel.most or channel.count * images for channel in inner}
    best = tables.run(unbounded, images)
    most = {channel.name: max(best.channels[channel.name].most, 1) for channel in inner}
    words = images * sum(channel.count for channel in program.channels)
    left = _MOST_WORDS

    def is_enough(depths: Mapping[str, int]) -> bool:
        nonlocal left
        left -= words
        try:
            ends = tables.run(depths, images).ends
        except DeadlockError:
            return False
        return all(end <= (1 + slack) * least for end, least in zip(ends, best.ends, strict=True))

    for words in (2, 16, 64, 256, 1024) if narrow else ():
        if is_enough(limited := unbounded | dict.fromkeys(narrow, words)):
            found = tables.run(limited, images)
            most = {channel.name: max(found.channels[channel.name].most, 1) for channel in inner}
            break
    cap = 2
    while left > 0 and not is_enough({name: min(count, cap) for name, count in most.items()}):
        cap *= 2
    if left <= 0:
        cap = max(most.values(), default=1)
    chosen = {name: min(count, cap) for name, count in most.items()}

    def lessen(name: str, candidates: Sequence[int]) -> None:
        """To the first of them that is enough; the last one is."""
        first, last = 0, len(candidates) - 1
        while first < last:
            middle = (first + last) // 2
            if is_enough({**chosen, name: candidates[middle]}):
                last = middle
            else:
                first = middle + 1
        chosen[name] = candidates[last]

    # Those that hold the most bits first: what they leave is worth more.
    order = sorted(inner, key=lambda channel: (channel.name not in narrow, -channel.bits * chosen[channel.name]))
    for number, channel in enumerate(order):
        if left <= 0:
            rest = f"{len(order) - number} of {len(order)} FIFOs"
            warnings.warn(f"{program.name}: {rest} may be deeper than they must be: to find out takes too long",
                          TensorcWarning, stacklevel=2)  # fmt: skip
            break
        depth = chosen[channel.name]
        lessen(channel.name, [*(1 << power for power in range((depth - 1).bit_length())), depth])
    spent = 0
    for channel in order:
        depth = chosen[channel.name]
        spent += words * depth.bit_length()
        if depth > 2 and spent <= _FINE_WORDS and left > 0:
            lessen(channel.name, range(depth // 2 + 1, depth + 1))
    return chosen


def with_depths(program: Program, depths: Mapping[str, int]) -> Program:
    """The program with other FIFOs; only its list of channels tells how deep they are."""
    channels = tuple(replace(channel, depth=depths.get(channel.name, channel.depth)) for channel in program.channels)
    return replace(program, channels=channels)


# Tables -------------------------------------------------------------------------------------------------

_Longs = npt.NDArray[np.int64]
#: What an iteration does: channels by number and the stage of a word that is written, -1 for one that is read.
_Acts = tuple[tuple[int, int], ...]
#: Iterations that do the same, one behind the other.
_Runs = tuple[tuple[int, _Acts], ...]


class _Tables:
    """A program in the arrays of timing.c. What takes words from the outputs is a process like others."""

    def __init__(self, program: Program, designs: Sequence[Design]):
        self.program = program
        self.designs = designs
        self.number = {channel.name: number for number, channel in enumerate(program.channels)}
        outside = {port.channel.name for port in program.inputs}
        self.is_outside = np.array([channel.name in outside for channel in program.channels], np.int32)
        self.patterns: dict[_Runs, int] = {}
        self.masks: dict[_Acts, int] = {}
        self.first = [0]
        self.executions: list[tuple[int, int, int, int]] = []
        for design in designs:
            self.executions += _executions(design, self._pattern)
            self.first.append(len(self.executions))
        for port in program.outputs:
            take = ((self.number[port.channel.name], -1),)
            self.executions.append((self._numbered(((port.channel.count, take),)), 1, 1, 1))
            self.first.append(len(self.executions))
        self._arrays()

    def _pattern(self, place: Place, around: Mapping[Loop, int]) -> tuple[int, int]:
        periods, runs = _runs(place, around, self.number)
        return self._numbered(runs), periods

    def _numbered(self, runs: _Runs) -> int:
        for _, acts in runs:
            self.masks.setdefault(acts, len(self.masks))
        return self.patterns.setdefault(runs, len(self.patterns))

    def _arrays(self) -> None:
        runs = [run for runs in self.patterns for run in runs]
        acts = [act for acts in self.masks for act in acts]
        columns = np.array(self.executions, np.int64).reshape(-1, 4).T
        self.arrays = (
            np.array(self.first, np.int64), columns[0].astype(np.int32), columns[1].copy(),
            columns[2].astype(np.int32), columns[3].astype(np.int32),
            _starts(self.patterns), np.array([count for count, _ in runs], np.int64),
            np.array([self.masks[acts] for _, acts in runs], np.int32), _starts(self.masks),
            np.array([channel for channel, _ in acts], np.int32), np.array([stage for _, stage in acts], np.int32),
        )  # fmt: skip

    def run(self, depths: Mapping[str, int], images: int) -> Timing:
        program, processes = self.program, len(self.first) - 1
        count = len(program.channels)
        depth = np.array([depths.get(channel.name, channel.depth) for channel in program.channels], np.int32)
        started, ended, stalled = (np.zeros((images, processes), np.int64) for _ in range(3))
        waits, most = np.zeros((count, 2), np.int64), np.zeros(count, np.int32)
        firsts, blocked = np.zeros(count, np.int64), np.zeros(processes, np.int64)
        arrays = [*self.arrays, depth, self.is_outside, started, ended, stalled, waits, most, firsts, blocked]
        found = _library().tensorc_timing(processes, count, images, *(array.ctypes.data for array in arrays))
        if found == 2:
            raise MemoryError(f"not enough memory for the timing of {program.name}")
        if found == 1:
            names = [channel.name for channel in program.channels]
            waiting = sorted({int(code) for code in blocked if code >= 0})
            raise DeadlockError(
                program.name,
                [names[code // 2] for code in waiting if not code % 2],
                [names[code // 2] for code in waiting if code % 2],
            )
        zero = int(firsts[self.is_outside == 1].min(initial=1 << 62)) if self.is_outside.any() else 0
        ends = ended[:, len(self.designs) :].max(axis=1) - zero + 1
        return Timing(
            tuple(ends.tolist()),
            {
                design.process.name: self._process(design, started[0, p] - zero, ended[0, p] - zero, stalled[0, p])
                for p, design in enumerate(self.designs)
            },
            {
                channel.name: ChannelTiming(int(most[c]), int(waits[c, 0]), int(waits[c, 1]))
                for c, channel in enumerate(program.channels)
            },
        )

    def _process(self, design: Design, start: int, last: int, stalled: int) -> ProcessTiming:
        end = last + design.places[-1].pipeline.depth
        return ProcessTiming(int(start), int(end), design.cycles(), int(stalled))


def _starts(groups: Iterable[Sequence[object]]) -> npt.NDArray[np.int32]:
    return np.cumsum([0, *(len(group) for group in groups)]).astype(np.int32)


@functools.cache
def _library() -> ctypes.CDLL:
    loaded = compiled(_SOURCE, "the timing of a program")
    loaded.tensorc_timing.restype = ctypes.c_int32
    loaded.tensorc_timing.argtypes = [ctypes.c_int32, ctypes.c_int32, ctypes.c_int64, *[ctypes.c_void_p] * 20]
    return loaded


def _executions(design: Design, pattern: object) -> Iterator[tuple[int, int, int, int]]:
    """Of an image: pattern, periods, ii and depth of each time that a nest is walked."""
    assert callable(pattern)
    known: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}
    used = [
        [loop in _loops_of(op for op in place.pipeline.path.flow()) for loop in place.around] for place in design.places
    ]
    counters = dict.fromkeys(design.repeats, 0)
    number = 0
    while number < len(design.places):
        place = design.places[number]
        key = (
            number,
            tuple(counters[loop] for loop, is_used in zip(place.around, used[number], strict=True) if is_used),
        )
        if key not in known:
            known[key] = pattern(place, {loop: counters[loop] for loop in place.around})
        yield (*known[key], place.nest.ii, place.pipeline.depth)
        number += 1
        for loop, back in zip(place.steps, place.back, strict=True):
            counters[loop] = (counters[loop] + 1) % loop.extent
            if counters[loop]:
                number = back
                break


def _loops_of(ops: Iterator[Op]) -> set[Loop]:
    found: set[Loop] = set()
    for op in reachable(list(ops)):
        if isinstance(op.detail, Loop):
            found.add(op.detail)
        elif isinstance(op.detail, Affine):
            found |= {loop for loop, _ in op.detail.terms}
    return found


def _runs(place: Place, around: Mapping[Loop, int], number: Mapping[str, int]) -> tuple[int, _Runs]:
    """What the iterations of a nest do with channels: periods that are alike, and the runs of one."""
    path = place.pipeline.path
    acts: list[tuple[Op, _Acts]] = [
        (condition, ((number[channel.name], -1),)) for channel, condition in path.reads.items()
    ]
    acts += [
        (written.condition, tuple((number[channel.name], stage) for channel in written.channels))
        for written, stage in zip(path.writes, place.pipeline.write_stages, strict=True)
    ]
    used = [number for number, loop in enumerate(place.loops) if loop in _loops_of(iter(path.flow()))]
    if not used:
        known = {loop: np.array([value]) for loop, value in around.items()}
        return 1, ((place.nest.trip, _chosen(acts, known, 0)),)
    outside, inside = place.loops[: used[0]], place.loops[used[-1] + 1 :]
    loops = place.loops[used[0] : used[-1] + 1]
    grid = np.indices([loop.extent for loop in loops]).reshape(len(loops), -1)
    counters = {**{loop: np.full(grid.shape[1], value) for loop, value in around.items()},
                **dict(zip(loops, grid, strict=True))}  # fmt: skip
    code = np.zeros(grid.shape[1], np.int64)
    for bit, (condition, _) in enumerate(acts):
        code |= (np.broadcast_to(evaluated(condition, counters), code.shape) != 0).astype(np.int64) << bit
    starts = np.concatenate([[0], np.flatnonzero(np.diff(code)) + 1, [len(code)]])
    each = math.prod(loop.extent for loop in inside)
    runs = tuple((int(last - first) * each, _of_code(acts, int(code[first]))) for first, last in pairwise(starts))
    return math.prod(loop.extent for loop in outside), runs


def _of_code(acts: Sequence[tuple[Op, _Acts]], code: int) -> _Acts:
    return tuple(act for bit, (_, some) in enumerate(acts) if code >> bit & 1 for act in some)


def _chosen(acts: Sequence[tuple[Op, _Acts]], counters: Mapping[Loop, _Longs], at: int) -> _Acts:
    return tuple(act for condition, some in acts if np.ravel(evaluated(condition, counters))[at] for act in some)
