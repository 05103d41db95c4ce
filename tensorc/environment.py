"""Every environment variable that tensorc reads, typed, in one place.

They are for whoever debugs; whatever changes a result is an option or an argument instead.
"""

from __future__ import annotations

import os
from pathlib import Path

TRACEBACK = "TENSORC_TRACEBACK"


def show_traceback() -> bool:
    """TENSORC_TRACEBACK=1: a command that fails prints the Python traceback as well as its one line."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


def cache_folder() -> Path:
    """Where what can be measured or built again is kept: $XDG_CACHE_HOME/tensorc, by default ~/.cache/tensorc."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tensorc"


def data_folder() -> Path:
    """Where what took long to learn is kept: $XDG_DATA_HOME/tensorc, by default ~/.local/share/tensorc."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "tensorc"
