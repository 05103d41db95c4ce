"""`schedule.json`: every loop, how far layers are unrolled, every channel and memory; and programs made of it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from targets.hls.hardware.timing import with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import Network, program_of
from targets.hls.program import Process, Program, Repeat, Step


def described(network: Network, unrolls: Mapping[str, Unroll], program: Program) -> dict[str, Any]:
    return {
        "top": program.name,
        "clock_ns": program.clock,
        "layers": {
            layer.name: {"title": layer.title, **asdict(unrolls[layer.name]), "bits": layer.bits}
            for layer in network.layers
        },
        "processes": [_process(process) for process in program.processes],
        "channels": {
            channel.name: {"bits": channel.kind.bits, "signed": channel.kind.signed, "fraction": channel.kind.fraction,
                           "lanes": channel.lanes, "words": channel.count, "depth": channel.depth}
            for channel in program.channels
        },
    }  # fmt: skip


def _process(process: Process) -> dict[str, Any]:
    return {
        "name": process.name,
        "title": process.title,
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


def unrolls_of(schedule: dict[str, Any]) -> dict[str, Unroll]:
    """What a project's schedule says of how its layers are unrolled."""
    return {
        name: Unroll(row["outputs"], row["inputs"], row["constants"], row["places"])
        for name, row in schedule["layers"].items()
    }


def depths_of(schedule: dict[str, Any]) -> dict[str, int]:
    """Of a project's channels."""
    return {name: row["depth"] for name, row in schedule["channels"].items()}


def scheduled(
    network: Network, unrolls: Mapping[str, Unroll], name: str, depths: Mapping[str, int], clock: float
) -> Program:
    """The program of a choice; channels that `depths` does not name are as deep as they are by themselves."""
    return with_depths(program_of(network, unrolls, name, clock), depths)
