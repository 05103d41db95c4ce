"""A C file run here: compiled by the machine's own compiler, called on floats."""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorc.errors import UserError
from tensorc.target import Executable
from tensorc.toolchain import find_compiler, first_error

_SECONDS = 300


class CExecutable(Executable):
    """`manifest` as the file's last line has it."""

    def __init__(self, source: Path, manifest: Mapping[str, Any]):
        top = manifest["program"]["name"]
        self._folder = tempfile.TemporaryDirectory(prefix="tensorc-c-")
        library = Path(self._folder.name) / "model.so"
        command = [*find_compiler("running a C file"), "-std=c99", "-O2", "-shared", "-fPIC", f"-D{top.upper()}_FLOAT",
                   str(source), "-o", str(library), "-lm"]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise UserError(f"{source}: the C compiler did not end within {_SECONDS} s") from None
        if done.returncode:
            raise UserError(f"{source} does not compile: {first_error(done.stderr)}")
        self._run = getattr(ctypes.CDLL(str(library)), f"{top}_float")
        self._shapes = [tuple(row["shape"]) for row in manifest["outputs"]]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = [np.empty(math.prod(shape), np.float32).reshape(shape) for shape in self._shapes]
        inputs = [np.ascontiguousarray(array, np.float32) for array in inputs]
        self._run(*(ctypes.c_void_p(array.ctypes.data) for array in (*inputs, *outputs)))
        return outputs

    def close(self) -> None:
        self._folder.cleanup()
