"""Block floating point: blocks of integers ("mantissas") that share an exponent, x = q * 2**e.

q has b bits with its sign, -(2**(b-1) - 1) .. 2**(b-1) - 1; e is the largest exponent with which the block's peak has
b - 1 significant bits, or one more where that has the smaller squared error (the peak could be rounded past the
largest q and is cut off there). The exponent takes a byte for each block. With b = 8 and blocks of 32 this is also
MXINT8 of the OCP Microscaling specification.

Source: Trukhanov and Soloveychik, "Accurate Block Quantization in LLMs with Outliers" (2024); its rearrangement of
channels is in `rearranged`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorc.formats import bits, blocks, exponents
from tensorc.formats.base import Format, Parts


@dataclass(frozen=True)
class BlockFloat(Format):
    width: int
    size_of_block: int

    @property
    def name(self) -> str:
        return f"bfp{self.width}-b{self.size_of_block}"

    @property
    def summary(self) -> str:
        return f"block floating point: {self.width}-bit mantissas, an exponent for each {self.size_of_block}"

    @property
    def block(self) -> int:
        return self.size_of_block

    @property
    def _top(self) -> int:
        return (1 << (self.width - 1)) - 1

    def encode(self, rows: np.ndarray) -> Parts:
        cut = blocks.cut(rows, self.block)
        peak = np.abs(blocks.peaks(cut))
        finest = exponents.limited(exponents.floor_log2(peak) - (self.width - 2))
        fine, coarse = self._with(cut, peak, finest), self._with(cut, peak, exponents.limited(finest + 1))
        coarser = coarse[1] < fine[1]
        codes = np.where(coarser, coarse[0], fine[0]) + (self._top + 1)
        return {
            "codes": bits.pack(blocks.join(codes.astype(np.uint8), rows.shape[1]), self.width),
            "scales": exponents.stored(finest + coarser)[..., 0],
        }

    def decode(self, parts: Parts, length: int) -> np.ndarray:
        codes = blocks.cut(bits.unpack(parts["codes"], self.width, length), self.block)
        mantissas = codes.astype(np.float32) - np.float32(self._top + 1)
        return blocks.join(np.ldexp(mantissas, exponents.read(parts["scales"])[..., None]), length)

    def size(self, rows: int, length: int) -> int:
        return rows * (bits.packed_bytes(length, self.width) + blocks.block_count(length, self.block))

    def _with(self, cut: np.ndarray, peak: np.ndarray, exponent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes of each block with this exponent, and their squared error in units of its peak."""
        steps = np.ldexp(cut, -exponent)
        codes = np.clip(np.rint(steps), -self._top, self._top)
        unit = np.where(peak == 0, np.float32(1), np.ldexp(peak, -exponent))
        return codes, np.square((steps - codes) / unit).sum(axis=-1, keepdims=True)
