"""Runs a CPU artifact: loads its shared object, hands it addresses, gets outputs back.

All the work is done by `executor.c` inside that shared object; this is the thin side of it that Python sees.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from targets.cpu.machine import available_cores, missing_features
from targets.cpu.program import CODE_SECTION, CpuProgram
from tensorc.errors import UserError
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.profiling import Profile
from tensorc.target import Executable, Progress


class CpuExecutable(Executable):
    """A loaded CPU model with its own pool of `threads` threads.

    A run that finds the pool taken by another goes alone on its caller's thread, in memory of its own, which is kept
    for the next such run. After a fork the child's runs use one thread.
    """

    def __init__(self, manifest: Mapping[str, Any], sections: Mapping[str, memoryview],
                 constants: Sequence[memoryview], threads: int = 0):  # fmt: skip
        """`threads` of 0 means as many as the model was compiled for, by default every core there is.

        Raises UserError if this machine's CPU lacks a feature that the code uses, MemoryError.
        """
        self.program = CpuProgram.from_json(manifest)
        self._kernels = manifest.get("kernels", {})
        missing = missing_features(self.program.features)
        if missing:
            raise UserError(f"the model was compiled for a CPU with {', '.join(missing)}, which this one lacks")
        self.threads = threads or self.program.threads or available_cores()
        self._outputs = [(static_shape(type.shape), numpy_dtype(type.dtype)) for type in self.program.outputs]
        self._library: _Library | None = _Library(sections[CODE_SECTION], constants, self.threads)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._run(inputs, None)

    def run_timed(self, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """The outputs, and the seconds that each step took."""
        seconds = np.zeros(len(self.program.steps))
        return self._run(inputs, seconds.ctypes.data), seconds

    def profile(
        self, inputs: Sequence[np.ndarray], seconds: float, measure_ceilings: bool, progress: Progress
    ) -> Profile:
        from targets.cpu.profile import profile

        return profile(self, self._kernels, inputs, seconds, measure_ceilings, progress)

    def _run(self, inputs: Sequence[np.ndarray], seconds: int | None) -> list[np.ndarray]:
        library = self._library  # held until the run is over, so that `close` cannot take it away
        if library is None:
            raise UserError("the model is closed")
        outputs = [np.empty(shape, dtype) for shape, dtype in self._outputs]
        error = library.run(library.handle, _pointers(inputs), _pointers(outputs), seconds)
        if error:
            raise MemoryError(f"no memory for another run at once: {os.strerror(error)}")
        return outputs

    def close(self) -> None:
        self._library = None


def _pointers(arrays: Sequence[np.ndarray]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*[array.__array_interface__["data"][0] for array in arrays])


class _Library:
    """The shared object and the model opened in it, closed when the last reference goes."""

    def __init__(self, code: memoryview, constants: Sequence[memoryview], threads: int):
        self._constants = [np.frombuffer(constant, np.uint8) for constant in constants]  # keeps the mapping
        self._addresses = _pointers(self._constants)
        with contextlib.ExitStack() as stack:
            library = stack.enter_context(_loaded(code))
            library.tensorc_open.argtypes = [ctypes.c_int, ctypes.c_void_p]
            library.tensorc_open.restype = ctypes.c_void_p
            library.tensorc_close.argtypes = [ctypes.c_void_p]
            library.tensorc_close.restype = None
            library.tensorc_run.argtypes = [ctypes.c_void_p] * 4
            library.tensorc_run.restype = ctypes.c_int
            self.run = library.tensorc_run
            self.handle = library.tensorc_open(threads, self._addresses)
            if not self.handle:
                raise MemoryError(f"no memory, or no {threads} threads, to be had for the model")
            stack.callback(library.tensorc_close, self.handle)
            finalizer = weakref.finalize(self, stack.pop_all().close)
        # At exit the process takes all with it, while a thread may still be running the model.
        finalizer.atexit = False


@contextlib.contextmanager
def _loaded(code: memoryview) -> Iterator[ctypes.CDLL]:
    """The shared object with these bytes, for as long as the block lasts; it never shows on a disk if that can be."""
    in_memory = hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()
    with _memory_file() if in_memory else tempfile.NamedTemporaryFile(prefix="tensorc-", suffix=".so") as file:
        file.write(code)
        file.flush()
        library = ctypes.CDLL(f"/proc/self/fd/{file.fileno()}" if in_memory else file.name)
        # A file in memory stays open while it is loaded: a path seen before stands for the library seen before, so
        # the number in it must not come up again. A file on disk goes at once.
        if not in_memory:
            file.close()
        try:
            yield library
        finally:
            _ctypes.dlclose(library._handle)


def _memory_file() -> BinaryIO:
    return os.fdopen(os.memfd_create("tensorc-model"), "wb")
