"""The worker process that builds: `python -m targets.cpu.tuning.builder`. See `tensorc.search.worker`.

    {"candidate": {"body", "machine", "schedule", "symbol", "data", "object"}}      to one object file
    {"job": {"folder", "data", "candidates", "objects", "stepper", "machine", "threads"}}     to a job

Answers are {"built": ...}, {"failure": why the candidate or the job cannot be built} or {"error": what else is wrong}.
"""

from __future__ import annotations

import ctypes
import functools
import resource
import signal
from pathlib import Path
from typing import Any

from targets.cpu.codegen import build_object
from targets.cpu.machine import Machine
from targets.cpu.tuning.data import prepare
from targets.cpu.tuning.jobs import Candidate, lower_candidate, write_job
from targets.cpu.tuning.measure import serve
from tensorc.ir import Graph, parse_graph

#: Address space in bytes: ten times what is usual.
_MEMORY_LIMIT = 8 << 30
_PR_SET_PDEATHSIG = 1


def _machine(row: dict[str, Any]) -> Machine:
    return Machine(**row | {"features": frozenset(row["features"])})


@functools.lru_cache(maxsize=4)
def _body(text: str) -> Graph:
    return parse_graph(text)


def _build_candidate(row: dict[str, Any]) -> dict[str, Any]:
    body, machine = _body(row["body"]), _machine(row["machine"])
    prepare(body, Path(row["data"]))
    try:
        candidate, function = lower_candidate(body, machine, row["schedule"], row["symbol"], Path(row["data"]))
        build_object({candidate.symbol: function}, machine, Path(row["object"]))
    except OSError:
        raise
    except Exception as error:  # TVM's errors have no common base but this
        return {"failure": f"{type(error).__name__}: {error}"}
    return {"built": candidate.to_json()}


def _build_job(row: dict[str, Any]) -> dict[str, Any]:
    candidates = [Candidate.from_json(candidate) for candidate in row["candidates"]]
    objects = [Path(path) for path in row["objects"]]
    try:
        write_job(Path(row["folder"]), Path(row["data"]), candidates, objects, Path(row["stepper"]),
                  _machine(row["machine"]), row["threads"])  # fmt: skip
    except RuntimeError as error:  # a symbol that nobody has
        return {"failure": str(error)}
    return {"built": True}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "candidate" in request:
            return _build_candidate(request["candidate"])
        return _build_job(request["job"])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    # LLVM may be at work for long, or this process be paused, when whoever wants the result is gone. (To be exact, the
    # signal comes when the thread ends that started this process: those that do live as long as their pool.)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    serve(_answer)


if __name__ == "__main__":
    main()
