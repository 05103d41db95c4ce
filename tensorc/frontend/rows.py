"""Sums of elements that lie at places of a row which are known when a model is compiled."""

from __future__ import annotations

import numpy as np

from tensorc.frontend.call import Call
from tensorc.ir.graph import Value

#: Sums of up to this many elements are written out; longer ones are reductions.
_WRITTEN_OUT = 8


def sum_along(call: Call, x: Value, axis: int, indices: np.ndarray, weights: np.ndarray | None = None) -> Value:
    """Along `axis` the sums of the elements at indices[i, :], times weights[i, :] if there are weights."""
    behind = (1,) * (len(x.shape) - 1 - axis)

    def taken(index: np.ndarray, weight: np.ndarray | None) -> Value:
        elements = call("gather", x, call.constant(index, "int64"), axis=axis)
        if weight is None:
            return elements
        return call("mul", elements, call.constant(weight.reshape(*weight.shape, *behind), x.dtype))

    if indices.shape[1] == 0 or indices.shape[1] > _WRITTEN_OUT:
        return call("reduce_sum", taken(indices, weights), axes=(axis + 1,), keepdims=0)
    total: Value | None = None
    for number, index in enumerate(indices.T):
        weight = None if weights is None else weights[:, number]
        if weight is None or weight.any() or (number == indices.shape[1] - 1 and total is None):
            part = taken(index, weight)
            total = part if total is None else call("add", total, part)
    assert total is not None
    return total
