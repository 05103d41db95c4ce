"""Nearest upsampling by whole numbers: gathers that repeat each element become an expansion, whose kernel is a copy."""

from __future__ import annotations

import numpy as np

from passes.rules.matching import EAGER
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node, Value
from tensorc.ir.rewriter import Builder, only_user, producer


def sink_below_unblock(node: Node, build: Builder) -> Value | None:
    """gather(unblock(x)) -> unblock(gather(x)) of rows or columns of an image in blocks."""
    x, index = node.inputs
    source = producer(x, "unblock")
    if source is None or len(x.shape) != 4 or node.attrs["axis"] not in (2, 3) or len(index.shape) != 1:
        return None
    return build("unblock", build("gather", source.inputs[0], index, axis=node.attrs["axis"]), **source.attrs)


def gathers_as_expansion(node: Node, build: Builder) -> Value | None:
    """All of a chain of gathers that repeat elements along axes of their own at once."""
    x = node.output
    times: dict[int, int] = {}
    while (gather := producer(x, "gather")) is not None and (count := _times(gather)):
        if times and (only_user(x) is None or gather.attrs["axis"] in times):
            break
        times[gather.attrs["axis"]] = count
        x = gather.inputs[0]
    if not times or any(user.op == "gather" and _times(user) for user in node.output.users):
        return None  # it is told from the last of them
    apart, repeated = [], []
    for axis, extent in enumerate(static_shape(x.shape)):
        apart += [extent, 1] if axis in times else [extent]
        repeated += [extent, times[axis]] if axis in times else [extent]
    expanded = build("expand", build("reshape", x, shape=tuple(apart)), shape=tuple(repeated))
    return build("reshape", expanded, shape=node.output.shape)


def _times(gather: Node) -> int:
    """How often a gather repeats every element along its axis; 0 if it does something else."""
    x, index = gather.inputs
    extent, out = static_shape(x.shape)[gather.attrs["axis"]], index.type.size
    if index.constant is None or len(index.shape) != 1 or not extent or out % extent or not extent < out <= EAGER:
        return 0
    data = index.constant.numpy()
    return out // extent if np.array_equal(data, np.arange(out) // (out // extent)) else 0
