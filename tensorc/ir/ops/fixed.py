"""Fixed-point numbers: floats that are whole multiples of a power of two, so that their sums and products are exact.

A tensor of them has type float64; `tensorc.fixed_point` tells the grid that its numbers lie on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType

#: Sums of more bits are not exact in float64.
MOST_BITS = 53


def fixed_limits(width: int, signed: int) -> tuple[int, int]:
    """The least and the greatest integer of so many bits."""
    return (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)


def _fix(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    if x.dtype != "float64":
        raise TypeError(f"fixed-point numbers are held in float64, not {x.dtype}")
    if not 1 <= attrs["width"] <= MOST_BITS:
        raise TypeError(f"a fixed-point number has 1 to {MOST_BITS} bits, not {attrs['width']}")
    return [x]


def _receive(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """Whole numbers stay of their type: they say which, not how much."""
    if types[0].dtype in ("int32", "int64") and attrs["fraction"] == 0:
        return list(types)
    return _fix(types, attrs)


def _receive_numpy(x: np.ndarray, width: int, fraction: int, signed: int) -> np.ndarray:
    return fix_numpy(x, width, fraction, signed).astype(x.dtype)


def fix_numpy(x: np.ndarray, width: int, fraction: int, signed: int) -> np.ndarray:
    """The nearest number with `fraction` bits behind the point, half of the last one rounded up; the nearest of those
    that fit into `width` bits. Zero for what is no number."""
    low, high = fixed_limits(width, signed)
    raw = np.clip(np.floor(np.nan_to_num(np.asarray(x, np.float64), nan=0.0) * 2.0**fraction + 0.5), low, high)
    return np.asarray(raw * 2.0**-fraction)


def _lookup(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    x, table = types
    if x.dtype != "float64" or table.dtype != "float64" or table.rank != 1:
        raise TypeError(f"lookup takes float64 and a table of them, not {x} and {table}")
    return [x]


def _lookup_numpy(x: np.ndarray, table: np.ndarray, fraction: int, first: int) -> np.ndarray:
    return np.asarray(table[(x * 2.0**fraction).astype(np.int64) - first])


def interpolate_numpy(x: np.ndarray, table: np.ndarray, fraction: int, first: int, step: int) -> np.ndarray:
    """On the straight line between the entries on both sides of x; exact, with `step` bits more than entries have."""
    raw = (x * 2.0**fraction).astype(np.int64) - first
    piece = raw >> step
    along = (raw - (piece << step)) * 2.0**-step
    return np.asarray(table[piece] + (table[piece + 1] - table[piece]) * along)


register(
    "fix", Kind.ELEMENTWISE, 1, _fix, fix_numpy,
    "the nearest fixed-point number of `width` bits, `fraction` of them behind the point; half is rounded up",
    width=REQUIRED, fraction=REQUIRED, signed=1,
)  # fmt: skip
register(
    "receive", Kind.OPAQUE, 1, _receive, _receive_numpy,
    "as `fix`, done by whoever sends an input: hardware gets integers",
    width=REQUIRED, fraction=REQUIRED, signed=1,
)  # fmt: skip
register(
    "lookup", Kind.ELEMENTWISE, 2, _lookup, _lookup_numpy,
    "inputs x and a table, whose first entry is for x of first / 2^fraction, the next for one more of that step",
    fraction=REQUIRED, first=REQUIRED,
)  # fmt: skip
register(
    "interpolate", Kind.ELEMENTWISE, 2, _lookup, interpolate_numpy,
    "inputs x and a table, whose first entry is for x of first / 2^fraction, the next for 2^step more of that; between "
    "them lie straight lines",
    fraction=REQUIRED, first=REQUIRED, step=REQUIRED,
)  # fmt: skip
