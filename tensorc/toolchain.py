"""The system's tools: the C compiler, which links models and compiles our own inner loops, and tools found by name."""

from __future__ import annotations

import os
import shlex
import shutil

from tensorc.errors import UserError

#: The environment variable that names the C compiler, with arguments if need be.
COMPILER_VARIABLE = "CC"
_COMPILERS = ("cc", "gcc", "clang")


def find_compiler(purpose: str = "the cpu target") -> list[str]:
    """The command of the C compiler: `CC` if it is set, else the first that is on the path.

    Raises UserError where there is none, saying that `purpose` needs it.
    """
    chosen = shlex.split(os.environ.get(COMPILER_VARIABLE, ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise UserError(f"{COMPILER_VARIABLE} names {chosen[0]!r}, which is not on the path")
        return chosen
    found = [name for name in _COMPILERS if shutil.which(name)]
    if not found:
        raise UserError(
            f"{purpose} needs a C compiler and none of {', '.join(_COMPILERS)} is on the path: "
            f"install gcc or clang (on Debian, the package gcc), or name one in {COMPILER_VARIABLE}"
        )
    return found[:1]


def find_tool(name: str, purpose: str) -> str:
    """The path of a tool whose Debian package has its name; raises UserError, saying that `purpose` needs it."""
    path = shutil.which(name)
    if path is None:
        raise UserError(
            f"{purpose} needs {name}, which is not on the path: install it (on Debian and Ubuntu: apt install {name})"
        )
    return path


def first_error(text: str) -> str:
    """The line of a compiler's output that tells most."""
    lines = text.strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if "error" in line or "undefined" in line), lines[0])
