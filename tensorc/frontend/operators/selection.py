"""Operators that find elements by their order, and those that turn rows around."""

from __future__ import annotations

import numpy as np

from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value


def _arg(call: Call, op: str) -> Value:
    x = call.input(0)
    axis = axis_of(call.attr("axis", 0), len(x.shape))
    return call(op, x, axis=axis, keepdims=call.attr("keepdims", 1), last=call.attr("select_last_index", 0))


@operator("ArgMax")
def _arg_max(call: Call) -> Value:
    return _arg(call, "arg_max")


@operator("ArgMin")
def _arg_min(call: Call) -> Value:
    return _arg(call, "arg_min")


@operator("TopK")
def _top_k(call: Call) -> tuple[Value, Value]:
    """The values are gathered by their indices. They are sorted, whether that is asked for or not."""
    x = call.input(0)
    axis = axis_of(call.attr("axis", -1), len(x.shape))
    k = int(call.required("k") if call.opset < 10 else call.number(1))
    indices = call("top_k", x, axis=axis, k=k, largest=int(bool(call.attr("largest", 1))))
    return call("gather_elements", x, indices, axis=axis), indices


@operator("ReverseSequence")
def _reverse_sequence(call: Call) -> Value:
    """Batch and time brought to the front, the first elements of each batch are gathered from their mirror images."""
    x, lengths = call.input(0), call.input(1)
    shape = shape_of(x)
    batch = axis_of(call.attr("batch_axis", 1), len(shape))
    time = axis_of(call.attr("time_axis", 0), len(shape))
    if batch == time:
        raise ValueError(f"axis {batch} is both of batches and of time")
    front = (batch, time, *(axis for axis in range(len(shape)) if axis not in (batch, time)))
    step = call.constant(np.arange(shape[time]), lengths.dtype)
    length = call.reshape(lengths, (shape[batch], 1))
    mirrored = call("sub", call("sub", length, call.like(1, lengths)), step)
    place = call("where", call("less", step, length), mirrored, step)
    rows = call("gather_nd", call("transpose", x, perm=front), call.reshape(place, (shape[batch], shape[time], 1)),
                batch_dims=1)  # fmt: skip
    return call("transpose", rows, perm=tuple(int(axis) for axis in np.argsort(front)))
