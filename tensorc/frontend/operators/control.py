"""Control flow. What is known to hold is decided here; the rest becomes regions, if all types are known before."""

from __future__ import annotations

from collections.abc import Sequence

from tensorc.errors import UnsupportedError
from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.emitter import scalar_of
from tensorc.frontend.regions import Region, RegionBuilder
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value
from tensorc.ir.ops.control import ENDLESS
from tensorc.ir.types import TensorType

_COUNTER = TensorType("int64", ())
_CONDITION = TensorType("bool", ())


@operator("If")
def _if(call: Call) -> Sequence[Value]:
    condition = _single(call, call.input(0))
    known = scalar_of(condition)
    if known is not None:
        return call.inline("then_branch" if known else "else_branch", ())
    branches = [call.region(name, ()) for name in ("then_branch", "else_branch")]
    if branches[0].types != branches[1].types:
        raise UnsupportedError(f"its branches give {_listed(branches[0].types)} and {_listed(branches[1].types)}")
    return call.control("if", [condition], branches)


def _single(call: Call, value: Value) -> Value:
    """A number, which some models have as a list of one."""
    return call.reshape(value, ()) if value.shape else value


def _listed(types: Sequence[TensorType]) -> str:
    return ", ".join(map(str, types)) or "nothing"


def _check_carried(body: Region, state: Sequence[TensorType]) -> None:
    for before, after in zip(state, body.types, strict=False):
        if before != after:
            raise UnsupportedError(f"what it carries is {before} and becomes {after}")


@operator("Loop")
def _loop(call: Call) -> Sequence[Value]:
    state = [call.input(index) for index in range(2, len(call.inputs))]
    types = [value.type for value in state]
    body = call.region("body", [_COUNTER, _CONDITION, *types])
    if len(body.types) <= len(types):
        raise ValueError(f"its body gives {_listed(body.types)}: too little to carry {_listed(types)}")
    _check_carried(body, [_CONDITION, *types])
    trips, condition = call.optional(0), call.optional(1)
    condition = call.constant(True) if condition is None else _single(call, condition)
    trips = call.constant(ENDLESS) if trips is None else _single(call, trips)
    ends = body.graph.outputs[0] is not body.graph.inputs[1] and scalar_of(body.graph.outputs[0]) is not True
    stacked = len(body.types) - 1 - len(types)
    known = scalar_of(condition)
    if known is None and stacked and not ends:
        known = bool(call.number(1))
    if known is False or (known and not ends and (trips.constant is not None or stacked)):
        count = _trips(call, trips) if known else 0
        if count == ENDLESS:
            raise UnsupportedError("it never ends")
        body.graph.replace(body.graph.inputs[1], body.graph.constant(True))
        del body.graph.inputs[1], body.graph.outputs[0]
        return call.control("loop", state, [body], trips=count, carried=len(state), stacked=(0,) * stacked)
    if stacked:
        raise UnsupportedError("how often it runs is computed, and it stacks results")
    if trips.constant is None:
        condition = call("and", condition, call("less", call.constant(0), trips))
        _count(body, trips)
    count = ENDLESS if trips.constant is None else _trips(call, trips)
    results = call.control("loop", [condition, *state], [body], trips=count, carried=1 + len(state), conditional=1)
    return results[1:]


def _trips(call: Call, trips: Value) -> int:
    known = scalar_of(trips)
    return max(call.number(0) if known is None else int(known), 0)


def _count(body: Region, trips: Value) -> None:
    """Make it a part of the condition that a computed number of trips is not reached."""
    graph = body.graph
    following = graph.add("add", [graph.inputs[0], graph.constant(1, "int64")])
    more = graph.add("less", [following, body.capture(trips)])
    graph.outputs[0] = graph.add("and", [graph.outputs[0], more])


