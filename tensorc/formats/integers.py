"""Integers of 2 to 8 bits with a scale for each group along the reduction axis, or for each row.

Symmetric: x = q * scale, q in -2**(b-1) .. 2**(b-1) - 1. Eight bits take scale = max|x| / 127. Below, the scale is
the one of least squared error among max|x| / (2**(b-1) - 1), where nothing is cut off, and f * max|x| / 2**(b-1) for
shrinking f, with such a sign that the largest magnitude falls on the side with one code more: with few codes, cutting
off the largest costs less than coarse steps for all others.

Asymmetric: x = (q - zero) * scale, q in 0 .. 2**b - 1; the range of the group, 0 included, shrunk by the f of least
squared error. As the zero point is rounded, quantizing what was dequantized can move values by a step.

Source: Nagel et al., "A White Paper on Neural Network Quantization" (2021), sections 2.2 and 3.1; the signed scale is
that of llama.cpp's Q4_0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorc.formats import bits, blocks
from tensorc.formats.base import Format, Parts

#: How much of the range is kept, from all of it down to an eighth.
KEPT = tuple(0.86**k for k in range(15))


@dataclass(frozen=True)
class Integers(Format):
    width: int
    group: int | None = None
    symmetric: bool = True

    @property
    def name(self) -> str:
        group = "" if self.group is None else f"-g{self.group}"
        return f"int{self.width}{group}{'' if self.symmetric else '-asym'}"

    @property
    def summary(self) -> str:
        scale = "scale" if self.symmetric else "scale and zero point"
        return f"{self.width}-bit integers, a {scale} for each {f'{self.group}' if self.group else 'row'}"

    @property
    def block(self) -> int | None:
        return self.group

    @property
    def _half(self) -> int:
        return 1 << (self.width - 1)

    def encode(self, rows: np.ndarray) -> Parts:
        cut = blocks.cut(rows, self.group)
        return self._symmetric(cut, rows.shape[1]) if self.symmetric else self._asymmetric(cut, rows.shape[1])

    def decode(self, parts: Parts, length: int) -> np.ndarray:
        codes = blocks.cut(bits.unpack(parts["codes"], self.width, length), self.group)
        scales = parts["scales"].astype(np.float32)[..., None]
        if self.symmetric:
            zeros = np.array(self._half, np.int16)
        else:
            zeros = bits.unpack(parts["zeros"], self.width, scales.shape[1])[..., None].astype(np.int16)
        return blocks.join((codes.astype(np.int16) - zeros).astype(np.float32) * scales, length)

    def size(self, rows: int, length: int) -> int:
        zeros = 0 if self.symmetric else bits.packed_bytes(blocks.block_count(length, self.group), self.width)
        codes = bits.packed_bytes(length, self.width)
        return rows * (codes + zeros) + blocks.scale_bytes(rows, length, self.group)

    def _symmetric(self, cut: np.ndarray, length: int) -> Parts:
        scales = self._scales(cut)
        codes = self.nearest(blocks.divide(cut, scales)) + self._half
        return self._parts(codes, scales.astype(blocks.scale_type(self.group))[..., 0], length)

    def _scales(self, cut: np.ndarray) -> np.ndarray:
        # With eight bits there is nothing to win, and a scale that is positive suits every kernel.
        divisors = [self._half - 1.0, *(-self._half / kept for kept in KEPT if self.width < 8)]
        return blocks.best_scales(cut, divisors, self.nearest, blocks.scale_type(self.group))

    def scales(self, rows: np.ndarray) -> np.ndarray:
        """Of symmetric integers: those that `encode` takes, float32 [rows, groups]."""
        return self._scales(blocks.cut(rows, self.group))[..., 0]

    def nearest(self, steps: np.ndarray) -> np.ndarray:
        """Of symmetric integers: numbers that were divided by their scale to those that there are."""
        return np.asarray(np.clip(np.rint(steps), -self._half, self._half - 1))

    def parts(self, codes: np.ndarray, scales: np.ndarray) -> Parts:
        """What `encode` gives: symmetric integers [rows, length] and the scales [rows, groups] of theirs."""
        cut = blocks.cut(codes + self._half, self.group)
        return self._parts(cut, scales.astype(blocks.scale_type(self.group)), codes.shape[1])

    def _asymmetric(self, cut: np.ndarray, length: int) -> Parts:
        kind = blocks.scale_type(self.group)
        scales = np.empty((*cut.shape[:2], 1), np.float32)
        zeros = np.empty_like(scales)
        for rows in blocks.chunks(cut):
            scales[rows], zeros[rows] = self._best_range(cut[rows], kind)
        codes = np.clip(np.rint(blocks.divide(cut, scales)) + zeros, 0, self._top)
        packed = bits.pack(zeros[..., 0].astype(np.uint8), self.width)
        return {**self._parts(codes, scales.astype(kind)[..., 0], length), "zeros": packed}

    @property
    def _top(self) -> np.float32:
        return np.float32(2**self.width - 1)

    def _best_range(self, cut: np.ndarray, kind: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points of the blocks: float32 [rows, blocks, 1]."""
        top = self._top
        low = cut.min(axis=-1, keepdims=True, initial=0)
        high = cut.max(axis=-1, keepdims=True, initial=0)
        size = np.maximum(high, -low)
        size = np.where(size == 0, np.float32(1), size)
        scales, zeros, least = np.zeros_like(low), np.zeros_like(low), np.full_like(low, np.inf)
        for kept in KEPT if self.width < 8 else (1.0,):
            candidate = blocks.rounded((high / top - low / top) * np.float32(kept), kind)
            offset = np.clip(np.rint(blocks.divide(-low * np.float32(kept), candidate)), 0, top)
            codes = np.clip(np.rint(blocks.divide(cut, candidate)) + offset, 0, top)
            error = np.square(cut / size - (codes - offset) * (candidate / size)).sum(axis=-1, keepdims=True)
            better = error < least
            scales, zeros = np.where(better, candidate, scales), np.where(better, offset, zeros)
            least = np.minimum(error, least)
        return scales, zeros

    def _parts(self, codes: np.ndarray, scales: np.ndarray, length: int) -> dict[str, np.ndarray]:
        return {"codes": bits.pack(blocks.join(codes.astype(np.uint8), length), self.width), "scales": scales}
