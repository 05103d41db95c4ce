"""Operators that choose elements, by indices or by what they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.fuzzing.graphs import FLOATS, Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import place, types

INDICES = ("int64", "int32")


def _indices(g: Graph, shape: Sequence[int], size: int, dtypes: Sequence[str] = INDICES, back: bool = True) -> Value:
    """Indices into an axis of `size`, some counted from the back."""
    if not size and int(np.prod(shape)):
        raise UnfitError
    return g.given(g.data(g.pick(dtypes), shape, -size if back and g.chance(0.4) else 0, max(size - 1, 0)),
                   g.chance(0.4))  # fmt: skip


@place("Gather")
def _gather(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    g.node(name, [x, _indices(g, g.dims(0, 2, 64), x.shape[axis])], exact=True, axis=axis)


@place("GatherElements")
def _gather_elements(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    shape = [
        g.number(1, 5) if a == axis % x.rank else max(g.number(size - 1, size), 0) for a, size in enumerate(x.shape)
    ]
    g.node(name, [x, _indices(g, shape, x.shape[axis])], exact=True, axis=axis)


def _tuples(g: Graph, x: Value, batch: int = 0) -> tuple[Value, int]:
    """Tuples of indices into the axes of `x` from `batch` on, and how many axes they pick."""
    depth = g.number(1, x.rank - batch)
    if 0 in x.shape:
        raise UnfitError
    shape = (*x.shape[:batch], *g.dims(0, 2, 20))
    parts = [g.rng.integers(-size if g.chance(0.3) else 0, size, shape) for size in x.shape[batch : batch + depth]]
    return g.given(np.stack(parts, -1).astype(np.int64), g.chance(0.4)), depth


@place("GatherND")
def _gather_nd(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    batch = g.number(0, x.rank - 1) if g.chance(0.3) else 0
    g.node(name, [x, _tuples(g, x, batch)[0]], exact=True, batch_dims=batch or None)


@place("ScatterElements")
def _scatter_elements(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    # Each index once, so that the order does not matter.
    if 0 in x.shape:
        raise UnfitError
    order = np.argsort(g.rng.random(x.shape), axis=axis)
    count = g.number(1, x.shape[axis])
    index = np.take(order, range(count), axis).astype(np.int64)
    how = g.pick((None, "none", "add", "mul", "max", "min")[: 1 if g.opset < 16 else 4 if g.opset < 18 else 6])
    if x.dtype == "bool":
        how = None
    g.node(name, [x, g.given(index, g.chance(0.4)), g.like(x.dtype, index.shape)], exact=how in (None, "none"),
           axis=axis, reduction=how)  # fmt: skip


@place("ScatterND")
def _scatter_nd(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    if 0 in x.shape:
        raise UnfitError
    depth = g.number(1, x.rank)
    places = int(np.prod(x.shape[:depth]))
    chosen = g.rng.permutation(places)[: g.number(1, min(places, 9))]
    index = np.stack(np.unravel_index(chosen, x.shape[:depth]), -1).astype(np.int64)
    how = g.pick((None, "none", "add", "mul", "max", "min")[: 1 if g.opset < 16 else 4 if g.opset < 18 else 6])
    if x.dtype == "bool":
        how = None
    if how in ("add", "max", "min") and g.chance(0.5):  # the same place more than once
        index = np.concatenate([index, index[: g.number(1, len(index))]])
    update = g.like(x.dtype, (len(index), *x.shape[depth:]))
    g.node(name, [x, g.given(index, g.chance(0.4)), update], exact=how != "add" and how != "mul", reduction=how)


@place("Trilu")
def _trilu(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=2)
    k = g.given(np.asarray(g.number(-4, 4), np.int64)) if g.chance(0.6) else None
    g.node(name, [x, k], exact=True, upper=g.pick((None, 0, 1)))


@place("OneHot")
def _one_hot(g: Graph, name: str) -> None:
    shape = g.dims(0, 2, 50)
    index = g.new(g.dtype([t for t in types(g, name) if t in ("int64", "int32", "float32")]), shape, -3, 6)
    if index.dtype in FLOATS:
        index = g.given(np.rint(g.data(index.dtype, shape, -3, 6)), False)
    depth = g.given(np.asarray(g.number(1, 6), np.int64))
    values = g.new(g.dtype(types(g, name, 2)), (2,))
    g.node(name, [index, depth, values], exact=True, axis=g.pick((None, 0, -1, len(shape))))


@place("EyeLike")
def _eye_like(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name), 2, 2)], exact=True, k=g.pick((None, 0, 1, -2)))


@place("ArgMax", "ArgMin")
def _arg(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    if 0 in x.shape or g.special:
        raise UnfitError
    g.node(name, [x], exact=True, axis=g.axis(x.rank), keepdims=g.pick((None, 0, 1)),
           select_last_index=g.pick((None, 0, 1)) if g.opset >= 12 else None)  # fmt: skip


@place("TopK")
def _top_k(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    axis = g.axis(x.rank)
    if 0 in x.shape or g.special:
        raise UnfitError
    # Different elements: which of equal ones is taken is not said by all engines alike.
    order = np.argsort(g.rng.random(x.shape), axis=axis)
    if x.shape[axis] > 100:
        raise UnfitError
    x = g.given(order.astype(g.data(x.dtype, ()).dtype), False)
    g.node(name, [x, g.given([g.number(1, x.shape[axis])])], 2, exact=True, axis=axis, largest=g.pick((None, 0, 1)))


@place("ReverseSequence")
def _reverse_sequence(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=2)
    time = g.number(0, 1)
    lengths = g.given(g.data("int64", (x.shape[1 - time],), 1, max(x.shape[time], 1)))
    g.node(name, [x, lengths], exact=True, time_axis=time, batch_axis=1 - time)


@place("NonZero")
def _non_zero(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    g.end(name, [x], [("int64", 2)])


@place("Compress")
def _compress(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    axis = g.pick((None, g.axis(x.rank)))
    size = int(np.prod(x.shape)) if axis is None else x.shape[axis]
    g.end(name, [x, g.new("bool", (g.number(0 if g.empty else 1, size),))], [(x.dtype, 1 if axis is None else x.rank)],
          axis=axis)  # fmt: skip


@place("Unique")
def _unique(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    if 0 in x.shape or g.special:
        raise UnfitError
    axis = g.pick((None, g.axis(x.rank)))
    results = [(x.dtype, 1 if axis is None else x.rank), ("int64", 1), ("int64", 1), ("int64", 1)]
    g.end(name, [x], results[: g.number(1, 4)], axis=axis)
