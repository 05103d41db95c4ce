"""Powers of two as scales, in a byte: E8M0 of the OCP Microscaling specification, 2**(byte - 127).

254 is the largest; 255 would be nan and is never written.
"""

from __future__ import annotations

import numpy as np

BIAS = 127


def floor_log2(peak: np.ndarray) -> np.ndarray:
    """The exponent of each magnitude as int32, exactly; of 0 one below all others."""
    _, exponent = np.frexp(peak)
    return np.where(peak == 0, -BIAS * 2, exponent - 1).astype(np.int32)


def limited(exponents: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(exponents, -BIAS, BIAS))


def stored(exponents: np.ndarray) -> np.ndarray:
    return (exponents + BIAS).astype(np.uint8)


def read(stored_exponents: np.ndarray) -> np.ndarray:
    return stored_exponents.astype(np.int32) - BIAS
