"""Operators that move elements and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorc.ir import dims
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType, numpy_dtype


def _reshape(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    shape = tuple(attrs["shape"])
    if dims.product(x.shape) != dims.product(shape):
        raise TypeError(f"cannot reshape {x} to {dims.format_shape(shape)}: the element counts differ")
    return [x.with_shape(shape)]


def _transpose(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    if sorted(attrs["perm"]) != list(range(x.rank)):
        raise TypeError(f"perm {attrs['perm']} is no permutation of the axes of {x}")
    return [x.with_shape(tuple(x.shape[axis] for axis in attrs["perm"]))]


def _check_axis(axis: int, x: TensorType) -> None:
    if not 0 <= axis < x.rank:
        raise TypeError(f"axis {axis} is not an axis of {x}")


def _check_indices(indices: TensorType) -> None:
    if indices.dtype not in ("int32", "int64"):
        raise TypeError(f"indices must be int32 or int64, not {indices}")


def _slice(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    starts, sizes, steps = attrs["starts"], attrs["sizes"], attrs["steps"]
    if not len(starts) == len(sizes) == len(steps) == x.rank:
        raise TypeError(f"slice of {x} needs one start, size and step for each axis")
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        extent = x.shape[axis]
        last = start + (size - 1) * step if isinstance(size, int) else None
        if isinstance(size, int) and size < 0:
            raise TypeError(f"slice of {x} has the negative size {size} on axis {axis}")
        if isinstance(extent, int) and last is not None and size and not (0 <= start < extent and 0 <= last < extent):
            raise TypeError(f"slice {start}:+{size}:{step} leaves axis {axis} of {x}")
    return [x.with_shape(tuple(sizes))]


def _slice_numpy(x: np.ndarray, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        x = np.take(x, start + step * np.arange(size), axis=axis)
    return x


def _concat(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    axis = attrs["axis"]
    first = types[0]
    _check_axis(axis, first)
    total: dims.Dim = 0
    for t in types:
        rest = t.shape[:axis] + t.shape[axis + 1 :]
        if t.dtype != first.dtype or rest != first.shape[:axis] + first.shape[axis + 1 :]:
            raise TypeError(f"cannot concatenate {', '.join(map(str, types))} along axis {axis}")
        total = dims.add(total, t.shape[axis])
    return [first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))]


def _expand(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    shape = tuple(attrs["shape"])
    if dims.broadcast(x.shape, shape) != shape:
        raise TypeError(f"cannot expand {x} to {dims.format_shape(shape)}")
    return [x.with_shape(shape)]


def _pad(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    before, after = attrs["before"], attrs["after"]
    if attrs["mode"] not in ("constant", "edge", "reflect", "wrap"):
        raise TypeError(f"mode is constant, edge, reflect or wrap, not {attrs['mode']!r}")
    if not len(before) == len(after) == x.rank:
        raise TypeError(f"pad of {x} needs one width before and one after for each axis, not {before} and {after}")
    return [x.with_shape(tuple(dims.add(d, b + a) for d, b, a in zip(x.shape, before, after, strict=True)))]


def _pad_numpy(x: np.ndarray, before: Sequence[int], after: Sequence[int], mode: str, value: float) -> np.ndarray:
    crop = tuple(slice(max(-b, 0), x.shape[i] - max(-a, 0)) for i, (b, a) in enumerate(zip(before, after, strict=True)))
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    if mode == "constant":
        return np.pad(x[crop], widths, constant_values=value)
    return np.pad(x[crop], widths, mode=mode)  # type: ignore[call-overload, no-any-return]


def _gather(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, indices = types
    axis = attrs["axis"]
    _check_axis(axis, x)
    _check_indices(indices)
    return [x.with_shape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])]


def _gather_elements(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, indices = types
    _check_axis(attrs["axis"], x)
    _check_indices(indices)
    if indices.rank != x.rank:
        raise TypeError(f"gather_elements of {x} needs indices of as many axes, not {indices}")
    return [x.with_shape(indices.shape)]


def _gather_elements_numpy(x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    # As ONNX has it, the other axes of `indices` may be shorter than x's.
    crop = tuple(slice(None) if a == axis else slice(indices.shape[a]) for a in range(x.ndim))
    return np.take_along_axis(x[crop], np.where(indices < 0, indices + x.shape[axis], indices), axis)


def _gather_nd(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, indices = types
    _check_indices(indices)
    batch = attrs["batch_dims"]
    depth = indices.shape[-1] if indices.rank else None
    if not isinstance(depth, int) or batch + depth > x.rank or x.shape[:batch] != indices.shape[:batch]:
        raise TypeError(f"gather_nd of {x} with {batch} batch axes does not take indices {indices}")
    return [x.with_shape(indices.shape[:-1] + x.shape[batch + depth :])]


def _gather_nd_numpy(x: np.ndarray, indices: np.ndarray, batch_dims: int) -> np.ndarray:
    batch = x.shape[:batch_dims]
    depth = indices.shape[-1]
    flat = x.reshape((-1, *x.shape[batch_dims:]))
    index = indices.reshape((flat.shape[0], -1, depth))
    rows = [part[tuple(np.moveaxis(where, -1, 0))] for part, where in zip(flat, index, strict=True)]
    return np.stack(rows).reshape(batch + indices.shape[batch_dims:-1] + x.shape[batch_dims + depth :])


def _unfold(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    axis, out, kernel = attrs["axis"], attrs["out"], attrs["kernel"]
    if not 0 <= axis < x.rank or min(out, kernel, attrs["stride"], attrs["dilation"]) < 1:
        raise TypeError(f"unfold of {x} along axis {axis} into {out} windows of {kernel}")
    extent, last = x.shape[axis], (out - 1) * attrs["stride"] + (kernel - 1) * attrs["dilation"]
    if isinstance(extent, int) and last >= extent:
        raise TypeError(f"the last of {out} windows of {kernel} along axis {axis} of {x} ends at {last}")
    return [x.with_shape((*x.shape[:axis], out, kernel, *x.shape[axis + 1 :]))]


def _unfold_numpy(x: np.ndarray, axis: int, out: int, kernel: int, stride: int, dilation: int) -> np.ndarray:
    return np.take(x, np.arange(out)[:, None] * stride + np.arange(kernel) * dilation, axis)


def _range(_types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    return [TensorType(attrs["dtype"], (attrs["size"],))]


register("reshape", Kind.VIEW, 1, _reshape, lambda x, shape: x.reshape(shape), shape=REQUIRED)
register("transpose", Kind.INJECTIVE, 1, _transpose, lambda x, perm: np.transpose(x, perm), perm=REQUIRED)
register(
    "slice", Kind.INJECTIVE, 1, _slice, _slice_numpy,
    "sizes[i] elements of axis i from starts[i] on, steps[i] apart (negative goes back)",
    starts=REQUIRED, sizes=REQUIRED, steps=REQUIRED,
)  # fmt: skip
register("concat", Kind.INJECTIVE, (1, None), _concat, lambda *xs, axis: np.concatenate(xs, axis), axis=REQUIRED)
register("expand", Kind.INJECTIVE, 1, _expand, lambda x, shape: np.broadcast_to(x, shape), shape=REQUIRED)
register(
    "pad", Kind.INJECTIVE, 1, _pad, _pad_numpy, "mode is constant, edge, reflect or wrap; negative widths crop",
    before=REQUIRED, after=REQUIRED, mode="constant", value=0,
)  # fmt: skip
register(
    "gather", Kind.INJECTIVE, 2, _gather,
    lambda x, i, axis: np.take(x, np.where(i < 0, i + x.shape[axis], i), axis=axis),
    "slices of axis `axis` by index; a negative index counts from the end", axis=0,
)  # fmt: skip
register("gather_elements", Kind.INJECTIVE, 2, _gather_elements, _gather_elements_numpy, axis=0)
register(
    "unfold", Kind.INJECTIVE, 1, _unfold, _unfold_numpy, "windows along an axis, which becomes [out, kernel]",
    axis=REQUIRED, out=REQUIRED, kernel=REQUIRED, stride=1, dilation=1,
)  # fmt: skip
register("gather_nd", Kind.INJECTIVE, 2, _gather_nd, _gather_nd_numpy, batch_dims=0)
register(
    "range", Kind.INJECTIVE, 0, _range,
    lambda start, step, size, dtype: (start + step * np.arange(size)).astype(numpy_dtype(dtype)),
    "start + step * i", start=REQUIRED, step=REQUIRED, size=REQUIRED, dtype=REQUIRED,
)  # fmt: skip