@operator("Scan")
def _scan(call: Call) -> Sequence[Value]:
    if call.opset < 9:
        return _batched_scan(call)
    values, count = call.all_inputs(), call.required("num_scan_inputs")
    state, scanned = values[: len(values) - count], values[len(values) - count :]
    axes = [axis_of(a, len(v.shape)) for v, a in zip(scanned, _each(call, "scan_input_axes", count), strict=True)]
    parts = [v.type.with_shape(v.shape[:a] + v.shape[a + 1 :]) for v, a in zip(scanned, axes, strict=True)]
    body = _scan_body(call, [value.type for value in state], parts)
    made = len(body.types) - len(state)
    results = call.control(
        "loop", [*state, *(_moved(call, value, axis, 0) for value, axis in zip(scanned, axes, strict=True))], [body],
        trips=_extent([shape_of(value)[axis] for value, axis in zip(scanned, axes, strict=True)]),
        carried=len(state), scanned=_each(call, "scan_input_directions", count),
        stacked=_each(call, "scan_output_directions", made),
    )  # fmt: skip
    stacks = results[len(state) :]
    back = zip(stacks, _each(call, "scan_output_axes", made), strict=True)
    return [*results[: len(state)], *(_moved(call, v, 0, axis_of(axis, len(v.shape))) for v, axis in back)]


def _each(call: Call, name: str, count: int) -> tuple[int, ...]:
    found = tuple(call.attr(name, (0,) * count))
    if len(found) != count:
        raise ValueError(f"{name} has {len(found)} numbers, not {count}")
    return found


def _scan_body(call: Call, state: Sequence[TensorType], parts: Sequence[TensorType]) -> Region:
    """With the number of the iteration in front, which ONNX does not hand to it."""
    body = call.region("body", [*state, *parts])
    if len(body.types) < len(state):
        raise ValueError(f"its body gives {_listed(body.types)}: too little to carry {_listed(state)}")
    _check_carried(body, state)
    own = len(body.graph.inputs)
    body.graph.add_input("i", _COUNTER)
    body.graph.inputs.insert(0, body.graph.inputs.pop(own))
    return body


def _extent(extents: Sequence[int]) -> int:
    if len(set(extents)) != 1:
        raise ValueError(f"what it scans is {', '.join(map(str, extents)) or 'nothing'} long")
    return extents[0]


def _moved(call: Call, value: Value, source: int, target: int) -> Value:
    """With the axis `source` put at `target`."""
    perm = [axis for axis in range(len(value.shape)) if axis != source]
    perm.insert(target, source)
    return call("transpose", value, perm=tuple(perm))


def _batched_scan(call: Call) -> Sequence[Value]:
    """Opset 8: every input has a batch in front, and each element of it may have a length of its own."""
    lengths, values, count = call.optional(0), [call.input(i) for i in range(1, len(call.inputs))], call.attr(
        "num_scan_inputs"
    )  # fmt: skip
    split = len(values) - count
    batch = _extent([shape_of(value)[0] for value in values])
    trips = _extent([shape_of(value)[1] for value in values[split:]])
    directions = _each(call, "directions", count)
    if lengths is not None and any(directions):
        raise UnsupportedError("it goes backward through sequences of different lengths")
    state = [value.type.with_shape(value.shape[1:]) for value in values[:split]]
    parts = [value.type.with_shape(value.shape[2:]) for value in values[split:]]
    inner = _scan_body(call, state, parts)
    made = len(inner.types) - split
    per_element = [*values, *([] if lengths is None else [lengths])]
    outer = RegionBuilder("element", [_COUNTER, *(v.type.with_shape(v.shape[1:]) for v in per_element)])
    if lengths is not None:
        inner = _limited(inner, split, outer.inputs[-1])
    results = outer.control(
        "loop", outer.inputs[1 : 1 + len(values)], [inner],
        trips=trips, carried=split, scanned=directions, stacked=(0,) * made,
    )  # fmt: skip
    region = outer.finish(results)
    return call.control("loop", per_element, [region], trips=batch,
                        scanned=(0,) * len(per_element), stacked=(0,) * len(results))  # fmt: skip


def _limited(body: Region, state: int, length: Value) -> Region:
    """Iterations from `length` on keep the state; what they stack is zero."""
    graph = body.graph
    number, limit = graph.inputs[0], body.capture(length)
    if length.dtype != number.dtype:
        limit = graph.add("cast", [limit], {"to": number.dtype})
    inside = graph.add("less", [number, limit])
    for index, value in enumerate(graph.outputs):
        zero = graph.constant(0, value.dtype)
        otherwise = graph.inputs[1 + index] if index < state else zero
        graph.outputs[index] = graph.add("where", [inside, value, otherwise])
    return body
