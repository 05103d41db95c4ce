"""What candidates of one workload compute on, and what they must make of it.

Written once for a workload, as plain files: `in0.bin` and on, `out0.bin` and on, and `data.json`, which describes
them. The values do not matter to the time that a kernel takes, so long as they are ordinary numbers.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tensorc.ir import Graph, Value, evaluate
from tensorc.ir.dims import static_shape
from tensorc.ir.types import is_float, numpy_dtype

#: How far a result may be off, relative to the largest of the output: sums are taken in other orders than numpy's.
_TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
#: The same of kernels that may round inputs to bytes.
_ROUNDED_TOLERANCE = 2e-2
#: Of numbers that were rounded to integers or compared, so many may fall on the other side.
_FLIPPED_SHARE = 0.01
#: Operand 1 of these is a constant in practice; the bodies do not say.
_WEIGHTED = ("conv_blocked", "matmul_packed")


def prepare(body: Graph, folder: Path) -> dict[str, Any]:
    """The description of the data in `folder`, which is written first if it is not there."""
    description = folder / "data.json"
    if not description.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        made.mkdir()
        _write(body, made)
        try:
            made.rename(folder)
        except OSError:  # another process was faster, with the same data
            shutil.rmtree(made)
    found: dict[str, Any] = json.loads(description.read_text(encoding="utf-8"))
    return found


def read_input(folder: Path, body: Graph, number: int) -> np.ndarray:
    value = body.inputs[number]
    data: np.ndarray = np.fromfile(folder / f"in{number}.bin", numpy_dtype(value.dtype))
    return data.reshape(static_shape(value.shape))


def write_whole(array: np.ndarray, path: Path) -> None:
    """The bytes of `array`; the file appears at once."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    part.rename(path)


def _write(body: Graph, folder: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = {value.name: _random(value, rng) for value in body.inputs}
    with np.errstate(all="ignore"):
        outputs = evaluate(body, inputs)
    for number, array in enumerate(inputs.values()):
        write_whole(array, folder / f"in{number}.bin")
    rounded = any(is_float(value.dtype) for value in body.values()) or any(is_float(v.dtype) for v in body.inputs)
    rows = []
    for number, (value, array) in enumerate(zip(body.outputs, outputs, strict=True)):
        write_whole(array, folder / f"out{number}.bin")
        atol, share = 0.0, 0.0
        if is_float(value.dtype):
            finite = np.abs(array[np.isfinite(array)].astype(np.float64))
            atol = _tolerance(body, value) * max(float(finite.max(initial=0)), math.sqrt(np.finfo(np.float32).tiny))
        elif rounded:
            share = _FLIPPED_SHARE
        shape = list(static_shape(value.shape))
        rows.append({"file": f"out{number}.bin", "dtype": value.dtype, "shape": shape, "atol": atol, "share": share})
    constants = sorted({
        body.inputs.index(node.inputs[1])
        for node in body.nodes if node.op in _WEIGHTED and node.inputs[1] in body.inputs
    })  # fmt: skip
    described = {"outputs": rows, "constants": constants}
    (folder / "data.json").write_text(json.dumps(described), encoding="utf-8")


def _tolerance(body: Graph, output: Value) -> float:
    if any(node.op == "matmul_coded" for node in body.nodes):
        return _ROUNDED_TOLERANCE
    return _TOLERANCES[output.dtype]


def _random(value: Value, rng: np.random.Generator) -> np.ndarray:
    """Floats from -1 to 1. Integers are 0 and 1, which are legal even for an index; bytes hold quantized numbers."""
    shape, dtype = static_shape(value.shape), numpy_dtype(value.dtype)
    if value.dtype == "float8_e8m0fnu":  # powers of two
        return rng.choice([0.5, 1.0, 2.0], shape).astype(dtype)
    if is_float(value.dtype):
        return (rng.random(shape, np.float32) * 2 - 1).astype(dtype)
    if value.dtype in ("int8", "uint8"):
        return rng.integers(0 if value.dtype == "uint8" else -100, 100, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
