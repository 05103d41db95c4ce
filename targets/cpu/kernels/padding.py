"""Where padding ends along an axis of a result.

What is read through padding has its place held inside the tensor, element by element. Between the paddings no place
needs to be held: in a loop over that part alone, the compiler proves so, and reads vectors.
"""

from __future__ import annotations

import itertools
import math

from tensorc.ir import OPS, Graph, Kind, Node, Value
from tensorc.ir.dims import static_shape


def interior(body: Graph, axis: int) -> list[tuple[int, int]]:
    """The (first, extent) of the parts of `axis` of the results: before the interior, it, and behind."""
    shape = static_shape(body.outputs[0].shape)
    if not shape:
        return [(0, 1)]
    whole = shape[axis]
    edges = sorted({0, whole} | {edge for value in body.outputs for edge in _edges(value, axis) if 0 < edge < whole})
    low = max(edge for edge in edges if edge <= whole // 2)
    high = min(edge for edge in edges if edge > whole // 2 or edge == whole)
    cuts = [0, low, high, whole]
    return [(a, b - a) for a, b in itertools.pairwise(cuts) if b > a] or [(0, whole)]


def _edges(value: Value, axis: int) -> set[int]:
    """Positions along `axis` of `value` at which one of the paddings that it is read through begins or ends."""
    found: set[int] = set()
    #: A value, its axis, and how far along it the result's first element lies.
    todo = [(value, axis, 0)]
    seen = set(todo)
    while todo:
        value, axis, shift = todo.pop()
        node = value.producer
        if node is None:
            continue
        if node.op == "pad":
            before, extent = node.attrs["before"][axis], static_shape(node.inputs[0].shape)[axis]
            if before > 0:
                found.add(before - shift)
            if node.attrs["after"][axis] > 0:
                found.add(before + extent - shift)
        for step in _sources(node, axis, shift):
            if step not in seen:
                seen.add(step)
                todo.append(step)
    return found


def _sources(node: Node, axis: int, shift: int) -> list[tuple[Value, int, int]]:
    """The same of what `node` reads, as far as its axes are followed."""
    shape = static_shape(node.output.shape)
    if OPS[node.op].kind is Kind.ELEMENTWISE:
        own = [(v, axis - len(shape) + len(v.shape)) for v in node.inputs]
        return [(v, i, shift) for v, i in own if i >= 0 and v.shape[i] == shape[axis]]
    if not node.inputs:
        return []
    x = node.inputs[0]
    if node.op == "transpose":
        return [(x, node.attrs["perm"][axis], shift)]
    if node.op == "pad":
        return [(x, axis, shift - node.attrs["before"][axis])]
    if node.op == "block":  # [n, blocks, spatial axes, lanes] of [n, channels, spatial axes]
        return [(x, axis, shift)] if 2 <= axis < len(shape) - 1 else []
    if node.op == "slice" and node.attrs["steps"][axis] == 1:
        return [(x, axis, shift + node.attrs["starts"][axis])]
    if node.op == "unfold":
        first, dilation = node.attrs["axis"], node.attrs["dilation"]
        if axis == first and node.attrs["stride"] == 1:  # each element of a window meets an edge at its own place
            return [(x, axis, shift + k * dilation) for k in range(node.attrs["kernel"])]
        return [] if axis in (first, first + 1) else [(x, axis if axis < first else axis - 1, shift)]
    if node.op == "reshape":
        source = static_shape(x.shape)
        outer = math.prod(shape[:axis])
        return [
            (x, i, shift) for i, extent in enumerate(source)
            if extent == shape[axis] and extent > 1 and math.prod(source[:i]) == outer
        ][:1]  # fmt: skip
    return []
