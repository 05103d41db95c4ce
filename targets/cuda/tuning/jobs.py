"""Jobs: candidates of one workload as machine code, what they compute on, and what they must make of it.

JOB/job.json, JOB/0.cubin, JOB/0.cu ...     candidates; the CUDA C is for whoever wants to see what was timed
DATA/in0.xz, DATA/in0-PACKING.xz ...        inputs, also as a candidate wants them packed
DATA/out0.npz ...                           some elements of the results, and how far off they may be

Inputs are a short row of random numbers again and again: they take little room in a bundle.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from targets.cuda.codegen import print_kernel
from targets.cuda.compiler import compile_kernel
from targets.cuda.gpu import Gpu
from targets.cuda.kernels import Kernel, lower
from tensorc.ir import Graph, Value, evaluate
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float, numpy_dtype
from tensorc.search.measure import Outcome
from tensorc.search.space import ScheduleJson

#: Of the row of numbers, a prime: no two rows of a matrix are alike.
_PERIOD = 1021
_SAMPLED = 4096
#: How far a result may be off, relative to the largest: sums are taken in other orders than numpy's, and tf32 rounds.
_TOLERANCES = {"float64": 1e-9, "float32": 2e-3, "float16": 5e-3, "bfloat16": 4e-2}
_NAME = "candidate"


def build_job(body: Graph, schedules: Sequence[ScheduleJson], gpu: Gpu, folder: Path, data: Path,
              progress: Callable[[], None] = lambda: None) -> list[Outcome | None]:  # fmt: skip
    """Write a job into the new `folder`, and its data to `data` unless they are there. Gives for each schedule why it
    is not in the job, or None. Raises UserError where there is no NVRTC."""
    folder.mkdir(parents=True)
    inputs = _prepared(body, data)
    failures: list[Outcome | None] = []
    rows: list[dict[str, Any]] = []
    built: list[tuple[Kernel, str]] = []
    for schedule in schedules:
        try:
            kernel = lower(body, gpu, schedule)
            built.append((kernel, print_kernel(kernel.function, _NAME)))
            failures.append(None)
        except Exception as error:  # whatever it is, it is a candidate's
            failures.append(_failed(schedule, error))
    compiling = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    with compiling:
        waiting = [compiling.submit(compile_kernel, source, _NAME, gpu) for _, source in built]
    taken = iter(zip(built, waiting, strict=True))
    for number, schedule in enumerate(schedules):
        if failures[number] is None:
            (kernel, source), compiled = next(taken)
            try:
                cubin = compiled.result().cubin
            except RuntimeError as error:
                failures[number] = _failed(schedule, error)
            else:
                rows.append(_written(kernel, source, cubin, inputs, folder, data, len(rows)))
        progress()
    job = {
        "candidates": rows,
        # Operand 1 is a constant; the step before has written the others.
        "warm": [number for number in range(len(body.inputs)) if number != 1],
        "outputs": [
            {"dtype": value.dtype, "bytes": value.type.nbytes, "sample": _from(folder, data / f"out{number}.npz")}
            for number, value in enumerate(body.outputs)
        ],
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return failures


def _failed(schedule: ScheduleJson, error: Exception) -> Outcome:
    return Outcome(schedule, (), "build", f"{type(error).__name__}: {error}"[:300])


def _written(kernel: Kernel, source: str, cubin: bytes, inputs: Sequence[np.ndarray], folder: Path, data: Path,
             number: int) -> dict[str, Any]:  # fmt: skip
    (folder / f"{number}.cubin").write_bytes(cubin)
    (folder / f"{number}.cu").write_text(source, encoding="utf-8")
    files = []
    for place, array in enumerate(inputs):
        packing = kernel.packings.get(place)
        name = f"in{place}.xz" if packing is None else f"in{place}-{_plain(packing.name)}.xz"
        if packing is not None and not (data / name).exists():
            _compress(packing.apply(array), data / name)
        files.append(_from(folder, data / name))
    return {
        "name": _NAME, "cubin": f"{number}.cubin", "source": f"{number}.cu", "blocks": kernel.blocks,
        "threads": kernel.threads, "shared_bytes": kernel.shared_bytes, "scratch_bytes": kernel.scratch_bytes,
        "counters": kernel.counters, "inputs": files,
    }  # fmt: skip


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _from(folder: Path, file: Path) -> str:
    return os.path.relpath(file, folder)


def _prepared(body: Graph, data: Path) -> list[np.ndarray]:
    """The inputs; they, and what results are to be, are written if they are not there yet."""
    rng = np.random.default_rng(0)
    inputs = [_repeated(value, rng) for value in body.inputs]
    if (data / "out0.npz").exists():
        return inputs
    data.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(inputs):
        _compress(array, data / f"in{number}.xz")
    with np.errstate(all="ignore"):
        names = [value.name for value in body.inputs]
        outputs = evaluate(body, dict(zip(names, inputs, strict=True)))
    for number, (value, array) in enumerate(zip(body.outputs, outputs, strict=True)):
        flat = array.reshape(-1).astype(np.float64)
        places = rng.choice(flat.size, min(_SAMPLED, flat.size), replace=False)
        atol = _TOLERANCES.get(value.dtype, 0.0) * max(float(np.abs(flat).max(initial=0)), 1e-30)
        if not is_float(value.dtype) and any(is_float(v.dtype) for v in body.inputs):
            atol = 1.0  # rounded to integers, some fall on the other side
        np.savez_compressed(data / f"out{number}.npz", places=places, values=flat[places], atol=atol)
    return inputs


def _repeated(value: Value, rng: np.random.Generator) -> np.ndarray:
    row = rng.standard_normal(_PERIOD) if is_float(value.dtype) else rng.integers(0, 4, _PERIOD)
    return np.resize(row.astype(numpy_dtype(value.dtype)), static_shape(value.shape))


def _compress(array: np.ndarray, path: Path) -> None:
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    path.write_bytes(lzma.compress(raw.tobytes(), preset=1))
