"""What a compiled CUDA model is: launches of kernels on addresses, and control between them. The target's part of the
manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from targets.control import Control, control_from_json
from tensorc.ir.types import TensorType

#: The artifact's sections: the machine code of all kernels, their PTX and their CUDA C, the last two compressed.
CODE_SECTION, PTX_SECTION, SOURCE_SECTION = "cubin", "ptx", "source"

#: Whose memory an argument points into. Scratch memory and counters are those of the kernel at work; counters are 0
#: before and after. A pointer is a loop's; numbers are int64s from 0 on, for loops that are written out.
Space = Literal["arena", "scratch", "counters", "input", "output", "constant", "pointer", "numbers"]


@dataclass(frozen=True, slots=True)
class Argument:
    """`offset` bytes into a space; of inputs, outputs, constants and pointers there are several, and `index` says
    which."""

    space: Space
    index: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """A step: one launch of a kernel. The label names the operators computed. `calls` is how often a run does the step,
    if all branches are taken and each loop whose end is not known runs once."""

    kernel: str
    arguments: tuple[Argument, ...]
    label: str
    calls: int = 1

    def to_json(self) -> list[Any]:
        return [self.kernel, [[a.space, a.index, a.offset] for a in self.arguments], self.label, self.calls]


@dataclass(frozen=True, slots=True)
class Code:
    """A kernel: its launch, and where its machine code, its PTX and its CUDA C are in their sections: (offset, size).
    `shared_bytes` is dynamic."""

    blocks: int
    threads: int
    shared_bytes: int
    cubin: tuple[int, int]
    ptx: tuple[int, int]
    source: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CudaProgram:
    """The steps in order, and the bytes that they need of the device beside inputs, outputs and constants."""

    architecture: str
    kernels: Mapping[str, Code]
    steps: tuple[Launch | Control[Argument], ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    arena_bytes: int
    scratch_bytes: int
    counter_bytes: int

    @property
    def launches(self) -> list[Launch]:
        return [step for step in self.steps if isinstance(step, Launch)]

    @property
    def device_bytes(self) -> int:
        """What the device must have, beside the constants."""
        return self.arena_bytes + self.scratch_bytes + self.counter_bytes + sum(
            type.nbytes for type in (*self.inputs, *self.outputs)
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "arena_bytes": self.arena_bytes,
            "scratch_bytes": self.scratch_bytes,
            "counter_bytes": self.counter_bytes,
            "inputs": [{"dtype": type.dtype, "shape": list(type.shape)} for type in self.inputs],
            "outputs": [{"dtype": type.dtype, "shape": list(type.shape)} for type in self.outputs],
            "code": {
                name: [code.blocks, code.threads, code.shared_bytes, *code.cubin, *code.ptx, *code.source]
                for name, code in self.kernels.items()
            },
            "steps": [step.to_json() for step in self.steps],
        }

    @classmethod
    def from_json(cls, manifest: Mapping[str, Any]) -> CudaProgram:
        def code(row: list[int]) -> Code:
            blocks, threads, shared, *places = row
            return Code(blocks, threads, shared, (places[0], places[1]), (places[2], places[3]), (places[4], places[5]))

        def step(row: Any) -> Launch | Control[Argument]:
            if isinstance(row, Mapping):
                return control_from_json(row, Argument)
            name, arguments, label, calls = row
            return Launch(name, tuple(Argument(*argument) for argument in arguments), label, calls)

        def types(rows: list[dict[str, Any]]) -> tuple[TensorType, ...]:
            return tuple(TensorType(row["dtype"], tuple(row["shape"])) for row in rows)

        return cls(
            architecture=manifest["architecture"],
            kernels={name: code(row) for name, row in manifest["code"].items()},
            steps=tuple(step(row) for row in manifest["steps"]),
            inputs=types(manifest["inputs"]),
            outputs=types(manifest["outputs"]),
            arena_bytes=manifest["arena_bytes"],
            scratch_bytes=manifest["scratch_bytes"],
            counter_bytes=manifest["counter_bytes"],
        )
