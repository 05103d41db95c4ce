"""Floats of 4, 6 and 8 bits as codes: rounding to the nearest, ties to even, what is too large to the largest.

Source: OCP "8-bit Floating Point Specification" (OFP8) and "Microscaling Formats (MX) Specification" 1.0, section
5.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Element:
    """`exponents` and `mantissas` are the bits of each; with the sign they fill the code."""

    dtype: type
    exponents: int
    mantissas: int

    @property
    def name(self) -> str:
        return f"e{self.exponents}m{self.mantissas}"

    @property
    def width(self) -> int:
        return 1 + self.exponents + self.mantissas

    @cached_property
    def largest(self) -> np.float32:
        return np.float32(ml_dtypes.finfo(self.dtype).max)

    @cached_property
    def largest_exponent(self) -> int:
        """floor(log2(largest))"""
        return int(np.frexp(self.largest)[1]) - 1

    @cached_property
    def _values(self) -> np.ndarray:
        return np.arange(2**self.width, dtype=np.uint8).view(self.dtype).astype(np.float32)

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """float32 numbers to uint8 codes."""
        return np.asarray(np.clip(numbers, -self.largest, self.largest).astype(self.dtype).view(np.uint8))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.asarray(self._values[codes])


E4M3 = Element(ml_dtypes.float8_e4m3fn, 4, 3)
E5M2 = Element(ml_dtypes.float8_e5m2, 5, 2)
E2M3 = Element(ml_dtypes.float6_e2m3fn, 2, 3)
E3M2 = Element(ml_dtypes.float6_e3m2fn, 3, 2)
E2M1 = Element(ml_dtypes.float4_e2m1fn, 2, 1)
#: By name.
ELEMENTS = {element.name: element for element in (E4M3, E5M2, E2M3, E3M2, E2M1)}
