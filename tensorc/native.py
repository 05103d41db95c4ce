"""Inner loops in C as functions of this process: compiled once by the system's C compiler, kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from tensorc.environment import cache_folder
from tensorc.errors import UserError
from tensorc.toolchain import find_compiler, first_error

_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared")


def compiled(source: Path, purpose: str) -> ctypes.CDLL:
    """The functions of a C file; compiles in half a second where the cache has nothing.

    Raises UserError where there is no C compiler, saying that `purpose` needs it, RuntimeError with its first error if
    it fails.
    """
    command = [*find_compiler(purpose), *_FLAGS]
    key = hashlib.sha256(repr((command, _machine())).encode() + source.read_bytes()).hexdigest()[:24]
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return _load(source, folder / f"{source.stem}-{key}.so", command)
    except (OSError, UserError):  # a home that cannot be written to, or holds a damaged file
        with tempfile.TemporaryDirectory(prefix="tensorc-") as name:
            return _load(source, Path(name, f"{source.stem}.so"), command)


def _load(source: Path, path: Path, command: list[str]) -> ctypes.CDLL:
    if not path.exists():
        handle, name = tempfile.mkstemp(prefix=f"{source.stem}-", suffix=".so", dir=path.parent)
        os.close(handle)
        try:
            done = subprocess.run(
                [*command, "-o", name, str(source), "-lm"], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{command[0]} failed to compile {source.name}: {first_error(done.stderr)}")
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
