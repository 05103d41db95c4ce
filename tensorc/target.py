"""What the core asks of a target, and how it finds one.

The core never imports a target: targets are found by the entry-point group `tensorc.targets`, which is also how
somebody else adds one. A target string is `NAME` or `NAME:PART`, where the part is the target's own affair
(`cpu:x86-64-v3`).
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorc.errors import UnsupportedError, UserError
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass, run_passes
from tensorc.profiling import Profile
from tensorc.runtime.run import Run
from tensorc.search.choice import Choice
from tensorc.search.context import TuningContext

if TYPE_CHECKING:
    from tensorc.runtime.constants import ConstantStore
    from tensorc.runtime.dlpack import Borrowed

ENTRY_POINTS = "tensorc.targets"
#: In a folder that a target writes: the manifest, as an artifact has it.
PROJECT = "project.json"

#: Called with (kernels or runs done, how many in all, name of what is at hand); 0 in all where that is not known.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PackedConstant:
    """A constant in the form in which a program reads it. `load` makes it, an array of `nbytes` bytes, so that
    gigabytes of weights are never in memory at once. Those of one `origin` are the same; None where that is not known.
    """

    nbytes: int
    load: Callable[[], np.ndarray]
    origin: Hashable = None


@dataclass
class Program:
    """What a target builds of a graph: sections of bytes for the artifact, and the facts needed to run them.

    A section is an iterable of chunks. `manifest` is JSON and the target's own; `summary` rows are (label, value) pairs
    for a person. In the artifact, `constants` begin at a multiple of `alignment` bytes. `graph` is what was built,
    where interpreting it is how the program is run here.
    """

    sections: Mapping[str, Iterable[Any]]
    manifest: dict[str, Any]
    summary: list[tuple[str, str]] = field(default_factory=list)
    constants: Sequence[PackedConstant] = ()
    alignment: int = 1
    graph: Graph | None = None


class Executable(abc.ABC):
    """A loaded program. `run` and `run_async` may be called from several threads at once."""

    @abc.abstractmethod
    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Outputs in order, freshly allocated. Inputs have the types and shapes of the manifest, C-contiguous; beside
        numpy's they may be what `borrow` gave."""

    def run_async(self, inputs: Sequence[Any], outputs: Sequence[Any], stream: int | None) -> Run:  # noqa: ARG002
        """Begin a run. `outputs` has for each output where it goes, one of numpy's arrays or what `borrow` gave, or
        None. What `stream` (a handle of the target's kind) was asked for before happens before, and what it is asked
        for afterwards happens after the run; None is a stream of the executable's own.

        A target whose runs do not go on by themselves has done it when this returns.
        """
        made: list[Any] = list(outputs)

        def begin() -> Callable[[], None]:
            for number, array in enumerate(self.run(inputs)):
                if made[number] is None:
                    made[number] = array
                else:
                    np.copyto(made[number], array)
            return lambda: None

        run = Run(made, begin)
        run.outputs = made
        return run

    def borrow(
        self,
        array: Any,  # noqa: ARG002  (the contract's)
        device: tuple[int, int],  # noqa: ARG002
        stream: int | None,  # noqa: ARG002
    ) -> Borrowed | None:
        """An array of another library, for a run on `stream`, if it lies where this target's programs can reach it:
        `device` is DLPack's kind and number of where it lies."""
        return None

    def profile(
        self,
        inputs: Sequence[np.ndarray],  # noqa: ARG002  (the contract's)
        seconds: float,  # noqa: ARG002
        measure_ceilings: bool,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
    ) -> Profile:
        """Run for about `seconds` and say what each step took, beside what the machine could do at best.

        What the machine can do is measured once and kept; `measure_ceilings` has it measured again. A target that
        cannot time its steps leaves this as it is, which raises UnsupportedError.
        """
        raise UnsupportedError("the model's target does not time its kernels")

    @abc.abstractmethod
    def close(self) -> None:
        """Stop threads and unmap; the object is not used afterwards."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked of what a target wrote: whether it holds, and what a person should know of it."""

    name: str
    ok: bool
    text: str
    seconds: float
    numbers: Mapping[str, Any] = field(default_factory=dict)


