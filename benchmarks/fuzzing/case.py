"""A case of differential fuzzing: a model and what it is given. On disk: model.onnx, and inputs.npz beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx

Arrays = Mapping[str, np.ndarray]

MODEL, INPUTS = "model.onnx", "inputs.npz"
#: Types that numpy's files do not hold: written as their bytes, under a name that says so.
_BYTES = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8, "float8_e4m3fnuz": np.uint8, "float8_e5m2": np.uint8,
          "float8_e5m2fnuz": np.uint8, "int4": np.uint8, "uint4": np.uint8}  # fmt: skip


#: What the documentation of a node says whose results are rounded: another engine may have other last digits.
ROUNDED = "rounded"


@dataclass(frozen=True)
class Case:
    """`loose` says of each output, by name, how far it may be off: see compare.py. `exact` outputs have 0."""

    model: onnx.ModelProto
    inputs: Mapping[str, np.ndarray]
    loose: Mapping[str, float]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL).write_bytes(self.model.SerializeToString())
        save_arrays(folder / INPUTS, self.inputs)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # Numbered: names of values may hold what names of files may not.
    rows = {}
    for number, (name, array) in enumerate(arrays.items()):
        plain = array.view(_BYTES[array.dtype.name]) if array.dtype.name in _BYTES else array
        rows[f"{number}:{array.dtype.name}:{name}"] = plain
    np.savez(path, **rows)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    with np.load(path) as file:
        for key in sorted(file.files, key=lambda key: int(key.split(":")[0])):
            _, dtype, name = key.split(":", 2)
            arrays[name] = file[key].view(getattr(ml_dtypes, dtype)) if dtype in _BYTES else file[key]
    return arrays


def reads(node: onnx.NodeProto) -> set[str]:
    """The names of the values that a node reads, its bodies included. Names are different in all of a model."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names.update(value.name for value in attribute.g.output)
            for inner in attribute.g.node:
                names |= reads(inner)
    return names
