"""search.c as functions of this process: compiled once by the system's C compiler, then kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from tensorc.environment import cache_folder
from tensorc.errors import UserError
from tensorc.toolchain import find_compiler, first_error

_SOURCE = Path(__file__).with_name("search.c")
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared")

_INT, _LONG, _REAL, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Taste(ctypes.Structure):
    """`tensorc_taste` of search.c: what is tried first."""

    _fields_ = (("critical", _INT), ("flush", _REAL), ("level", _REAL), ("pressure", _REAL))


@functools.cache
def library() -> ctypes.CDLL:
    """Compiles in half a second where the cache has nothing. Raises UserError where there is no C compiler,
    RuntimeError with its first error if it fails."""
    command = [*find_compiler("exact memory planning"), *_FLAGS]
    key = hashlib.sha256(repr((command, _machine())).encode() + _SOURCE.read_bytes()).hexdigest()[:24]
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        loaded = _load(folder / f"search-{key}.so", command)
    except (OSError, UserError):  # a home that cannot be written to, or holds a damaged file
        with tempfile.TemporaryDirectory(prefix="tensorc-") as name:
            loaded = _load(Path(name, "search.so"), command)
    loaded.tensorc_search.restype = _INT
    loaded.tensorc_search.argtypes = [
        *[_INT] * 3, *[_POINTER] * 4, ctypes.POINTER(Taste), *[_POINTER] * 2, _LONG, _REAL, *[_POINTER] * 2,
    ]  # fmt: skip
    return loaded


def _load(path: Path, command: list[str]) -> ctypes.CDLL:
    if not path.exists():
        handle, name = tempfile.mkstemp(prefix="search-", suffix=".so", dir=path.parent)
        os.close(handle)
        try:
            done = subprocess.run(
                [*command, "-o", name, str(_SOURCE), "-lm"], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{command[0]} failed to compile {_SOURCE.name}: {first_error(done.stderr)}")
            Path(name).replace(path)  # whole or not at all: others may be doing the same
        finally:
            Path(name).unlink(missing_ok=True)
    return ctypes.CDLL(str(path))


def _machine() -> str:
    """What -march=native depends on: homes may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")
