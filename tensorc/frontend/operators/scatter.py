"""Operators that put elements where indices say. The IR has one for all: rows of a table, in batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value


def _from_the_front(call: Call, indices: Value, extents: np.ndarray) -> Value:
    """Negative indices count from the end; `extents` broadcasts to them."""
    counted = call("add", indices, call.constant(extents, indices.dtype))
    return call("where", call("less", indices, call.like(0, indices)), counted, indices)


def _scatter(call: Call, data: Value, rows: Value, updates: Value, shape: Sequence[int]) -> Value:
    """Scatter into `data` as a table of `shape` [batches, rows, columns]; `rows` has the numbers of them in order."""
    batches, _, columns = shape
    count = math.prod(shape_of(rows)) // batches if batches else 0
    result = call(
        "scatter",
        call.reshape(data, shape),
        call.reshape(rows, (batches, count)),
        call.reshape(updates, (batches, count, columns)),
        reduction=call.attr("reduction", "none"),
    )
    return call.reshape(result, shape_of(data))


def _strides(shape: Sequence[int]) -> list[int]:
    """Elements from one step to the next along each axis."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


@operator("Scatter", "ScatterElements")
def _scatter_elements(call: Call) -> Value:
    """Each element's place in the whole: leading axes that the indices have whole are batches."""
    data, indices, updates = (call.input(i) for i in range(3))
    shape, taken = shape_of(data), shape_of(indices)
    axis = axis_of(call.attr("axis", 0), len(shape))
    if len(taken) != len(shape) or shape_of(updates) != taken:
        raise ValueError(f"indices {indices.type} and updates {updates.type} do not fit {data.type}")
    lead = next((a for a in range(axis) if taken[a] != shape[a]), axis)
    strides = _strides(shape[lead:])
    base = np.zeros((1,) * len(shape[lead:]), np.int64)
    for a in range(lead, len(shape)):
        if a != axis:
            place = np.arange(taken[a]).reshape(-1, *(1,) * (len(shape) - 1 - a))
            base = base + place * strides[a - lead]
    indices = _from_the_front(call, indices, np.array(shape[axis]))
    flat = call("mul", indices, call.like(strides[axis - lead], indices))
    flat = call("add", flat, call.constant(base, flat.dtype))
    return _scatter(call, data, flat, updates, (math.prod(shape[:lead]), math.prod(shape[lead:]), 1))


@operator("ScatterND")
def _scatter_nd(call: Call) -> Value:
    data, indices, updates = (call.input(i) for i in range(3))
    shape, (*outer, depth) = shape_of(data), shape_of(indices)
    if depth > len(shape) or shape_of(updates) != (*outer, *shape[depth:]):
        raise ValueError(f"indices {indices.type} and updates {updates.type} do not fit {data.type}")
    indices = _from_the_front(call, indices, np.array(shape[:depth], np.int64))
    strides = call.constant(np.array(_strides(shape[:depth]), np.int64), indices.dtype)
    flat = call("reduce_sum", call("mul", indices, strides), axes=(len(outer),), keepdims=0)
    return _scatter(call, data, flat, updates, (1, math.prod(shape[:depth]), math.prod(shape[depth:])))


@operator("TensorScatter")
def _tensor_scatter(call: Call) -> Value:
    """A run of neighbours into each batch of a cache: linear, or around its end."""
    cache, update = call.input(0), call.input(1)
    shape, given = shape_of(cache), shape_of(update)
    axis = axis_of(call.attr("axis", -2), len(shape))
    mode = call.attr("mode", "linear")
    if axis == 0 or given != (*shape[:axis], given[axis], *shape[axis + 1 :]) or mode not in ("linear", "circular"):
        raise ValueError(f"an update {update.type} along axis {axis} in mode {mode!r} does not fit {cache.type}")
    first = call.optional(2)
    start = call.constant(np.zeros(shape[0], np.int64)) if first is None else first
    ones = (1,) * (axis - 1)
    steps = call.constant(np.arange(given[axis]), start.dtype)
    rows = call("add", call.reshape(start, (shape[0], *ones, 1)), steps)
    if mode == "circular":
        rows = call("mod", rows, call.like(shape[axis], rows))
    rows = call("expand", rows, shape=(*shape[:axis], given[axis]))
    return _scatter(call, cache, rows, update, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])))
