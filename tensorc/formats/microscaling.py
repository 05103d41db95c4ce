"""MXFP8, MXFP6 and MXFP4: small floats in blocks of 32 that share a power of two, x = p * 2**e.

e = floor(log2(max|x| of the block)) - the element type's largest exponent, limited to -127 .. 127, in a byte (E8M0);
p is x / 2**e rounded to the nearest element, ties to even. The peak can lie past the largest element and is that
then.

Source: OCP "Microscaling Formats (MX) Specification" 1.0, sections 5 and 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorc.formats import bits, blocks, exponents
from tensorc.formats.base import Format, Parts
from tensorc.formats.elements import E2M1, E2M3, E4M3, Element

BLOCK = 32
#: The element type that the name means which does not tell.
_USUAL = (E4M3, E2M3, E2M1)


@dataclass(frozen=True)
class Microscaling(Format):
    element: Element

    @property
    def name(self) -> str:
        return f"mxfp{self.element.width}{'' if self.element in _USUAL else f'-{self.element.name}'}"

    @property
    def summary(self) -> str:
        return f"microscaling: {self.element.name.upper()} floats, a power of two for each {BLOCK}"

    @property
    def block(self) -> int:
        return BLOCK

    def encode(self, rows: np.ndarray) -> Parts:
        cut = blocks.cut(rows, BLOCK)
        peak = np.abs(blocks.peaks(cut))
        exponent = exponents.limited(exponents.floor_log2(peak) - self.element.largest_exponent)
        codes = self.element.encode(np.ldexp(cut, -exponent))
        return {
            "codes": bits.pack(blocks.join(codes, rows.shape[1]), self.element.width),
            "scales": exponents.stored(exponent)[..., 0],
        }

    def decode(self, parts: Parts, length: int) -> np.ndarray:
        codes = blocks.cut(bits.unpack(parts["codes"], self.element.width, length), BLOCK)
        return blocks.join(np.ldexp(self.element.decode(codes), exponents.read(parts["scales"])[..., None]), length)

    def size(self, rows: int, length: int) -> int:
        return rows * (bits.packed_bytes(length, self.element.width) + blocks.block_count(length, BLOCK))
