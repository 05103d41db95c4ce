"""Operators that find elements by their order, and the one that puts elements where indices say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tensorc.ir.dims import Dim
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType

#: How `scatter` joins an update with the element that it meets.
SCATTER_REDUCTIONS = ("none", "add", "mul", "max", "min")


def _check_axis(axis: int, x: TensorType) -> None:
    if not 0 <= axis < x.rank:
        raise TypeError(f"axis {axis} is not an axis of {x}")


def _arg(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    axis = attrs["axis"]
    _check_axis(axis, x)
    if x.shape[axis] == 0:
        raise TypeError(f"{x} has no element along axis {axis}")
    kept: tuple[Dim, ...] = (1,) if attrs["keepdims"] else ()
    return [TensorType("int64", x.shape[:axis] + kept + x.shape[axis + 1 :])]


def _arg_numpy(find: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def meaning(x: np.ndarray, axis: int, keepdims: int, last: int) -> np.ndarray:
        found = find(np.flip(x, axis) if last else x, axis=axis)
        found = np.asarray(x.shape[axis] - 1 - found if last else found, np.int64)
        return np.expand_dims(found, axis) if keepdims else found

    return meaning


def _top_k(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    axis, k = attrs["axis"], attrs["k"]
    _check_axis(axis, x)
    extent = x.shape[axis]
    if k < 0 or (isinstance(extent, int) and k > extent):
        raise TypeError(f"there are no {k} elements along axis {axis} of {x}")
    return [TensorType("int64", (*x.shape[:axis], k, *x.shape[axis + 1 :]))]


def _top_k_numpy(x: np.ndarray, axis: int, k: int, largest: int) -> np.ndarray:
    if largest:
        # The stable order upside down, counted from the other end: equal elements stay in their order.
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    return np.take(order, np.arange(k), axis=axis)


def _scatter(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    data, indices, updates = types
    if indices.dtype not in ("int32", "int64"):
        raise TypeError(f"indices must be int32 or int64, not {indices}")
    if updates.dtype != data.dtype:
        raise TypeError(f"updates {updates} are of another type than {data}")
    if data.rank != 3 or updates.rank != 3 or indices.shape != updates.shape[:2] or (
        (data.shape[0], data.shape[2]) != (updates.shape[0], updates.shape[2])
    ):  # fmt: skip
        raise TypeError(f"scatter takes [B,N,C], [B,M] and [B,M,C], not {data}, {indices} and {updates}")
    reduction = attrs["reduction"]
    if reduction not in SCATTER_REDUCTIONS:
        raise TypeError(f"reduction is one of {', '.join(SCATTER_REDUCTIONS)}, not {reduction!r}")
    if reduction != "none" and data.dtype == "bool":
        raise TypeError(f"booleans are not reduced by {reduction!r}")
    return [data]


_REDUCE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter_numpy(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, reduction: str) -> np.ndarray:
    result = data.copy()
    inside = (indices >= 0) & (indices < data.shape[1])
    for batch, rows, these, there in zip(result, indices, updates, inside, strict=True):
        if reduction != "none":
            _REDUCE[reduction].at(batch, rows[there], these[there])
        else:
            for row, update in zip(rows[there], these[there], strict=True):  # in order: the last one stays
                batch[row] = update
    return result


register(
    "arg_max", Kind.REDUCTION, 1, _arg, _arg_numpy(np.argmax),
    "the index of the greatest element along `axis`, the first or the last of equal ones; nan is greatest",
    axis=REQUIRED, keepdims=1, last=0,
)  # fmt: skip
register(
    "arg_min", Kind.REDUCTION, 1, _arg, _arg_numpy(np.argmin),
    "the index of the least element along `axis`, the first or the last of equal ones; nan is least",
    axis=REQUIRED, keepdims=1, last=0,
)  # fmt: skip
register(
    "top_k", Kind.REDUCTION, 1, _top_k, _top_k_numpy,
    "indices of the k greatest (or least) elements along `axis`, best first, equal ones in order; nan is greatest",
    axis=REQUIRED, k=REQUIRED, largest=1,
)  # fmt: skip
register(
    "scatter", Kind.ANCHOR, 3, _scatter, _scatter_numpy,
    "x [B,N,C] with row indices[b,m] of each b replaced by (or reduced with) updates[b,m], in the order of m; indices "
    "outside of [0, N) do nothing", reduction="none",
)  # fmt: skip
