"""From a body and schedules to a job: a folder whose shared object has every candidate as one step.

    job.json        what is in it, where the data is and what to expect of it
    model.so        step 0 drives out what a core's own caches hold, step 1 brings the activations back, then the
                    candidates follow

Data lies in a folder beside it, which all jobs of a workload share (`data`, and constants as candidates want them
packed); paths in job.json are relative to the job. The program's inputs are blocks of memory: the first holds the
activations, each further one a constant in some order.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from targets.cpu.kernels import Kernel, lower
from targets.cpu.link import link, print_steps
from targets.cpu.machine import Machine
from targets.cpu.program import ARENA, FIRST_INPUT, SCRATCH, Argument, CpuProgram, Step
from targets.cpu.tuning.data import prepare, read_input, write_whole
from tensorc.ir import Graph
from tensorc.ir.types import TensorType
from tensorc.search.space import ScheduleJson

#: Bytes that one task of `tensorc_read` reads: CHUNK in stepper.c.
_CHUNK = 1 << 16
#: Activations lie this far apart at least, and not at the same place in a page.
_ALIGNMENT = 64
#: The steps before the first candidate's.
CHILL, WARM, FIRST_CANDIDATE = range(3)


@dataclass(frozen=True)
class Candidate:
    """A kernel in an object file, under a name of its own. `inputs` are the files that it reads, as paths from the
    workload's folder, `warm` says which of them are activations; outputs follow, then scratch memory if any."""

    symbol: str
    tasks: int
    scratch_bytes: int
    inputs: tuple[str, ...]
    warm: tuple[bool, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Candidate:
        return cls(**{**row, "inputs": tuple(row["inputs"]), "warm": tuple(row["warm"])})


def lower_candidate(body: Graph, machine: Machine, schedule: ScheduleJson, symbol: str,
                    data: Path) -> tuple[Candidate, Any]:  # fmt: skip
    """The candidate and its function, to be compiled; what it reads is in `data` afterwards.

    Raises UnsupportedError or ValueError for a schedule that cannot be.
    """
    description = prepare(body, data)
    kernel = lower(body, machine, schedule)
    inputs = tuple(_input_file(kernel, number, body, data) for number in range(len(body.inputs)))
    constants = {*description["constants"], *kernel.packings}
    warm = tuple(number not in constants for number in range(len(inputs)))
    return Candidate(symbol, kernel.tasks, kernel.scratch_bytes, inputs, warm), kernel.function


def _input_file(kernel: Kernel, number: int, body: Graph, data: Path) -> str:
    packing = kernel.packings.get(number)
    if packing is None:
        return f"in{number}.bin"
    name = f"in{number}-{hashlib.sha256(packing.name.encode()).hexdigest()[:16]}.bin"
    if not (data / name).exists():
        write_whole(packing.apply(read_input(data, body, number)), data / name)
    return name


def write_job(folder: Path, data: Path, candidates: Sequence[Candidate], objects: Sequence[Path], stepper: Path,
              machine: Machine, threads: int) -> None:  # fmt: skip
    """Link the candidates and describe the job; it is complete when job.json is there.

    `stepper` is stepper.c compiled, by `targets.cpu.link.compile_object`.
    """
    description = json.loads((data / "data.json").read_text(encoding="utf-8"))
    blocks, places = _blocks(data, candidates)
    outputs = len(description["outputs"])
    kernels = [
        Step(candidate.symbol, _arguments(candidate, places, len(blocks), outputs), candidate.tasks, candidate.symbol,
             serial=candidate.tasks == 1)
        for candidate in candidates
    ]  # fmt: skip
    far = _rounded(machine.l2 * threads, _CHUNK)
    near = blocks[0]["bytes"]
    program = CpuProgram(
        steps=(
            Step("tensorc_read", (Argument(ARENA),), far // _CHUNK, "drive out what the caches hold"),
            Step("tensorc_read", (Argument(FIRST_INPUT),), max(near // _CHUNK, 1), "bring the activations back"),
            *kernels,
        ),
        inputs=tuple(TensorType("uint8", (block["bytes"],)) for block in blocks),
        outputs=tuple(TensorType(row["dtype"], tuple(row["shape"])) for row in description["outputs"]),
        arena_bytes=far,
        scratch_bytes=max((candidate.scratch_bytes for candidate in candidates), default=0),
    )
    link(objects, print_steps(program), folder / "model.so", stepper)
    way = Path(os.path.relpath(data, folder))
    for block in blocks:
        block["parts"] = [[str(way / file), offset] for file, offset in block["parts"]]
    job = {
        "threads": threads,
        "features": sorted(machine.features),
        # The blocks of constants that each reads.
        "candidates": [sorted({places[file].space - FIRST_INPUT for file in row.inputs} - {0}) for row in candidates],
        "blocks": blocks,
        "outputs": [row | {"file": str(way / row["file"])} for row in description["outputs"]],
    }
    (folder / "job.tmp").write_text(json.dumps(job), encoding="utf-8")
    (folder / "job.tmp").rename(folder / "job.json")


def _blocks(data: Path, candidates: Sequence[Candidate]) -> tuple[list[dict[str, Any]], dict[str, Argument]]:
    """The program's inputs, and where in them each file is."""
    near: dict[str, None] = {}
    far: dict[str, None] = {}
    for candidate in candidates:
        for file, warm in zip(candidate.inputs, candidate.warm, strict=True):
            (near if warm else far).setdefault(file)
    parts, places, offset = [], {}, 0
    for file in near:
        if file not in far:
            parts.append([file, offset])
            places[file] = Argument(FIRST_INPUT, offset)
            # Two arrays at the same place in a page would get in each other's way.
            offset = _rounded(offset + (data / file).stat().st_size, _ALIGNMENT) + 5 * _ALIGNMENT
    blocks: list[dict[str, Any]] = [{"bytes": max(_rounded(offset, _CHUNK), _CHUNK), "warm": True, "parts": parts}]
    for file in far:
        places[file] = Argument(FIRST_INPUT + len(blocks))
        blocks.append({"bytes": (data / file).stat().st_size, "warm": False, "parts": [[file, 0]]})
    return blocks, places


def _arguments(candidate: Candidate, places: Mapping[str, Argument], blocks: int,
               outputs: int) -> tuple[Argument, ...]:  # fmt: skip
    given = [places[file] for file in candidate.inputs]
    results = [Argument(FIRST_INPUT + blocks + number) for number in range(outputs)]
    return (*given, *results, *([Argument(SCRATCH)] if candidate.scratch_bytes else []))


def _rounded(size: int, unit: int) -> int:
    return math.ceil(size / unit) * unit
