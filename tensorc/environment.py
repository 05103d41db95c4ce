"""Every environment variable that tensorc reads, typed, in one place.

They are for whoever debugs; whatever changes a result is an option or an argument instead.
"""

from __future__ import annotations

import os
from pathlib import Path

from tensorc.errors import UserError

TRACEBACK = "TENSORC_TRACEBACK"
EMULATE = "TENSORC_CUDA_EMULATE"


def show_traceback() -> bool:
    """TENSORC_TRACEBACK=1: a command that fails prints the Python traceback as well as its one line."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


def emulates_cuda() -> bool:
    """TENSORC_CUDA_EMULATE=1: what was compiled for cuda runs on the CPU, thread by thread: exactly, and slowly."""
    return os.environ.get(EMULATE, "") not in ("", "0")


def visible_gpus() -> str | None:
    """CUDA_VISIBLE_DEVICES, which the NVIDIA driver reads: the GPUs that it shows. Only told to the user here."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def data_folder() -> Path:
    """Where what took long to learn is kept: `$XDG_DATA_HOME/tensorc`, by default `~/.local/share/tensorc`.

    A relative XDG_DATA_HOME is ignored, as its specification has it. Raises UserError where there is no home.
    """
    return _folder("XDG_DATA_HOME", Path(".local", "share"))


def cache_folder() -> Path:
    """Where what is quickly made again is kept: `$XDG_CACHE_HOME/tensorc`, by default `~/.cache/tensorc`, as above."""
    return _folder("XDG_CACHE_HOME", Path(".cache"))


def _folder(variable: str, default: Path) -> Path:
    chosen = Path(os.environ.get(variable, ""))
    if not chosen.is_absolute():
        try:
            chosen = Path.home() / default
        except RuntimeError as error:
            raise UserError(f"there is no home folder to keep data in: set {variable}") from error
    return chosen / "tensorc"
