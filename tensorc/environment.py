"""Every environment variable that tensorc reads, typed, in one place.

They are for whoever debugs; whatever changes a result is an option or an argument instead.
"""

from __future__ import annotations

import os

TRACEBACK = "TENSORC_TRACEBACK"


def show_traceback() -> bool:
    """TENSORC_TRACEBACK=1: a command that fails prints the Python traceback as well as its one line."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")
