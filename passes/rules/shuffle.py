"""Channel shuffles move down: below depthwise convolutions and work on single elements, towards whoever can read its
operand in any order of channels for nothing.

A shuffle is the reordering of channels that networks spell as reshape to [N, g, C/g, H, W], transpose of the two, and
reshape back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tensorc.ir import OPS, Kind
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node, Value
from tensorc.ir.rewriter import Builder, Rule, only_user, producer


def _shuffle(value: Value) -> tuple[Value, int] | None:
    """The value that `value` is a shuffle of, and the number of groups it was seen as; None when it is none, or when
    others read it."""
    back = producer(value, "reshape")
    turn = producer(back.inputs[0], "transpose") if back is not None else None
    split = producer(turn.inputs[0], "reshape") if turn is not None else None
    if back is None or turn is None or split is None or len(value.shape) != 4 or value.constant is not None:
        return None
    source, five = split.inputs[0], static_shape(split.output.shape)
    if source.shape != value.shape or len(five) != 5 or turn.attrs["perm"] != (0, 2, 1, 3, 4):
        return None
    n, c, h, w = static_shape(source.shape)
    alone = all(only_user(v) is not None for v in (value, *turn.inputs, *back.inputs))
    if five != (n, five[1], c // five[1], h, w) or not alone:
        return None
    return source, five[1]


def _order(channels: int, groups: int) -> np.ndarray:
    """Channel c of a shuffle is channel order[c] of what was shuffled."""
    return np.arange(channels).reshape(groups, -1).T.ravel()


def _shuffled(value: Value, groups: int, build: Builder) -> Value:
    n, c, h, w = static_shape(value.shape)
    split = build("reshape", value, shape=(n, groups, c // groups, h, w))
    return build("reshape", build("transpose", split, perm=(0, 2, 1, 3, 4)), shape=(n, c, h, w))


def sink_below_depthwise(node: Node, build: Builder) -> Value | None:
    """conv(shuffle(x), w) -> shuffle(conv(x, w of the other order))."""
    x, w = node.inputs
    found = _shuffle(x)
    if found is None or w.constant is None or len(w.shape) != 4:
        return None
    source, groups = found
    channels = source.shape[1]
    if not node.attrs["groups"] == channels == w.shape[0]:
        return None
    back = np.argsort(_order(channels, groups))
    weights = build.constant(w.constant.derive(w.type, lambda data: data[back]), name=w.name)
    return _shuffled(build("conv", source, weights, **node.attrs), groups, build)


def sink_below_elementwise(node: Node, build: Builder) -> Value | None:
    """f(shuffle(x), constants) -> shuffle(f(x, constants in the other order))."""
    if OPS[node.op].kind is not Kind.ELEMENTWISE:
        return None
    moved = [number for number, value in enumerate(node.inputs) if value.constant is None]
    found = _shuffle(node.inputs[moved[0]]) if len(moved) == 1 else None
    if found is None or node.output.shape != found[0].shape:
        return None
    source, groups = found
    back = np.argsort(_order(source.shape[1], groups))
    operands = []
    for value in node.inputs:
        if value.constant is None:
            operands.append(source)
        elif math.prod(static_shape(value.shape)) == 1:
            operands.append(value)
        elif len(value.shape) >= 3 and value.shape[-3] == source.shape[1]:
            turned = value.constant.derive(value.type, lambda data: np.take(data, back, data.ndim - 3))
            operands.append(build.constant(turned, name=value.name))
        elif len(value.shape) < 3 or value.shape[-3] == 1:
            operands.append(value)
        else:
            return None
    return _shuffled(build(node.op, *operands, **node.attrs), groups, build)


RULES: Mapping[str, Sequence[Rule]] = {
    "conv": [sink_below_depthwise],
    **{op: [sink_below_elementwise] for op, row in OPS.items() if row.kind is Kind.ELEMENTWISE},
}
