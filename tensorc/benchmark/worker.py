"""The process that one engine lives in: JSON lines in on standard input, JSON lines out.

The first line opens the engine: {"engine", "model", "inputs": {name: FILE.npy}, "threads"}. Each further line,
{"seconds": S}, asks for one slice and is answered by {"ms": [...]}, one number a run. A failure is answered by
{"error": text} and ends the process, as does the end of the input.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any, TextIO

import numpy as np

from tensorc.benchmark.engines import ENGINES, Call


def main() -> int:
    answers = _claim_stdout()
    _die_with_parent()
    try:
        call = _open(json.loads(sys.stdin.readline()))
        _answer(answers, {"ready": True})
        for line in sys.stdin:
            _answer(answers, {"ms": timed_slice(call, json.loads(line)["seconds"])})
    except Exception as error:  # whatever an engine raises is that engine's result
        _answer(answers, {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"})
        return 1
    return 0


def _open(job: dict[str, Any]) -> Call:
    feed = {name: np.load(path, allow_pickle=False) for name, path in job["inputs"].items()}
    opener, _, _ = ENGINES[job["engine"]]
    return opener(job["model"], feed, job["threads"])


def timed_slice(call: Call, seconds: float) -> list[float]:
    """Milliseconds of each run in a slice of at least one run.

    One more run comes first and is not counted: the turn before was another engine's, and left the caches to it.
    """
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def _claim_stdout() -> TextIO:
    """The pipe for answers; what a library prints to standard output goes to standard error from here on."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return pipe


def _die_with_parent() -> None:
    """A stopped process sees no end of input, so a parent that was killed would leave it stopped for ever."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _answer(pipe: TextIO, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=pipe, flush=True)


if __name__ == "__main__":
    sys.exit(main())
