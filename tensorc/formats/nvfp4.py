"""NVFP4: E2M1 floats in blocks of 16 with an E4M3 scale, and a float32 scale of the whole tensor, x = p * s * t.

t = max|x| / (6 * 448), so that the largest scale is 448, E4M3's largest number; s = max|x of the block| / (6 t),
rounded to E4M3; p = x / (s t) rounded to E2M1, ties to even, limited to +-6. A block whose scale rounds to 0
vanishes.

Source: NVIDIA, "Introducing NVFP4 for Efficient and Accurate Low-Precision Inference" (2025), and "Pretraining Large
Language Models with NVFP4" (2025), appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorc.formats import bits, blocks
from tensorc.formats.base import Format, Parts
from tensorc.formats.elements import E2M1, E4M3

BLOCK = 16
_SMALLEST = np.finfo(np.float32).smallest_normal


@dataclass(frozen=True)
class NvFp4(Format):
    @property
    def name(self) -> str:
        return "nvfp4"

    @property
    def summary(self) -> str:
        return f"E2M1 floats, an E4M3 scale for each {BLOCK}, a float32 scale for the tensor"

    @property
    def block(self) -> int:
        return BLOCK

    def encode(self, rows: np.ndarray) -> Parts:
        cut = blocks.cut(rows, BLOCK)
        peak = np.abs(blocks.peaks(cut))
        tensor = np.maximum(peak.max(initial=0) / (E2M1.largest * E4M3.largest), _SMALLEST)
        scales = E4M3.encode(peak / E2M1.largest / tensor)
        codes = E2M1.encode(blocks.divide(cut, E4M3.decode(scales) * tensor))
        return {
            "codes": bits.pack(blocks.join(codes, rows.shape[1]), E2M1.width),
            "scales": scales[..., 0],
            "tensor_scale": np.full(1, tensor, np.float32),
        }

    def decode(self, parts: Parts, length: int) -> np.ndarray:
        codes = blocks.cut(bits.unpack(parts["codes"], E2M1.width, length), BLOCK)
        scales = E4M3.decode(parts["scales"])[..., None] * parts["tensor_scale"]
        return blocks.join(E2M1.decode(codes) * scales, length)

    def size(self, rows: int, length: int) -> int:
        return rows * (bits.packed_bytes(length, E2M1.width) + blocks.block_count(length, BLOCK)) + 4