class Target(abc.ABC):
    """One kind of machine. `part` is what followed the colon in the target string, or ""."""

    name: str
    #: Of the names of what it writes; "" for folders.
    suffix: ClassVar[str] = ".tcm"
    #: Whether its programs compute in fixed point, and in nothing else: `--quantize fixedN`.
    is_fixed_point: ClassVar[bool] = False
    #: Whether its programs can be held to `CompileOptions.memory_budget`.
    has_budgets: ClassVar[bool] = False
    #: Whether it makes hardware, which is to be best in `CompileOptions.objective`, at `CompileOptions.clock`.
    has_objectives: ClassVar[bool] = False
    #: What `CompileOptions.precision` may be.
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    def __init__(self, part: str = ""):
        self.part = part

    def prepare(self) -> None:  # noqa: B027  (optional)
        """Import what compiling takes, for those who would rather wait now than at the first compilation."""

    def default_threads(self) -> int:
        """How many threads a program runs on here unless it is told."""
        return 1

    @abc.abstractmethod
    def passes(self, options: CompileOptions) -> Sequence[Pass]:
        """The passes from the frontend's graph to fused groups, in order."""

    def tuning(self, options: CompileOptions) -> TuningContext | None:  # noqa: ARG002  (the contract's)
        """How this target's kernels are tuned; None where they leave nothing to choose."""
        return None

    @abc.abstractmethod
    def build(
        self, graph: Graph, options: CompileOptions, schedules: Mapping[str, Choice], progress: Progress
    ) -> Program:
        """Native code for a graph that went through `passes`; `schedules` by workload key, rules pick the others."""

    @abc.abstractmethod
    def load(self, manifest: Mapping[str, Any], sections: Mapping[str, memoryview],
             constants: Sequence[memoryview], threads: int) -> Executable:  # fmt: skip
        """Make a built program runnable here; `manifest` is what `Program.manifest` was, `constants` are the bytes of
        `Program.constants`, each at a multiple of 64. threads 0: the default."""

    def executable(self, graph: Graph, later: Sequence[Pass], options: CompileOptions) -> Executable:
        """A graph that the passes `later` are still to be run on, in memory, by the rules' own schedules: what shows a
        model on samples while it is compiled."""
        from tensorc.runtime.constants import ConstantStore

        graph.remove_dead()
        run_passes(graph, later)
        options = replace(options, memory_budget=None)
        program = self.build(graph, options, {}, lambda *_: None)
        return self.load_built(program, ConstantStore(), options.threads)

    def write(self, out: Path, manifest: Mapping[str, Any], sections: Mapping[str, Iterable[Any]],
              alignments: Mapping[str, int]) -> int:  # fmt: skip
        """What `tensorc compile` leaves, whole or not at all; gives its size in bytes. Raises UserError where it cannot
        be written."""
        from tensorc.runtime.artifact import write_artifact

        write_artifact(out, manifest, sections, alignments)
        return out.stat().st_size

    def obstacle(self, out: Path) -> str:
        """Why an output of that name cannot be written where something is already; "" if it can."""
        return "it is a folder" if out.is_dir() else ""

    def manifest(self, out: Path) -> dict[str, Any]:
        """What was written beside, or in, what is no artifact. Raises UserError."""
        return read_project(out)

    def open(self, out: Path) -> Executable:
        """What runs here as that would; where it is for other machines, slowly. Raises UserError for damage."""
        raise UserError(f"{out} is nothing that the target {self.name} writes")

    def check(
        self,
        out: Path,  # noqa: ARG002  (the contract's)
        reference: Path | None,  # noqa: ARG002
        samples: Path | None,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
    ) -> list[Check]:
        """Whether what was written does what it should, shown by other means than running it as an artifact; also
        against the ONNX model `reference`. Raises UserError where a tool is missing, UnsupportedError where there is
        nothing of the kind."""
        raise UnsupportedError(f"the target {self.name} writes nothing that is checked by itself")

    def load_built(self, program: Program, store: ConstantStore, threads: int) -> Executable:
        """A program that was just built, in memory; constants that `store` has already are shared."""
        sections = {name: memoryview(b"".join(chunks)) for name, chunks in program.sections.items()}
        return self.load(program.manifest, sections, store.get(program.constants), threads)

    @classmethod
    @abc.abstractmethod
    def describe(cls) -> list[tuple[str, str]]:
        """Rows (target string, what it is) for `tensorc targets`."""


def find_target(text: str) -> Target:
    """The target that a string such as `cpu` or `cpu:x86-64-v3` names."""
    name, _, part = text.partition(":")
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise UserError(f"unknown target {name!r}; installed: {', '.join(sorted(found)) or 'none'}")
    target: Target = found[name].load()(part)
    return target


def writer_of(out: Path) -> Target | None:
    """The target that wrote it, if it is no artifact. Raises UserError for a folder that none did."""
    if out.is_dir():
        return find_target(read_project(out)["target"])
    kinds = [kind for kind in installed_targets() if kind.suffix not in ("", Target.suffix)]
    return next((kind() for kind in kinds if kind.suffix == out.suffix), None)


def read_project(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that a target wrote. Raises UserError."""
    try:
        manifest: dict[str, Any] = json.loads((folder / PROJECT).read_text())
        find_target(manifest["target"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is no project that tensorc wrote: it has no readable {PROJECT} ({error})") from error
    return manifest


def installed_targets() -> list[type[Target]]:
    return [entry.load() for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.name)]
