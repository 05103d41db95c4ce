"""How far an approximation is from what it stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Error:
    """`relative_mse`: sum of squared errors over sum of squares; `largest`: the largest absolute error."""

    relative_mse: float
    largest: float

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio, 10 log10(1 / relative_mse), in decibels; infinite where there is no error."""
        return -10 * math.log10(self.relative_mse) if self.relative_mse else math.inf


def measure(exact: np.ndarray, approximation: np.ndarray) -> Error:
    """Of arrays of the same shape, in float64. Without an error all measures are 0, for zeros too."""
    signal, noise = exact.astype(np.float64), approximation.astype(np.float64) - exact.astype(np.float64)
    largest = float(np.abs(noise).max(initial=0.0))
    if not largest:
        return Error(0.0, 0.0)
    # Relative to the largest error: squares of the smallest numbers would vanish.
    with np.errstate(over="ignore"):
        energy = float(np.square(signal / largest).sum())
    return Error(float(np.square(noise / largest).sum()) / energy if energy else math.inf, largest)
