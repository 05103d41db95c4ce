"""Mixtures of experts: products of rows by those of several matrices that each row chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.ir.ops.table import Attrs, Kind, register
from tensorc.ir.types import TensorType, widened


def _experts(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    x, which, weights, bias = types
    if which.dtype not in ("int32", "int64"):
        raise TypeError(f"experts are told by int32 or int64, not {which}")
    if not x.dtype == weights.dtype == bias.dtype:
        raise TypeError(f"experts take x, weights and bias of one type, not {x}, {weights} and {bias}")
    if (x.rank, which.rank, weights.rank, bias.rank) != (3, 2, 3, 2):
        raise TypeError(f"experts take [N,M,D], [N,K], [E,D,H] and [E,H], not {', '.join(map(str, types))}")
    (rows, each), (experts, depth, width) = which.shape, weights.shape
    if x.shape not in ((rows, 1, depth), (rows, each, depth)) or bias.shape != (experts, width) or experts == 0:
        raise TypeError(f"{', '.join(map(str, types))} are no operands of the same experts")
    return [x.with_shape((rows, each, width))]


def experts_numpy(x: np.ndarray, which: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    chosen = np.clip(which, 0, len(weights) - 1)
    wide = widened(x)
    made = np.empty((*which.shape, weights.shape[2]), wide.dtype)
    for number, (matrix, summand) in enumerate(zip(widened(weights), widened(bias), strict=True)):
        row, slot = np.nonzero(chosen == number)
        made[row, slot] = wide[row, slot if x.shape[1] > 1 else 0] @ matrix + summand
    return np.asarray(made.astype(x.dtype, copy=False))


register(
    "experts", Kind.ANCHOR, 4, _experts, experts_numpy,
    "x [N,M,D] (M is 1 or K) by those of the matrices weights [E,D,H] that which [N,K] says, and their rows of bias "
    "[E,H] added: [N,K,H]. A number that no matrix has stands for the nearest that one has",
)  # fmt: skip
