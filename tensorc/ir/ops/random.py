"""Random numbers: a function of a seed and of an element's position, the same in every run.

A compiled model has no state, so that random elements are what their seed makes of them: what is needed is only that
they look like noise, that other seeds give other noise, and that any element can be computed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType

_LOW = (1 << 32) - 1
#: The multipliers of a 32-bit finalizer (lowbias32, found by C. Wellons' search for weak bias), as signed numbers:
#: products with numbers below 2^32 stay inside int64, and their low halves are what unsigned ones would be.
MULTIPLIERS = (0x21F0AAAD, 0xD35A2D97 - (1 << 32))
SHIFTS = (16, 15, 15)


def keys_of(seed: int) -> tuple[int, int]:
    """Two 32-bit numbers that are mixed with positions: what a seed comes to."""
    first, second = np.random.SeedSequence(seed).generate_state(2)
    return int(first), int(second)


def mix(x: np.ndarray) -> np.ndarray:
    """32-bit numbers, held in int64, to others one to one, such that every bit depends on all."""
    for multiplier, shift in zip(MULTIPLIERS, SHIFTS, strict=False):
        x = ((x ^ (x >> shift)) * multiplier) & _LOW
    return np.asarray(x ^ (x >> SHIFTS[-1]))


def _random(_types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    if attrs["seed"] < 0:
        raise TypeError(f"a seed is not negative, as {attrs['seed']} is")
    return [TensorType("float32", tuple(attrs["shape"]))]


def _random_numpy(shape: Sequence[int], seed: int) -> np.ndarray:
    first, second = keys_of(seed)
    position = np.arange(int(np.prod(shape)), dtype=np.int64)
    bits = mix(mix(position ^ first) ^ second)
    return ((bits >> 8).astype(np.float32) * np.float32(2.0**-24)).reshape(tuple(shape))


register(
    "random", Kind.INJECTIVE, 0, _random, _random_numpy,
    "float32 numbers in [0, 1), spread evenly: multiples of 2^-24", shape=REQUIRED, seed=REQUIRED,
)  # fmt: skip
