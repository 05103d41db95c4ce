"""search.c as functions of this process."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from tensorc.native import compiled

_SOURCE = Path(__file__).with_name("search.c")

_INT, _LONG, _REAL, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Taste(ctypes.Structure):
    """`tensorc_taste` of search.c: what is tried first."""

    _fields_ = (("critical", _INT), ("flush", _REAL), ("level", _REAL), ("pressure", _REAL))


@functools.cache
def library() -> ctypes.CDLL:
    """Raises UserError where there is no C compiler, RuntimeError with its first error if it fails."""
    loaded = compiled(_SOURCE, "exact memory planning")
    loaded.tensorc_search.restype = _INT
    loaded.tensorc_search.argtypes = [
        *[_INT] * 3, *[_POINTER] * 4, ctypes.POINTER(Taste), *[_POINTER] * 2, _LONG, _REAL, *[_POINTER] * 2,
    ]  # fmt: skip
    return loaded
