"""What a compiled CPU model is: steps that call kernels on addresses. The target's part of the manifest.

It is written by the build, printed as C by `targets.cpu.link`, and read by the executable, which needs of it only
the outputs to allocate and the CPU features to ask for; the rest is there for people and for profiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from targets.control import Control, control_from_json
from tensorc.ir.types import TensorType

#: The spaces that an argument may point into. Inputs are numbered from `FIRST_INPUT`, outputs follow them, then the
#: pointers of loops, then the constants.
ARENA, SCRATCH, FIRST_INPUT = range(3)

#: The artifact's section.
CODE_SECTION = "code"
#: What is mapped and let go at once, where weights come and go: the largest page that a system maps of a file, where it
#: begins at a multiple of its size. TENSORC_BLOCK of executor.h.
BLOCK = 2 << 20


@dataclass(frozen=True, slots=True)
class Argument:
    """A pointer handed to a kernel: `offset` bytes into a space."""

    space: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a kernel, whose `tasks` are independent of each other and may be shared between threads.

    `serial` says that sharing them would cost more than it gains. The label names the operators computed. `calls` is
    how often a run does the step, if all branches are taken and each loop whose end is not known runs once. A `slice`
    that is not 0 is the number of tasks after which the blocks of `table` (first, count) are let go, see `Stream`. Its
    tasks are the kernel's from `first` on; what is left of one that was begun by the step before has 0 calls.
    """

    kernel: str
    arguments: tuple[Argument, ...]
    tasks: int
    label: str
    serial: bool = False
    calls: int = 1
    slice: int = 0
    table: tuple[int, int] = (0, 0)
    first: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "arguments": [[argument.space, argument.offset] for argument in self.arguments],
            "tasks": self.tasks,
            "label": self.label,
            "serial": self.serial,
            "calls": self.calls,
            "slice": self.slice,
            "table": list(self.table),
            "first": self.first,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Step:
        arguments = tuple(Argument(space, offset) for space, offset in row["arguments"])
        first, count = row.get("table", (0, 0))
        return cls(row["kernel"], arguments, row["tasks"], row["label"], row["serial"], row["calls"],
                   row.get("slice", 0), (first, count), row.get("first", 0))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Transfer:
    """A step: `nbytes` in memory go `out` to the run's file, at `offset`, or come back from there."""

    label: str
    memory: Argument
    offset: int
    nbytes: int
    out: bool

    def to_json(self) -> dict[str, Any]:
        return {"control": "transfer", **asdict(self)}


def _step_from_json(row: Mapping[str, Any]) -> Step | Control[Argument] | Transfer:
    match row.get("control"):
        case None:
            return Step.from_json(row)
        case "transfer":
            return Transfer(row["label"], Argument(**row["memory"]), row["offset"], row["nbytes"], row["out"])
        case _:
            return control_from_json(row, Argument)


@dataclass(frozen=True, slots=True)
class Change:
    """Before step `step`, or at the end for the number of steps, the blocks of `drops` are let go, and those of
    `fetches` may come: runs (first, count)."""

    step: int
    drops: tuple[tuple[int, int], ...]
    fetches: tuple[tuple[int, int], ...]

    @classmethod
    def from_json(cls, row: Sequence[Any]) -> Change:
        step, drops, fetches = row
        return cls(step, *(tuple((first, count) for first, count in runs) for runs in (drops, fetches)))


@dataclass(frozen=True, slots=True)
class Stream:
    """How a program keeps to its memory budget: its weights, `weights_bytes` in a mapped file in the order of the
    constants, come and go in blocks of `BLOCK` bytes."""

    weights_bytes: int
    changes: tuple[Change, ...]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Stream:
        return cls(row["weights_bytes"], tuple(map(Change.from_json, row["changes"])))

    def to_json(self) -> dict[str, Any]:
        changes = [[change.step, change.drops, change.fetches] for change in self.changes]
        return {"weights_bytes": self.weights_bytes, "changes": changes}


@dataclass(frozen=True, slots=True)
class CpuProgram:
    """The steps in order, and what they need: memory in bytes, CPU features by the names of /proc/cpuinfo.

    `scratch_bytes` is for each thread. `threads` is the number to run with by default; 0 stands for all cores.
    `pointers` is the number of those of all loops, `constants` that of the constants. `file_bytes` is the size of the
    file that values are moved to. `stream` is None without a memory budget.
    """

    steps: tuple[Step | Control[Argument] | Transfer, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    arena_bytes: int
    scratch_bytes: int
    features: tuple[str, ...] = ()
    threads: int = 0
    pointers: int = 0
    constants: int = 0
    file_bytes: int = 0
    stream: Stream | None = None

    @property
    def first_output(self) -> int:
        """The number of its space."""
        return FIRST_INPUT + len(self.inputs)

    @property
    def first_pointer(self) -> int:
        return self.first_output + len(self.outputs)

    @property
    def first_constant(self) -> int:
        return self.first_pointer + self.pointers

    def to_json(self) -> dict[str, Any]:
        return {
            "features": list(self.features),
            "threads": self.threads,
            "arena_bytes": self.arena_bytes,
            "scratch_bytes": self.scratch_bytes,
            "pointers": self.pointers,
            "constants": self.constants,
            "file_bytes": self.file_bytes,
            "stream": None if self.stream is None else self.stream.to_json(),
            "inputs": [_type_to_json(type) for type in self.inputs],
            "outputs": [_type_to_json(type) for type in self.outputs],
            "steps": [step.to_json() for step in self.steps],
        }

    @classmethod
    def from_json(cls, manifest: Mapping[str, Any]) -> CpuProgram:
        return cls(
            steps=tuple(_step_from_json(row) for row in manifest["steps"]),
            inputs=tuple(_type_from_json(row) for row in manifest["inputs"]),
            outputs=tuple(_type_from_json(row) for row in manifest["outputs"]),
            arena_bytes=manifest["arena_bytes"],
            scratch_bytes=manifest["scratch_bytes"],
            features=tuple(manifest["features"]),
            threads=manifest["threads"],
            pointers=manifest["pointers"],
            constants=manifest["constants"],
            file_bytes=manifest.get("file_bytes", 0),
            stream=Stream.from_json(manifest["stream"]) if manifest.get("stream") else None,
        )


def _type_to_json(type: TensorType) -> dict[str, Any]:
    return {"dtype": type.dtype, "shape": list(type.shape)}


def _type_from_json(row: Mapping[str, Any]) -> TensorType:
    return TensorType(row["dtype"], tuple(row["shape"]))
