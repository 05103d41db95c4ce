"""The process that runs cases on one engine, one after the other: see fuzz.py.

JSON lines, as `tensorc.search.worker` has it: {"case": FOLDER, "out": FILE} is answered by {"status", "detail"}, where
the status is ok (the outputs are in FILE), unsupported or error. What kills the process is the caller's to count.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.fuzzing.case import INPUTS, MODEL, load_arrays, save_arrays

MOST_WORDS = 600
MOST_MEMORY = 6 << 30
Run = Callable[[Path, Mapping[str, np.ndarray]], list[np.ndarray]]


def _names(path: Path) -> list[str]:
    return [value.name for value in onnx.load(path).graph.output]


def _tensorc(target: str) -> tuple[Run, tuple[type[Exception], ...]]:
    import tensorc
    from tensorc.errors import UnsupportedError

    def run(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        # The interface of sessions names outputs, and they may be the same twice.
        with tensorc.compile(path, target, threads=2) as model:
            return model.run(None, inputs)

    return run, (UnsupportedError,)


def _onnxruntime(_: str) -> tuple[Run, tuple[type[Exception], ...]]:
    from benchmarks.conformance.worker import OnnxRuntimeRep

    def run(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        model = onnx.load(path)
        rep = OnnxRuntimeRep(model)
        return rep.run([inputs[value.name] for value in model.graph.input])

    return run, (Exception,)


def _reference(_: str) -> tuple[Run, tuple[type[Exception], ...]]:
    from onnx.reference import ReferenceEvaluator

    def run(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return [np.asarray(array) for array in ReferenceEvaluator(onnx.load(path)).run(None, dict(inputs))]

    return run, (Exception,)


ENGINES = {"tensorc": _tensorc, "onnxruntime": _onnxruntime, "reference": _reference}


def main(name: str, target: str = "") -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever an engine prints
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    warnings.simplefilter("ignore")
    run, refusals = ENGINES[name](target)
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        case = Path(request["case"])
        try:
            outputs = run(case / MODEL, load_arrays(case / INPUTS))
            save_arrays(Path(request["out"]), dict(zip(_names(case / MODEL), outputs, strict=True)))
            row = {"status": "ok", "detail": ""}
        except Exception as error:  # whatever an engine raises is its result
            refused = isinstance(error, refusals)
            row = {"status": "unsupported" if refused else "error", "detail": _words(error)}
        answers.write(json.dumps(row) + "\n")


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:MOST_WORDS]


if __name__ == "__main__":
    main(*sys.argv[1:])
