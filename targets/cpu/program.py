"""What a compiled CPU model is: steps that call kernels on addresses. The target's part of the manifest.

It is written by the build, printed as C by `targets.cpu.link`, and read by the executable, which needs of it only
the outputs to allocate and the CPU features to ask for; the rest is there for people and for profiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensorc.ir.types import TensorType

#: The spaces that an argument may point into. Inputs are numbered from `FIRST_INPUT`, outputs follow them.
WEIGHTS, ARENA, SCRATCH, FIRST_INPUT = range(4)

#: The artifact's sections.
CODE_SECTION, WEIGHTS_SECTION = "code", "weights"


@dataclass(frozen=True, slots=True)
class Argument:
    """A pointer handed to a kernel: `offset` bytes into a space."""

    space: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a kernel, whose `tasks` are independent of each other and may be shared between threads.

    `serial` says that sharing them would cost more than it gains. The label names the operators computed.
    """

    kernel: str
    arguments: tuple[Argument, ...]
    tasks: int
    label: str
    serial: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "arguments": [[argument.space, argument.offset] for argument in self.arguments],
            "tasks": self.tasks,
            "label": self.label,
            "serial": self.serial,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Step:
        arguments = tuple(Argument(space, offset) for space, offset in row["arguments"])
        return cls(row["kernel"], arguments, row["tasks"], row["label"], row["serial"])


@dataclass(frozen=True, slots=True)
class CpuProgram:
    """The steps in order, and what they need: memory in bytes, CPU features by the names of /proc/cpuinfo.

    `scratch_bytes` is for each thread. `threads` is the number to run with by default; 0 stands for all cores.
    """

    steps: tuple[Step, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    arena_bytes: int
    scratch_bytes: int
    features: tuple[str, ...] = ()
    threads: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "features": list(self.features),
            "threads": self.threads,
            "arena_bytes": self.arena_bytes,
            "scratch_bytes": self.scratch_bytes,
            "inputs": [_type_to_json(type) for type in self.inputs],
            "outputs": [_type_to_json(type) for type in self.outputs],
            "steps": [step.to_json() for step in self.steps],
        }

    @classmethod
    def from_json(cls, manifest: Mapping[str, Any]) -> CpuProgram:
        return cls(
            steps=tuple(Step.from_json(row) for row in manifest["steps"]),
            inputs=tuple(_type_from_json(row) for row in manifest["inputs"]),
            outputs=tuple(_type_from_json(row) for row in manifest["outputs"]),
            arena_bytes=manifest["arena_bytes"],
            scratch_bytes=manifest["scratch_bytes"],
            features=tuple(manifest["features"]),
            threads=manifest["threads"],
        )


def _type_to_json(type: TensorType) -> dict[str, Any]:
    return {"dtype": type.dtype, "shape": list(type.shape)}


def _type_from_json(row: Mapping[str, Any]) -> TensorType:
    return TensorType(row["dtype"], tuple(row["shape"]))
