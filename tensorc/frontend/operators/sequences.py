"""Sequences and optionals: operators that choose among tensors, and compute nothing."""

from __future__ import annotations

import onnx

from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.operators.movement import cut
from tensorc.frontend.reader import element_type
from tensorc.frontend.registry import Result, operator
from tensorc.frontend.scope import ABSENT, Absent, Datum, SequenceDatum
from tensorc.ir.graph import Value


@operator("Identity")
def _identity(call: Call) -> Datum:
    datum = call.datum(0)
    if datum is None:
        raise ValueError("input 0 is missing")
    return datum


@operator("SequenceEmpty")
def _empty(call: Call) -> Datum:
    return SequenceDatum((), element_type(call.attr("dtype", onnx.TensorProto.FLOAT)))


@operator("SequenceConstruct")
def _construct(call: Call) -> Datum:
    values = call.all_inputs()
    return SequenceDatum(tuple(values), values[0].dtype)


def _position(call: Call, index: int, length: int, most: int) -> int:
    """Where in a sequence, counted from the front; `most` is the first that is too far."""
    position = int(call.number(index))
    if not -length <= position < most:
        raise ValueError(f"position {position} is outside a sequence of {length}")
    return position + length if position < 0 else position


@operator("SequenceAt")
def _at(call: Call) -> Datum:
    items = call.sequence(0).items
    return items[_position(call, 1, len(items), len(items))]


@operator("SequenceInsert")
def _insert(call: Call) -> Datum:
    sequence, value = call.sequence(0), call.input(1)
    items = sequence.items
    where = len(items) if call.datum(2) is None else _position(call, 2, len(items), len(items) + 1)
    return SequenceDatum((*items[:where], value, *items[where:]), sequence.dtype or value.dtype)


@operator("SequenceErase")
def _erase(call: Call) -> Datum:
    sequence = call.sequence(0)
    items = sequence.items
    where = len(items) - 1 if call.datum(1) is None else _position(call, 1, len(items), len(items))
    return SequenceDatum((*items[:where], *items[where + 1 :]), sequence.dtype)


@operator("SequenceLength")
def _length(call: Call) -> Value:
    return call.constant(len(call.sequence(0).items), "int64")


@operator("SplitToSequence")
def _split(call: Call) -> Datum:
    x = call.input(0)
    axis = axis_of(call.attr("axis", 0), len(x.shape))
    extent = shape_of(x)[axis]
    if call.datum(1) is None:
        sizes = [1] * extent
    elif call.input(1).shape:
        sizes = list(call.ints(1))
    else:
        step = int(call.number(1))
        if step < 1:
            raise ValueError(f"cannot split into parts of {step}")
        sizes = [min(step, extent - start) for start in range(0, extent, step)]
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        raise ValueError(f"parts of {sizes} do not make up axis {axis} of {x.type}")
    parts = []
    start = 0
    for size in sizes:
        part = cut(call, x, axis, start, size)
        if call.datum(1) is None and not call.attr("keepdims", 1):
            part = call.reshape(part, [dim for a, dim in enumerate(shape_of(part)) if a != axis])
        parts.append(part)
        start += size
    return SequenceDatum(tuple(parts), x.dtype)


@operator("ConcatFromSequence")
def _concat(call: Call) -> Value:
    items = [item for item in call.sequence(0).items if isinstance(item, Value)]
    if not items:
        raise ValueError("the sequence is empty")
    rank = len(items[0].shape)
    if call.attr("new_axis", 0):
        axis = axis_of(call.required("axis"), rank + 1)
        items = [call.reshape(item, (*shape_of(item)[:axis], 1, *shape_of(item)[axis:])) for item in items]
    else:
        axis = axis_of(call.required("axis"), rank)
    return call("concat", *items, axis=axis)


@operator("Optional")
def _optional(call: Call) -> Result:
    datum = call.datum(0)
    return ABSENT if datum is None else datum


@operator("OptionalHasElement")
def _has_element(call: Call) -> Value:
    datum = call.datum(0)
    return call.constant(datum is not None and not isinstance(datum, Absent), "bool")


@operator("OptionalGetElement")
def _get_element(call: Call) -> Datum:
    datum = call.datum(0)
    if datum is None or isinstance(datum, Absent):
        raise ValueError("the optional holds nothing")
    return datum
