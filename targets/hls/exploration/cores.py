"""Several processes as one core, which walks them one after the other: a static list of stages.

What stages compute with is used by all (`hardware.sharing`), and so are the memories that they write, whose contents
no other stage needs. Between two stages of a core a channel must hold all words that pass it; between cores it is like
other FIFOs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from targets.hls.expressions import Const, Counter, Expr, Load, Register
from targets.hls.hardware.resources import bram18, memory_kind
from targets.hls.program import (
    Channel,
    Lanes,
    Let,
    Memory,
    Process,
    Program,
    Put,
    Repeat,
    State,
    Statement,
    Step,
    Store,
    Update,
    When,
)


def with_cores(program: Program, cores: Mapping[str, Sequence[str]]) -> Program:
    """The program with the processes that each core's name stands for as one, walked in the order that is given.

    Channels within a core get room for all their words. Raises ValueError for a process that is in two cores or does
    not exist, and where a stage would read what a later one of its core writes.
    """
    known = {process.name: process for process in program.processes}
    core_of: dict[str, str] = {}
    for core, names in cores.items():
        for name in names:
            if name not in known or name in core_of:
                raise ValueError(f"{core} cannot have the stage {name}")
            core_of[name] = core
    made = {core: merged(core, [known[name] for name in names]) for core, names in cores.items()}
    processes: list[Process] = []
    for process in program.processes:
        core = core_of.get(process.name, "")
        if not core:
            processes.append(process)
        elif cores[core][0] == process.name:
            processes.append(made[core])
    held = {channel.name for process in made.values() for channel in process.own}
    channels = tuple(replace(c, depth=c.count) if c.name in held else c for c in program.channels)
    return replace(program, processes=tuple(processes), channels=channels)


def merged(name: str, stages: Sequence[Process]) -> Process:
    """A core of `stages`. Raises ValueError where one would read what a later one writes, or has memory outside the
    chip."""
    written: set[Channel] = set()
    later = [channel for stage in stages for channel in stage.outputs]
    for stage in stages:
        if any(channel in later and channel not in written for channel in stage.inputs):
            raise ValueError(f"{name}: {stage.name} reads what a later stage writes")
        if stage.outside:
            raise ValueError(f"{name}: {stage.name} has memory outside the chip, which no stage can have")
        written |= set(stage.outputs)
    steps: list[Step] = []
    memories: list[Memory] = []
    registers: list[State] = []
    pools = _pools(stages)
    for stage in stages:
        held = _Names(stage, pools)
        steps += [held.step(step) for step in stage.steps]
        memories += [memory for memory in held.memories.values() if memory.is_constant]
        registers += held.registers.values()
    memories += dict.fromkeys(pools.values())
    return Process(
        name,
        "; ".join(stage.title for stage in stages),
        tuple(steps),
        tuple(dict.fromkeys(channel for stage in stages for channel in stage.inputs)),
        tuple(dict.fromkeys(channel for stage in stages for channel in stage.outputs)),
        tuple(memories),
        tuple(registers),
        tuple(stages),
        stages[0].levels,
    )


def _pools(stages: Sequence[Process]) -> dict[Memory, Memory]:
    """The memory of the core that each one stands for which a stage writes: those of several stages are one where that
    takes less."""
    pools: list[tuple[Memory, list[tuple[Process, Memory]]]] = []
    held = [(stage, memory) for stage in stages for memory in stage.memories if not memory.is_constant]
    for stage, memory in sorted(held, key=lambda pair: -pair[1].bits * pair[1].depth):
        for number, (pool, users) in enumerate(pools):
            if any(user is stage for user, _ in users) or _numbers(pool) != _numbers(memory):
                continue
            both = replace(pool, lanes=max(pool.lanes, memory.lanes), depth=max(pool.depth, memory.depth))
            apart = tuple(mine + more for mine, more in zip(_cost(pool), _cost(memory), strict=True))
            if _cost(both) <= apart:
                pools[number] = both, [*users, (stage, memory)]
                break
        else:
            pools.append((replace(memory, name=f"{stage.name}_{memory.name}"), [(stage, memory)]))
    return {memory: pool for pool, users in pools for _, memory in users}


def _numbers(memory: Memory) -> tuple[int, int, str]:
    """Alike in memories that can be one; where the point stands in numbers is known to those who compute."""
    return memory.kind.low, memory.kind.high, memory.storage


def _cost(memory: Memory) -> tuple[int, int]:
    """Block RAMs, then bits."""
    is_block = memory_kind(memory.bits, memory.depth, True) == "block"
    return bram18(memory.bits, memory.depth) if is_block else 0, memory.bits * memory.depth


class _Names:
    """The steps of a stage with its memories and registers under names that no other stage has."""

    def __init__(self, stage: Process, pools: Mapping[Memory, Memory]):
        self.stage = stage
        self.memories = {
            one.name: pools[one] if one in pools else replace(one, name=f"{stage.name}_{one.name}")
            for one in stage.memories
        }
        self.registers = {one.name: replace(one, name=f"{stage.name}_{one.name}") for one in stage.registers}

    def step(self, step: Step) -> Step:
        if isinstance(step, Repeat):
            return replace(step, steps=tuple(self.step(inner) for inner in step.steps))
        return replace(step, name=f"{self.stage.name} {step.name}", body=self.body(step.body))

    def body(self, body: Sequence[Statement]) -> tuple[Statement, ...]:
        return tuple(made for statement in body for made in self._statements(statement))

    def _statements(self, statement: Statement) -> Iterator[Statement]:
        """Words of a memory that is wider for others' sake are written whole all the same."""
        yield self.statement(statement)
        if isinstance(statement, Store):
            pool, lanes = self.memories[statement.memory.name], statement.memory.lanes
            if pool.lanes > lanes:
                rest = Counter.of("rest", pool.lanes - lanes, is_lane=True)
                yield Lanes(rest, (Store(pool, self.value(statement.address), rest + lanes, Const.of(0)),))

    def statement(self, statement: Statement) -> Statement:
        match statement:
            case Let() | Put():
                pass
            case Store(memory=memory):
                statement = replace(statement, memory=self.memories[memory.name])
            case Update(register=register):
                statement = replace(statement, register=self.registers[register.name])
            case When() | Lanes():
                statement = replace(statement, body=self.body(statement.body))
            case _:
                return statement
        parts = {key: value for key, value in _parts(statement) if isinstance(value, Expr)}
        return replace(statement, **{key: self.value(value) for key, value in parts.items()})  # type: ignore[arg-type]

    def value(self, x: Expr) -> Expr:
        changes: dict[str, object] = {key: self.value(value) for key, value in _parts(x) if isinstance(value, Expr)}
        if isinstance(x, Load):
            changes["memory"] = self.memories[x.memory].name
        elif isinstance(x, Register):
            changes["name"] = self.registers[x.name].name
        return replace(x, **changes) if changes else x  # type: ignore[arg-type]


def _parts(x: Expr | Statement) -> list[tuple[str, object]]:
    return [(field.name, getattr(x, field.name)) for field in fields(x)]


def leaves(program: Program) -> list[Process]:
    """The processes and the stages of cores, each behind those whose words it reads."""
    found = [stage for process in program.processes for stage in process.stages or (process,)]
    writer = {channel: number for number, process in enumerate(found) for channel in process.outputs}
    readers: list[list[int]] = [[] for _ in found]
    waits = [0] * len(found)
    for number, process in enumerate(found):
        for channel in process.inputs:
            if channel in writer:
                readers[writer[channel]].append(number)
                waits[number] += 1
    ready = [number for number, count in enumerate(waits) if not count]
    ordered: list[Process] = []
    while ready:
        number = heapq.heappop(ready)
        ordered.append(found[number])
        for reader in readers[number]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    return ordered
