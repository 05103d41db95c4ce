"""Linear algebra beyond products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.ir.ops.table import Attrs, Kind, register
from tensorc.ir.types import TensorType, is_float


def _det(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    (x,) = types
    if x.rank < 2 or x.shape[-1] != x.shape[-2] or not is_float(x.dtype):
        raise TypeError(f"only square matrices of floats have a determinant, not {x}")
    return [x.with_shape(x.shape[:-2])]


def _det_numpy(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.det(x.astype(np.float64)).astype(x.dtype))


register("det", Kind.ANCHOR, 1, _det, _det_numpy, "the determinant of each matrix of [..., n, n]")
