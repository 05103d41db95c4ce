"""Which stage of a nest's pipeline each operation stands in, and how a process walks its nests.

An iteration is issued in a cycle; its operations in stage s happen s cycles later, whatever others do. The rules:
- Delays are counted in levels (`DELAYS`); how many a stage has follows from the clock. What does not fit begins in the
  next stage.
- A product of two values and a word loaded from a memory are registered: they are there in the stage after their
  operands; a word from outside the chip `OUTSIDE_LATENCY` stages after its address.
- A register whose value an iteration reads in stage r and replaces in stage w needs w - r < ii: the next iteration
  comes ii cycles later and must find it. Where that asks for more levels in a stage, they are granted; where products
  or loads stand between, `ii` must be greater (`least_ii`).
- What decides whether an iteration can be issued (conditions of reads and writes) is in stage 0, however long it is.
- All effects of an iteration are to be seen `depth` cycles after its issue: that is when the next nest may begin. So a
  nest takes ii * (trip - 1) + depth cycles if it never has to wait, and a process the sum over its nests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from targets.hls.hardware.clock import LEVELS
from targets.hls.hardware.datapath import Access, Cell, Datapath, Loop, Op, Updated, datapath_of, reachable
from targets.hls.names import identifier
from targets.hls.program import OUTSIDE_LATENCY, Nest, Process, Program, Repeat, Step

#: An addition of usual width is 2. What is not listed is wiring.
DELAYS = {
    "add": 2, "sub": 2, "lt": 2, "le": 2, "eq": 2, "min": 3, "max": 3, "and": 1, "or": 1, "select": 1, "shift_by": 3,
    "leading": 4, "mul": 4, "load": 2,
}  # fmt: skip
#: More cycles between iterations than any recurrence has stages.
_MOST_II = 256


def stages_taken(op: Op) -> int:
    """From its operands to its result: registers between them."""
    if op.kind == "load":
        assert isinstance(op.detail, Access)
        return OUTSIDE_LATENCY if op.detail.memory.is_outside else 1
    return int(op.kind == "mul")


@dataclass(frozen=True, eq=False)
class Pipeline:
    """`stages`: where an operation's result is first to be had, None where always. Each of the datapath's writes,
    stores and updates happens in the stage that stands at its place of the lists."""

    path: Datapath
    ii: int
    stages: dict[Op, int | None]
    write_stages: list[int]
    store_stages: list[int]
    update_stages: list[int]
    #: Levels of the longest stage.
    levels: int

    @property
    def depth(self) -> int:
        landing = [
            stage + (OUTSIDE_LATENCY - 1 if stored.memory.is_outside else 0)
            for stored, stage in zip(self.path.stores, self.store_stages, strict=True)
        ]
        return 1 + max([0, *self.write_stages, *landing, *self.update_stages])

    def taken(self, op: Op) -> int:
        """The stage in which an operation's operands are needed."""
        stage = self.stages[op]
        assert stage is not None
        return stage - stages_taken(op)

    def last_stages(self) -> dict[Op, int]:
        """The last stage in which each operation's result is needed."""
        last: dict[Op, int] = {}
        needs = [(arg, self.taken(op)) for op in self.path.ops if self.stages[op] is not None for arg in op.args]
        needs += _effects(self.path, self.write_stages, self.store_stages, self.update_stages)
        for op, stage in needs:
            last[op] = max(last.get(op, 0), stage)
        return last


def _effects(
    path: Datapath, writes: Sequence[int], stores: Sequence[int], updates: Sequence[int]
) -> list[tuple[Op, int]]:
    """What is needed for effects, and in which stages."""
    needs = [
        (op, stage)
        for written, stage in zip(path.writes, writes, strict=True)
        for op in (written.condition, *written.lanes)
    ]
    for stored, stage in zip(path.stores, stores, strict=True):
        needs += [(op, stage) for op in (stored.condition, stored.address, *stored.lanes.values())]
    for updated, stage in zip(path.updates, updates, strict=True):
        needs += [(updated.condition, stage), (updated.value, stage)]
    return needs


