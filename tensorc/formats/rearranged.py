"""Blocks of channels that are alike: the reduction axis is permuted before it is cut into blocks.

Outliers lie in the same few channels in all rows. Spread over many blocks they spoil the scale of each; sorted by
magnitude they share a few blocks, and all others keep fine steps. One permutation serves all rows. It costs nothing
when a model runs: sum_k x[k] w[k] does not change when x and w are permuted alike, so the compiler permutes the
columns of whatever produces x (`inverse` undoes it where somebody reads the order), and the same holds for queries
and the cache of keys.

Source: Trukhanov and Soloveychik, "Accurate Block Quantization in LLMs with Outliers" (2024), which sorts by the
norms of channels. Here the order as it is, the order by root mean square and that by largest magnitude are tried and
the one of least squared error stays, so rearranging never makes an array worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorc.errors import UserError
from tensorc.formats.base import Encoded, Format, Parts, as_rows
from tensorc.formats.measures import measure

_INDEX = np.dtype(np.int32)


@dataclass(frozen=True)
class Rearranged(Format):
    """Any format with blocks; `parts` are its own, of the permuted array, and `permutation`.

    Element i of the permuted axis is element permutation[i] of the array's.
    """

    inner: Format

    @property
    def name(self) -> str:
        return f"{self.inner.name}-rearranged"

    @property
    def summary(self) -> str:
        return f"{self.inner.summary}; channels sorted by magnitude"

    @property
    def block(self) -> int | None:
        return self.inner.block

    def encode(self, rows: np.ndarray) -> Parts:
        best = None
        for permutation in orders(rows):
            permuted = _permuted(rows, permutation)
            parts = self.inner.encode(permuted)
            error = measure(permuted, self.inner.decode_finite(parts, rows.shape[1])).relative_mse
            if best is None or error < best[0]:
                best = error, parts, permutation
        assert best is not None
        return {**best[1], "permutation": best[2].astype(_INDEX)}

    def decode(self, parts: Parts, length: int) -> np.ndarray:
        return self.inner.decode(parts, length)[:, inverse(parts["permutation"])]

    def size(self, rows: int, length: int) -> int:
        return self.inner.size(rows, length) + length * _INDEX.itemsize

    def quantize_as(self, array: np.ndarray, permutation: np.ndarray, axis: int = -1) -> Encoded:
        """With a permutation that was found before: for values that come later, as those of a cache."""
        array = np.asarray(array)
        rows, axis = as_rows(array, axis)
        if not np.array_equal(np.sort(permutation), np.arange(rows.shape[1])):
            raise UserError(f"a permutation of {rows.shape[1]} channels holds each of 0 to {rows.shape[1] - 1} once")
        parts = self.inner.encode(_permuted(rows, permutation))
        return Encoded(self, array.shape, axis, {**parts, "permutation": np.asarray(permutation, _INDEX)})


def orders(rows: np.ndarray) -> list[np.ndarray]:
    """The permutations of the last axis of [rows, length] worth a try; the first one changes nothing."""
    magnitudes = np.abs(rows)
    largest = magnitudes.max(axis=0, initial=0)
    size = np.where(largest == 0, np.float32(1), largest)
    mean_square = np.square(magnitudes / size).sum(axis=0, dtype=np.float64)
    # Stable, so that the same data give the same order everywhere.
    return [
        np.arange(rows.shape[1]),
        np.argsort(-largest * np.sqrt(mean_square), kind="stable"),
        np.argsort(-largest, kind="stable"),
    ]


def _permuted(rows: np.ndarray, permutation: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows[:, permutation])


def inverse(permutation: np.ndarray) -> np.ndarray:
    """array[..., permutation][..., inverse(permutation)] is the array."""
    undone = np.empty_like(permutation)
    undone[permutation] = np.arange(len(permutation), dtype=permutation.dtype)
    return undone
