"""Rows cut into blocks that share a scale, and the scale of each.

The last block of a row may be short; it is filled with zeros here and not where it is stored. A scale of a whole row
is a float32, one of a block a bfloat16: float32's range in two bytes. Codes are chosen for the scale as it is stored,
so rounding it costs no accuracy to speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import ml_dtypes
import numpy as np

#: Elements that are worked on at a time.
_CHUNK = 1 << 15
_SMALLEST = np.finfo(np.float32).smallest_normal


def block_count(length: int, block: int | None) -> int:
    return 1 if block is None else -(-length // block)


def cut(rows: np.ndarray, block: int | None) -> np.ndarray:
    """[rows, length] to [rows, blocks, block]."""
    count, length = rows.shape
    if block is None:
        return rows[:, None, :]
    blocks = block_count(length, block)
    if blocks * block == length:
        return rows.reshape(count, blocks, block)
    wide = np.zeros((count, blocks * block), rows.dtype)
    wide[:, :length] = rows
    return wide.reshape(count, blocks, block)


def join(blocks: np.ndarray, length: int) -> np.ndarray:
    """[rows, blocks, block] to [rows, length]."""
    return blocks.reshape(blocks.shape[0], blocks.shape[1] * blocks.shape[2])[:, :length]


def peaks(blocks: np.ndarray) -> np.ndarray:
    """The number of largest magnitude of each block, with its sign; 0 of an empty one. [rows, blocks, 1]"""
    high, low = blocks.max(axis=-1, keepdims=True, initial=0), blocks.min(axis=-1, keepdims=True, initial=0)
    return np.asarray(np.where(high >= -low, high, low))


def scale_type(block: int | None) -> np.dtype:
    return np.dtype(np.float32 if block is None else ml_dtypes.bfloat16)


def scale_bytes(rows: int, length: int, block: int | None) -> int:
    return rows * block_count(length, block) * scale_type(block).itemsize


def rounded(scales: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Scales as they are stored, and as float32. Those below float32's normal numbers are 0: their blocks vanish."""
    limit = float(ml_dtypes.finfo(kind).max)
    kept = np.clip(scales, -limit, limit).astype(kind).astype(np.float32)
    kept[np.abs(kept) < _SMALLEST] = 0
    return np.asarray(kept)


def divide(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """0 where the scale is 0."""
    return np.where(scales == 0, np.float32(0), blocks / np.where(scales == 0, np.float32(1), scales))


def best_scales(
    blocks: np.ndarray, divisors: Sequence[float], nearest: Callable[[np.ndarray], np.ndarray], kind: np.dtype
) -> np.ndarray:
    """Each block's scale of least squared error among its peak over each of `divisors`: float32 [rows, blocks, 1].

    `nearest` gives the values closest to numbers that were divided by their scale. A positive divisor makes a positive
    scale; a negative one a scale of the peak's opposite sign, for codes that reach further on the negative side.
    """
    best = np.empty((*blocks.shape[:2], 1), np.float32)
    for rows in chunks(blocks):
        best[rows] = _best_scales(blocks[rows], divisors, nearest, kind)
    return best


def chunks(blocks: np.ndarray) -> Iterator[slice]:
    """The rows in parts whose intermediate results fit in a core's cache."""
    rows = max(1, _CHUNK // max(1, blocks.shape[1] * blocks.shape[2]))
    return (slice(start, start + rows) for start in range(0, len(blocks), rows))


def _best_scales(
    blocks: np.ndarray, divisors: Sequence[float], nearest: Callable[[np.ndarray], np.ndarray], kind: np.dtype
) -> np.ndarray:
    peak = peaks(blocks)
    size = np.where(peak == 0, np.float32(1), np.abs(peak))
    unit = blocks / size
    best, least = np.zeros_like(peak), np.full_like(peak, np.inf)
    for divisor in divisors:
        scales = rounded((np.abs(peak) if divisor > 0 else peak) / np.float32(divisor), kind)
        relative = scales / size
        error = np.square(unit - nearest(divide(unit, relative)) * relative).sum(axis=-1, keepdims=True)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return best