def pipelined(path: Datapath, ii: int, name: str = "nest", levels: int = LEVELS) -> Pipeline:
    """Raises ValueError if iterations follow each other faster than a recurrence of the datapath allows."""
    for limit in (levels, 2 * levels, math.inf):
        found = _place(path, ii, limit)
        if found is not None:
            return found
    raise ValueError(f"{name} cannot start an iteration every {ii} cycles: {least_ii(path)} are needed")


def least_ii(path: Datapath) -> int:
    """The fewest cycles between iterations that the recurrences of registers allow."""
    return next(ii for ii in range(1, _MOST_II) if _place(path, ii, math.inf) is not None)


def _place(path: Datapath, ii: int, limit: float) -> Pipeline | None:
    """As early as can be; None if a register's next value comes too late for the next iteration."""
    free = reachable(path.flow())
    changing = {updated.cell for updated in path.updates}
    read = dict.fromkeys(changing, 0)
    for _ in range(2 * len(changing) + 4):
        placed = _forward(path, read, free, limit)
        replaced = [_stage_of(placed, [u.condition, u.value], read[u.cell]) for u in path.updates]
        late = {u.cell: w - ii + 1 for u, w in zip(path.updates, replaced, strict=True) if w - ii + 1 > read[u.cell]}
        if not late:
            return _pipeline(path, ii, placed, replaced)
        read |= late
    return None


_Placed = dict[Op, tuple[int, int] | None]


def _forward(path: Datapath, read: dict[Cell, int], free: set[Op], limit: float) -> _Placed:
    """Stage and level in which each operation's result is there; changing registers are read in the stages `read`."""
    placed: _Placed = {}
    for op in path.ops:
        if op.kind == "const":
            placed[op] = None
            continue
        if op.kind == "register":
            assert isinstance(op.detail, Cell)
            placed[op] = (read[op.detail], 0) if op.detail in read else None
            continue
        operands = [at for arg in op.args if (at := placed[arg]) is not None]
        if not operands:
            taken = stages_taken(op)
            placed[op] = (taken, 0) if taken else (0, DELAYS.get(op.kind, 0))
            continue
        stage, level = max(operands)
        level += DELAYS.get(op.kind, 0)
        if level > limit and op not in free:
            stage, level = stage + 1, DELAYS.get(op.kind, 0)
        taken = stages_taken(op)
        placed[op] = (stage + taken, 0) if taken else (stage, level)
    return placed


def _stage_of(placed: _Placed, ops: Sequence[Op], least: int = 0) -> int:
    return max([least, *(at[0] for op in ops if (at := placed[op]) is not None)])


def _pipeline(path: Datapath, ii: int, placed: _Placed, replaced: list[int]) -> Pipeline:
    writes = [_stage_of(placed, [w.condition, *w.lanes]) for w in path.writes]
    stores = [_stage_of(placed, [s.address, s.condition, *s.lanes.values()]) for s in path.stores]
    stages = {op: at[0] if at is not None else None for op, at in placed.items()}
    _load_late(path, stages, writes, stores, replaced)
    levels = max((at[1] for at in placed.values() if at is not None), default=0)
    return Pipeline(path, ii, stages, writes, stores, replaced, levels)


def _load_late(
    path: Datapath, stages: dict[Op, int | None], writes: list[int], stores: list[int], replaced: list[int]
) -> None:
    """Words are loaded, and numbers shifted to the left, when they are needed first: addresses and numbers that are not
    shifted yet are narrower, so fewer bits wait."""
    first: dict[Op, int] = {}

    def need(op: Op, stage: int) -> None:
        first[op] = min(first.get(op, stage), stage)

    for op, stage in _effects(path, writes, stores, replaced):
        need(op, stage)
    for op in reversed(path.ops):
        at = stages[op]
        if at is None:
            continue
        if op.kind == "load" or _is_loaded(op) or _is_left_shift(op):
            stages[op] = at = first.get(op, at)
        for arg in op.args:
            need(arg, at - stages_taken(op))
    for op in path.ops:
        if _is_loaded(op):
            stages[op] = stages[op.args[0]]


