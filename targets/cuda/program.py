"""What a compiled CUDA model is: launches of kernels on addresses, copies, and control between them. The target's part
of the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from targets.control import Control, control_from_json
from tensorc.ir.types import TensorType

#: The artifact's sections: the machine code of all kernels, their PTX and their CUDA C, the last two compressed.
CODE_SECTION, PTX_SECTION, SOURCE_SECTION = "cubin", "ptx", "source"

#: Whose memory an argument points into. Scratch memory and counters are those of the kernel at work; counters are 0
#: before and after. A pointer is a loop's; numbers are int64s from 0 on, for loops that are written out. The window is
#: where weights come and go that do not stay; the host's memory is what kernels reach over the bus.
Space = Literal["arena", "scratch", "counters", "input", "output", "constant", "pointer", "numbers", "window", "host"]


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
class Transfer:
    """A step: `nbytes` of the device's memory go `out` to `offset` in the host's, or come from there. What goes
    `beside` the other steps begins when all before it is done, one transfer after the other, and has ended at a `Wait`
    for it; nobody uses that memory in between."""

    label: str
    memory: Argument
    offset: int
    nbytes: int
    out: bool = False
    beside: bool = False

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (self.memory,)

    def to_json(self) -> dict[str, Any]:
        return {"control": "transfer", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Wait:
    """A step: what stands behind it begins when so many of the transfers beside have ended."""

    count: int
    arguments: ClassVar[tuple[Argument, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        return {"control": "wait", **asdict(self)}


#: A step that says nothing of which is next.
Action = Launch | Transfer | Wait


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
    """The steps in order, and the bytes that they need of the device beside inputs, outputs and constants. Constants
    that have `homes`, by their numbers, are not on the device but there in the host's memory, of which `host_bytes` are
    needed."""

    architecture: str
    kernels: Mapping[str, Code]
    steps: tuple[Action | Control[Argument], ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    arena_bytes: int
    scratch_bytes: int
    counter_bytes: int
    number_bytes: int = 0
    window_bytes: int = 0
    host_bytes: int = 0
    homes: Mapping[int, int] = field(default_factory=dict)

    @property
    def launches(self) -> list[Launch]:
        return [step for step in self.steps if isinstance(step, Launch)]

    def device_bytes(self, constants: Sequence[int]) -> int:
        """What the device must have, given the constants' bytes."""
        resident = sum(nbytes for number, nbytes in enumerate(constants) if number not in self.homes)
        data = sum(type.nbytes for type in (*self.inputs, *self.outputs))
        own = self.arena_bytes + self.scratch_bytes + self.counter_bytes + self.number_bytes + self.window_bytes
        return own + data + resident

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "arena_bytes": self.arena_bytes,
            "scratch_bytes": self.scratch_bytes,
            "counter_bytes": self.counter_bytes,
            "number_bytes": self.number_bytes,
            "window_bytes": self.window_bytes,
            "host_bytes": self.host_bytes,
            "homes": list(self.homes.items()),
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

        def step(row: Any) -> Action | Control[Argument]:
            if not isinstance(row, Mapping):
                name, arguments, label, calls = row
                return Launch(name, tuple(Argument(*argument) for argument in arguments), label, calls)
            match row["control"]:
                case "transfer":
                    return Transfer(row["label"], Argument(**row["memory"]), row["offset"], row["nbytes"], row["out"],
                                    row["beside"])  # fmt: skip
                case "wait":
                    return Wait(row["count"])
                case _:
                    return control_from_json(row, Argument)

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
            number_bytes=manifest["number_bytes"],
            window_bytes=manifest["window_bytes"],
            host_bytes=manifest["host_bytes"],
            homes=dict(manifest["homes"]),
        )
