"""`schedule.json`: every loop, how far layers are unrolled, every channel and memory; and programs made of it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from targets.hls.exploration.cores import with_cores
from targets.hls.hardware.timing import with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import Network, program_of
from targets.hls.plan import Plan, Stage
from targets.hls.program import Process, Program, Repeat, Step


@dataclass(frozen=True)
class Schedule:
    """What makes a program of a network: the name of the top function, how far each layer is unrolled, how deep
    channels are, the nanoseconds of the clock, the bytes of ports to memory outside the chip, and the processes that
    cores walk one after the other, by the core's name. `plan` is what cores were planned for, if that is more than one
    unit for several tasks."""

    top: str
    unrolls: Mapping[str, Unroll]
    depths: Mapping[str, int]
    clock: float
    port: int
    cores: Mapping[str, Sequence[str]] = field(default_factory=dict)
    plan: Plan | None = None

    def arranged(self, network: Network) -> Network:
        """With all the layers that processes are made of."""
        return network if self.plan is None else self.plan.arranged(network, self.port)

    def program(self, network: Network) -> Program:
        made = program_of(self.arranged(network), self.unrolls, self.top, self.clock, self.port)
        return with_depths(with_cores(made, self.cores), self.depths)


def depths_of(program: Program) -> dict[str, int]:
    return {channel.name: channel.depth for channel in program.channels}


def described(schedule: Schedule, network: Network) -> dict[str, Any]:
    program = schedule.program(network)
    plan = {} if schedule.plan is None else {"segments": list(_segments(schedule.plan)),
                                             "waits_outside": [list(one) for one in sorted(schedule.plan.beyond)],
                                             "mode": schedule.plan.mode}  # fmt: skip
    return {
        "top": program.name,
        "clock_ns": program.clock,
        **plan,
        "layers": {
            layer.name: {"title": layer.title, **asdict(schedule.unrolls[layer.name]), "bits": layer.bits}
            for layer in schedule.arranged(network).layers
        },
        "processes": [_process(process) for process in program.processes],
        "channels": {
            channel.name: {"bits": channel.kind.bits, "signed": channel.kind.signed, "fraction": channel.kind.fraction,
                           "lanes": channel.lanes, "words": channel.count, "depth": channel.depth}
            for channel in program.channels
        },
        "port_bytes": schedule.port,
    }  # fmt: skip


def _segments(plan: Plan) -> Iterator[list[dict[str, Any]]]:
    for segment in plan.segments:
        yield [{"layer": stage.layer, "cores": stage.count, **asdict(stage.unroll)} for stage in segment]


def _process(process: Process) -> dict[str, Any]:
    stages = {"stages": [stage.name for stage in process.stages]} if process.stages else {}
    return {
        "name": process.name,
        "title": process.title,
        **stages,
        "reads": [channel.name for channel in process.inputs],
        "writes": [channel.name for channel in process.outputs],
        "memories": {
            memory.name: {"words": memory.depth, "bits": memory.bits, "constant": memory.is_constant,
                          "storage": memory.storage}
            for memory in process.memories
        },
        "steps": list(_steps(process.steps)),
    }  # fmt: skip


def _steps(steps: tuple[Step, ...]) -> Iterator[dict[str, Any]]:
    for step in steps:
        if isinstance(step, Repeat):
            yield {"repeat": step.counter.high + 1, "counter": step.counter.name, "steps": list(_steps(step.steps))}
        else:
            loops = {counter.name: counter.high + 1 for counter in step.loops}
            yield {"nest": step.name, "loops": loops, "trip": step.trip, "ii": step.ii}


def read(described: Mapping[str, Any]) -> Schedule:
    """What a project's `schedule.json` says."""
    plan = None
    if "segments" in described:
        segments = tuple(
            tuple(Stage(row["layer"], row["cores"], _unroll(row)) for row in segment)
            for segment in described["segments"]
        )
        beyond = frozenset((layer, number) for layer, number in described["waits_outside"])
        plan = Plan(described["mode"], segments, beyond)
    return Schedule(
        described["top"],
        {name: _unroll(row) for name, row in described["layers"].items()},
        {name: row["depth"] for name, row in described["channels"].items()},
        described["clock_ns"],
        described["port_bytes"],
        {row["name"]: row["stages"] for row in described["processes"] if "stages" in row},
        plan,
    )


def _unroll(row: Mapping[str, Any]) -> Unroll:
    return Unroll(row["outputs"], row["inputs"], row["constants"], row["places"])
