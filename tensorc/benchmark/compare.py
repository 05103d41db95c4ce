"""Engines take turns on one model, in short slices, so that a noisy neighbour or a warm chip is noise to all alike.

Outside its turn an engine's process is stopped (SIGSTOP). The thread pools of inference engines spin for a while after
each run, and one that spins on the core of another takes two thirds of its speed; a stopped process cannot.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

SLICE_SECONDS = 0.3
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds a run: median and the deciles at both ends, of `runs` runs."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True)
class Failure:
    """An engine that could not run the model, and what it said."""

    error: str


Result = Timing | Failure


def compare(
    models: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray],
    threads: int,
    seconds: float = 3.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Result]:
    """Time each engine of `models` (engine name -> the file it runs) on `inputs` for about `seconds` each.

    An engine that fails or dies is reported as a `Failure` and the others go on. `progress` is called with the rounds
    done and in all.
    """
    rounds = max(LEAST_ROUNDS, round(seconds / SLICE_SECONDS))
    results: dict[str, Result] = {}
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        files = _save(inputs, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tensorc-bench-"))))
        workers: dict[str, Worker] = {}
        for name, model in models.items():
            worker = stack.enter_context(Worker())
            job = {"engine": name, "model": str(model), "inputs": files, "threads": threads}
            try:
                worker.ask(job)
            except EngineError as error:
                results[name] = Failure(str(error))
            else:
                workers[name], times[name] = worker, []
        for turn in range(rounds):
            for name, worker in list(workers.items()):
                try:
                    times[name] += worker.ask({"seconds": seconds / rounds})["ms"]
                except EngineError as error:
                    results[name] = Failure(str(error))
                    del workers[name]
            if progress is not None:
                progress(turn + 1, rounds)
    results.update({name: _timing(times[name]) for name in workers})
    return {name: results[name] for name in models}


def speedups(results: Mapping[str, Result], ours: str = "tensorc") -> dict[str, float]:
    """Every other engine's median over ours; above 1 we are faster."""
    mine = results.get(ours)
    if not isinstance(mine, Timing):
        return {}
    return {
        name: result.median_ms / mine.median_ms
        for name, result in results.items()
        if name != ours and isinstance(result, Timing)
    }


def _timing(times: list[float]) -> Timing:
    low, median, high = np.percentile(times, [10, 50, 90])
    return Timing(float(median), float(low), float(high), len(times))


def _save(inputs: Mapping[str, np.ndarray], folder: Path) -> dict[str, str]:
    files = {}
    for index, (name, array) in enumerate(inputs.items()):
        files[name] = str(folder / f"{index}.npy")
        np.save(files[name], array)
    return files


class EngineError(Exception):
    """An engine's process answered with an error, or died."""


class Worker:
    """One engine's process, stopped except while it answers."""

    def __enter__(self) -> Self:
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tensorc.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Wake the process, send one line, wait for the answer and stop it again."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        os.kill(self.process.pid, signal.SIGCONT)
        try:
            print(json.dumps(message), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EngineError(self._death())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        os.kill(self.process.pid, signal.SIGSTOP)
        return answer

    def _death(self) -> str:
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        self.errors.seek(0)
        last = self.errors.read().strip().splitlines()[-1:]
        return f"the engine's process was {how}" + "".join(f": {line}" for line in last)
