"""Simulation of a program with channels that have an end: deadlocks, and the least depths that prevent them.

Vendor simulation lets every FIFO grow without limit, which hides deadlocks. Here each process is a fiber that stops at
an empty or a full channel, see `headers/hls_stream.h`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from targets.hls.printing import cpp, fibers
from targets.hls.program import Port, Program
from targets.hls.simulation.csim import FLAGS, compile_cpp, execute, headers
from tensorc.errors import UserError

_BOUNDED = Path(__file__).with_name("headers")
_SECONDS = 600.0
_DEADLOCK = 3


@dataclass(frozen=True)
class Wait:
    """A process that waits for a word in a channel, or for room in one that is `full`."""

    process: str
    channel: str
    full: bool

    def __str__(self) -> str:
        return f"{self.process} waits for {'room' if self.full else 'a word'} in {self.channel}"


@dataclass(frozen=True)
class Outcome:
    """`outputs` as `csim.Simulation.run` gives them, unless there was a deadlock: then `waits` has all processes that
    wait. `fills` are the most words that each channel held, or was about to hold."""

    outputs: Sequence[np.ndarray]
    fills: Mapping[str, int]
    waits: Sequence[Wait]
    depths: Mapping[str, int]

    @property
    def deadlock(self) -> str:
        """In one line; "" where there is none."""
        if not self.waits:
            return ""
        full = {wait.channel: f" ({self.depths[wait.channel]} words fit)" for wait in self.waits if wait.full}
        return "DEADLOCK: " + "; ".join(
            f"{wait}{full.get(wait.channel, '') if wait.full else ''}" for wait in self.waits
        )


@dataclass(frozen=True)
class FiberSimulation:
    """A compiled program, as long as the `with` block of `compiled` lasts."""

    program: Program
    binary: Path
    seconds: float

    def run(self, inputs: Sequence[np.ndarray] | None = None, depths: Mapping[str, int] | None = None) -> Outcome:
        """`inputs` as in C simulation; zeros of one image where none are given. `depths` are those of the program but
        for channels that are named here; 0 is without an end."""
        inputs = (
            [np.zeros((1, len(port.order)), np.int64) for port in self.program.inputs] if inputs is None else inputs
        )
        known = {channel.name: channel.depth for channel in self.program.channels}
        if unknown := set(depths or ()) - set(known):
            raise UserError(f"there is no channel {min(unknown)!r}; there are {', '.join(known)}")
        known.update(depths or {})
        images = len(inputs[0])
        numbers = [
            np.asarray(array, np.int64).reshape(images, -1)[:, port.order]
            for port, array in zip(self.program.inputs, inputs, strict=True)
        ]
        text = "\n".join(" ".join(map(str, array.reshape(-1).tolist())) for array in numbers)
        command = [str(self.binary), str(images), *map(str, known.values())]
        done = execute(command, self.binary.parent, self.seconds, "the simulation with fibers", text=text)
        if done.returncode not in (0, _DEADLOCK):
            raise RuntimeError(f"simulation with fibers: it ended with {done.returncode}: {done.stderr.strip()}")
        rows = [line.split() for line in done.stdout.splitlines()]
        fills = {row[1]: int(row[2]) for row in rows if row[0] == "fill"}
        waits = [Wait(row[1], row[3], row[2] == "full") for row in rows if row[0] == "deadlock"]
        results = [np.array(row[1:], np.int64) for row in rows if row[0] == "result"]
        each = len(self.program.outputs)
        outputs = [
            _in_model_order(port, np.stack(results[number::each]))
            for number, port in enumerate(self.program.outputs) if not waits
        ]  # fmt: skip
        return Outcome(outputs, fills, waits, known)


def _in_model_order(port: Port, passed: np.ndarray) -> np.ndarray:
    found = np.empty_like(passed)
    found[:, port.order] = passed
    return found


@contextmanager
def compiled(program: Program, seconds: float = _SECONDS) -> Iterator[FiberSimulation]:
    """`seconds` is the limit of the compilation and of a run. Raises UserError as C simulation does."""
    with tempfile.TemporaryDirectory(prefix="tensorc-fibers-") as made:
        folder = Path(made)
        for name, text in (*cpp.files(program), ("fibers.cpp", fibers.source(program))):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        binary = folder / program.name
        compile_cpp([folder / "fibers.cpp"], binary, [*FLAGS, f"-I{_BOUNDED}", f"-I{headers()}"], seconds)
        yield FiberSimulation(program, binary, seconds)


def least_depths(program: Program, at_least: int = 2, seconds: float = _SECONDS) -> dict[str, int]:
    """For each channel between processes a depth with which there is no deadlock, of which none could be less without
    one (but for `at_least`, which costs nothing).

    Whether there is a deadlock does not depend on when processes run, nor on the data. So what channels held when words
    were only made when asked for is enough; then, one after the other, they are made as small as still goes.
    """
    with compiled(program, seconds) as simulation:
        inner = _between_processes(program)
        fills = simulation.run(depths=dict.fromkeys(inner, 0)).fills
        depths = {name: max(fills[name], at_least) for name in inner}
        for name in inner:
            low, high = at_least, depths[name]
            trial = high - 1  # mostly there is nothing to gain
            while low < high:
                if simulation.run(depths={**depths, name: trial}).waits:
                    low = trial + 1
                else:
                    high = trial
                trial = (low + high) // 2
            depths[name] = high
        return depths


def _between_processes(program: Program) -> list[str]:
    outside = {port.channel.name for port in (*program.inputs, *program.outputs)}
    return [channel.name for channel in program.channels if channel.name not in outside]
