"""What a GPU could do at best, from what its driver says of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tensorc.profiling import Ceilings, Level

#: Operations that a multiprocessor does in one clock, an addition and a multiplication being two: in float32, and in
#: products of 16-bit floats by tensor cores, dense, summed in float32. NVIDIA's architecture white papers.
_FLOAT32 = {75: 128, 80: 128, 86: 256, 89: 256, 90: 256, 100: 256, 120: 256}
_HALF = {75: 1024, 80: 2048, 86: 1024, 89: 1024, 90: 4096, 100: 8192, 120: 1024}


@dataclass(frozen=True)
class Facts:
    """A GPU's name, its multiprocessors, their highest clock in Hz, and bytes a second of its memory."""

    name: str
    capability: int
    multiprocessors: int
    clock: float
    bandwidth: float


def ceilings(facts: Facts, dtypes: Iterable[str]) -> Ceilings:
    """For a program with products of these types: those of 16-bit floats where it has any."""
    in_half = any(dtype in ("float16", "bfloat16") for dtype in dtypes)
    table = _HALF if in_half else _FLOAT32
    known = max((number for number in table if number <= facts.capability), default=min(table))
    rate = facts.multiprocessors * facts.clock * table[known]
    memory = Level("memory", math.inf, facts.bandwidth)
    return Ceilings(1, rate, [memory], products="16-bit floats" if in_half else "float32")