def _is_left_shift(op: Op) -> bool:
    return op.kind == "shift" and isinstance(op.detail, int) and op.detail > 0


def _is_loaded(op: Op) -> bool:
    return op.kind == "lane" and op.args[0].kind == "load"


# Processes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Place:
    """A nest where it stands in its process.

    `loops` are its own counters and `around` those of the repetitions around it, both from the outermost on. Behind its
    last iteration the counters `steps` move, from the innermost on, like those of loops around it: the nest is the last
    of what they repeat. When counter i of them moves, the place number `back[i]` follows; when none does, the next one.
    """

    nest: Nest
    name: str
    number: int
    loops: tuple[Loop, ...]
    around: tuple[Loop, ...]
    steps: tuple[Loop, ...]
    back: tuple[int, ...]
    pipeline: Pipeline


@dataclass(frozen=True, eq=False)
class Design:
    """A process with the pipelines of its nests, in the order of the program's text; they are walked for ever."""

    process: Process
    places: tuple[Place, ...]
    repeats: tuple[Loop, ...]

    def cycles(self) -> int:
        """From the first issue until all is done, if it never waits for a channel."""
        return sum(
            math.prod(loop.extent for loop in place.around)
            * (place.pipeline.depth + place.nest.ii * (place.nest.trip - 1))
            for place in self.places
        )


def designed(process: Process) -> Design:
    """Raises ValueError for what the rules of programs forbid, and where a nest's iterations follow too fast."""
    places: list[Place] = []
    repeats: list[Loop] = []
    names: set[str] = set()

    def unique(name: str) -> str:
        found, number = name, 1
        while found in names:
            number += 1
            found = f"{name}{number}"
        names.add(found)
        return found

    def walk(steps: Sequence[Step], around: dict[str, Loop], chain: tuple[Loop, ...], first: tuple[int, ...]) -> None:
        for number, step in enumerate(steps):
            is_last = number == len(steps) - 1
            moved, back = (chain, first) if is_last else ((), ())
            if isinstance(step, Repeat):
                loop = Loop(unique(step.counter.name), step.counter.high + 1)
                repeats.append(loop)
                walk(step.steps, {**around, step.counter.name: loop}, (loop, *moved), (len(places), *back))
                continue
            name = unique(identifier(step.name))
            loops = {counter.name: Loop(f"{name}_{counter.name}", counter.high + 1) for counter in step.loops}
            path = datapath_of(process, {**around, **loops}, step.body)
            pipeline = pipelined(path, step.ii, f"{process.name}.{step.name}", process.levels)
            places.append(
                Place(step, name, len(places), tuple(loops.values()), tuple(around.values()), moved, back, pipeline)
            )

    walk(process.steps, {}, (), ())
    return Design(process, tuple(places), tuple(repeats))


def designs_of(program: Program) -> tuple[Design, ...]:
    return tuple(designed(process) for process in program.processes)


def longest_stage(designs: Sequence[Design]) -> Place | None:
    """The nest in whose pipeline one stands with the most levels."""
    places = [place for design in designs for place in design.places]
    return max(places, key=lambda place: place.pipeline.levels, default=None)


def updates_of(design: Design) -> dict[Cell, list[tuple[Place, Updated, int]]]:
    """Who writes each cell of a register, and in which stage."""
    found: dict[Cell, list[tuple[Place, Updated, int]]] = {}
    for place in design.places:
        pipeline = place.pipeline
        for updated, stage in zip(pipeline.path.updates, pipeline.update_stages, strict=True):
            found.setdefault(updated.cell, []).append((place, updated, stage))
    return found
