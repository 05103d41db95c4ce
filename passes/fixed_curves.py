"""Functions of one fixed-point number that has too many values for a table: pieces of straight lines between entries.

With a step of h between entries the line is off by h^2 / 8 max |f''| at most. What is off here is not estimated but
measured: at every value that the operand can have, or at 2^16 of them, with entries rounded as they will be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tensorc.fixed_point import Grid
from tensorc.ir.ops.fixed import fix_numpy, interpolate_numpy

#: A function of numbers, not of raw integers.
Function = Callable[[np.ndarray], np.ndarray]
#: Bits of entries behind those of the result: their rounding is an eighth of a step then.
_FINER = 2
_MOST_VALUES = 1 << 16


@dataclass(frozen=True)
class Curve:
    """Entries 2^`step` values of the operand apart, the first for `first`; `error` is the greatest that was found.

    With `bent` they are those of the even function f(x) - relu(x), for |x| up to the last value that they are for; what
    lies behind counts as that.
    """

    table: np.ndarray
    fraction: int
    first: int
    step: int
    error: float
    bent: bool = False

    @property
    def last(self) -> int:
        """The greatest raw operand."""
        return self.first + ((len(self.table) - 1) << self.step) - 1

    @property
    def attrs(self) -> dict[str, int]:
        return {"fraction": self.fraction, "first": self.first, "step": self.step}

    def of(self, raw: np.ndarray) -> np.ndarray:
        if not self.bent:
            return interpolate_numpy(raw * 2.0**-self.fraction, self.table, **self.attrs)
        near = np.minimum(np.abs(raw), self.last)
        rest = interpolate_numpy(near * 2.0**-self.fraction, self.table, **self.attrs)
        return np.asarray(np.maximum(raw, 0) * 2.0**-self.fraction + rest)


def fit(function: Function, x: Grid, result: Grid, most: int) -> Curve:
    """The curve with the fewest entries that is off by half a step of `result` at most, or the nearest of `most`
    entries; `result` is what the function is rounded to in the end."""
    values = sample(x)
    exact = saturated(function, result)
    direct = _best(function, values, exact(values * 2.0**-x.fraction), x.low, x, result, most)
    bent = _bent(function, values, x, result, most)
    half = 2.0 ** -(result.fraction + 1)
    found = [curve for curve in (direct, bent) if curve is not None]
    return min(found, key=lambda curve: (max(curve.error, half), len(curve.table)))


def sample(x: Grid) -> np.ndarray:
    """Raw values, all or many."""
    count = x.high - x.low + 1
    return np.unique(np.linspace(x.low, x.high, min(count, _MOST_VALUES)).round().astype(np.int64))


def saturated(function: Function, result: Grid) -> Function:
    """As the result's grid can have it."""
    low, high = result.low * 2.0**-result.fraction, result.high * 2.0**-result.fraction
    return lambda x: np.clip(np.nan_to_num(function(x), nan=0.0), low, high)


def _best(
    function: Function, values: np.ndarray, exact: np.ndarray, first: int, x: Grid, result: Grid, most: int,
    last: int | None = None,
) -> Curve:  # fmt: skip
    """The coarsest that is near enough, else the finest that there may be. `last` is set where it is bent."""
    half = 2.0 ** -(result.fraction + 1)
    reach = (x.high if last is None else last) - first + 1
    finest = max(math.ceil(math.log2(reach / most)), 0)
    entry = function if last is not None else saturated(function, result)
    for step in range(max(reach.bit_length() - 2, finest), finest - 1, -1):
        ends = first + (np.arange(-(-reach // (1 << step)) + 1) << step)
        table = fix_numpy(entry(ends * 2.0**-x.fraction), result.bits + 2 * _FINER, result.fraction + _FINER, 1)
        curve = Curve(table, x.fraction, first, step, math.inf, last is not None)
        curve = replace(curve, error=float(np.abs(curve.of(values) - exact).max()))
        if curve.error <= half:
            break
    return curve


def _bent(function: Function, values: np.ndarray, x: Grid, result: Grid, most: int) -> Curve | None:
    """Of functions that are relu(x) and a bend at 0: gelu, silu, softplus."""
    if x.low >= 0:
        return None

    def rest(at: np.ndarray) -> np.ndarray:
        return np.asarray(function(at) - np.maximum(at, 0))

    side = np.arange(max(x.high, -x.low) + 1) if max(x.high, -x.low) < _MOST_VALUES else np.unique(np.abs(values))
    at = side * 2.0**-x.fraction
    positive, negative = rest(at), rest(-at)
    eighth = 2.0 ** -(result.fraction + 3)
    if not np.isfinite(positive).all() or np.abs(positive - negative).max() > eighth / 8:
        return None
    matters = side[np.abs(positive) > eighth]
    last = int(matters.max(initial=0)) + 1
    exact = saturated(function, result)(values * 2.0**-x.fraction)
    return _best(rest, values, exact, 0, x, result, most, last)
