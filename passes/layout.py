"""Layouts: images in blocks of channels as wide as a vector, weights packed when the model is compiled.

A convolution becomes `unblock(conv_blocked(block(x), packed weights))`; then `unblock` moves down through whatever
works on any layout, until it meets a `block` and both vanish. What remains are the few changes of layout where the
network itself changes what an axis means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tensorc.ir import OPS, Graph, Kind, Node, TensorType, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.layout import blocks_of, pack_conv_weight, pack_matmul_weight
from tensorc.ir.rewriter import Builder, Rule, producer, rewrite
from tensorc.pipeline import Pass

#: Operators that give infinities or nan for the zeros that fill a block; those must not meet zero weights.
_NOT_FINITE_AT_ZERO = frozenset({"div", "log", "mod", "pow", "reciprocal", "rsqrt"})


@dataclass(frozen=True)
class BlockLayout(Pass):
    """Blocked convolutions, pooling and what stands between. `block` is the number of channels in a block."""

    block: int
    name: ClassVar[str] = "layout"

    def run(self, graph: Graph) -> bool:
        elementwise = [op for op, row in OPS.items() if row.kind is Kind.ELEMENTWISE]
        rules: dict[str, Sequence[Rule]] = {op: [self._sink_elementwise] for op in elementwise}
        rules |= {op: [self._sink_reduction] for op in OPS if op.startswith("reduce_")}
        rules |= {
            "conv": [_conv_1d, self._conv],
            "max_pool": [self._sink_pool],
            "avg_pool": [self._sink_pool],
            "concat": [self._sink_concat],
            "block": [_cancel, _reshape_block],
            "unblock": [_reshape_unblock],
            "softmax": [_softmax_last],
            "log_softmax": [_softmax_last],
        }
        return rewrite(graph, rules)

    def _groups(self, channels: int, groups: int) -> int:
        """1 where blocks of groups are the same as blocks of all the channels."""
        return 1 if (channels // groups) % self.block == 0 else groups

    def _conv(self, node: Node, build: Builder) -> Value | None:
        x, w = node.inputs
        if len(x.shape) != 4 or w.constant is None:
            return None
        groups, block = node.attrs["groups"], self.block
        out, per_group, *_ = static_shape(w.shape)
        channels = per_group * groups
        attrs = {key: node.attrs[key] for key in ("strides", "pads", "dilations")}
        depthwise = groups > 1 and groups == channels == out
        plain = groups == 1 and channels < block
        pack_groups = 1 if depthwise else groups
        pad_inputs = not (depthwise or plain)
        shape = (
            blocks_of(out, pack_groups, block),
            -(-per_group // block) * block if pad_inputs else per_group,
            *w.shape[2:],
            block,
        )
        packed = build.constant(
            w.constant.derive(
                TensorType(w.dtype, shape), lambda data: pack_conv_weight(data, pack_groups, block, pad_inputs)
            ),
            name=w.name,
        )
        in_groups = 1 if depthwise else self._groups(channels, groups)
        data = x if plain else build("block", x, block=block, groups=in_groups)
        conv_groups = blocks_of(out, 1, block) * block if depthwise else groups
        result = build("conv_blocked", data, packed, **attrs, groups=conv_groups, depthwise=int(depthwise))
        out_groups = 1 if depthwise else self._groups(out, groups)
        return build("unblock", result, channels=out, groups=out_groups)

    # Moving `unblock` down -------------------------------------------------------------------------------

    def _sink_elementwise(self, node: Node, build: Builder) -> Value | None:
        if OPS[node.op].kind is not Kind.ELEMENTWISE or len(node.output.shape) != 4:
            return None
        blocked = [source for v in node.inputs if (source := producer(v, "unblock")) and v.shape == node.output.shape]
        if not blocked:
            return None
        channels, groups = blocked[0].attrs["channels"], blocked[0].attrs["groups"]
        if (channels // groups) % self.block and node.op in _NOT_FINITE_AT_ZERO:
            return None
        operands = [self._blocked(v, channels, groups, build) for v in node.inputs]
        if any(v is None for v in operands):
            return None
        result = build(node.op, *(v for v in operands if v is not None), **node.attrs)
        return build("unblock", result, channels=channels, groups=groups)

    def _blocked(self, value: Value, channels: int, groups: int, build: Builder) -> Value | None:
        """`value`, an operand that broadcasts to [N, channels, H, W], in blocks; None when it cannot be."""
        if value.constant is not None and value.constant.splat is not None and math.prod(value.shape) == 1:
            return build.constant(value.constant.splat.reshape(()), name=value.name)
        source = producer(value, "unblock")
        if source and (source.attrs["channels"], source.attrs["groups"]) == (channels, groups):
            return source.inputs[0]
        shape = (1,) * (4 - len(value.shape)) + static_shape(value.shape)
        if shape[1] != channels:
            # One channel for all: a new innermost axis of one says the same of a block.
            return build("reshape", value, shape=(*shape, 1)) if shape[1] == 1 else None
        if value.constant is not None:
            block = self.block
            blocked = (shape[0], blocks_of(channels, groups, block), *shape[2:], block)

            def change(data: np.ndarray) -> np.ndarray:
                return OPS["block"].evaluate([data.reshape(shape)], {"block": block, "groups": groups})[0]

            return build.constant(value.constant.derive(TensorType(value.dtype, blocked), change), name=value.name)
        if len(value.shape) != 4:
            value = build("reshape", value, shape=shape)
        return build("block", value, block=self.block, groups=groups)

    def _sink_pool(self, node: Node, build: Builder) -> Value | None:
        source = producer(node.inputs[0], "unblock")
        if source is None or len(node.output.shape) != 4:
            return None
        return build("unblock", build(node.op, source.inputs[0], **node.attrs), **source.attrs)

    def _sink_reduction(self, node: Node, build: Builder) -> Value | None:
        """Sums and the like over the spatial axes."""
        source = producer(node.inputs[0], "unblock")
        if source is None or not set(node.attrs["axes"]) <= {2, 3} or len(node.inputs[0].shape) != 4:
            return None
        kept = build(node.op, source.inputs[0], axes=node.attrs["axes"], keepdims=1)
        plain = build("unblock", kept, **source.attrs)
        return plain if node.attrs["keepdims"] else build("reshape", plain, shape=node.output.shape)

    def _sink_concat(self, node: Node, build: Builder) -> Value | None:
        """Of channels, when each part fills its blocks."""
        if node.attrs["axis"] != 1 or len(node.output.shape) != 4:
            return None
        sources = [producer(v, "unblock") for v in node.inputs]
        if not any(sources):
            return None
        parts: list[Value] = []
        for value in node.inputs:
            channels = static_shape(value.shape)[1]
            if channels % self.block:
                return None
            part = self._blocked(value, channels, 1, build)
            if part is None:
                return None
            parts.append(part)
        return build("unblock", build("concat", *parts, axis=1), channels=node.output.shape[1], groups=1)


def _conv_1d(node: Node, build: Builder) -> Value | None:
    """A convolution over one axis is one over two, the first of extent 1."""
    x, w = node.inputs
    if len(x.shape) != 3:
        return None
    image = build("reshape", x, shape=(*x.shape[:2], 1, x.shape[2]))
    filters = build("reshape", w, shape=(*w.shape[:2], 1, w.shape[2]))
    if w.constant is not None:
        flat = static_shape(filters.shape)
        filters = build.constant(w.constant.derive(filters.type, lambda data: data.reshape(flat)), name=w.name)
    before, after = node.attrs["pads"]
    result = build(
        "conv", image, filters, strides=(1, *node.attrs["strides"]), pads=(0, before, 0, after),
        dilations=(1, *node.attrs["dilations"]), groups=node.attrs["groups"],
    )  # fmt: skip
    return build("reshape", result, shape=node.output.shape)


def _cancel(node: Node, _: Builder) -> Value | None:
    source = producer(node.inputs[0], "unblock")
    if source is None or source.inputs[0].type != node.output.type:
        return None
    same = source.attrs["groups"] == node.attrs["groups"] and source.attrs["channels"] == node.inputs[0].shape[1]
    return source.inputs[0] if same else None


def _reshape_block(node: Node, build: Builder) -> Value | None:
    """Of an image of one pixel whose channels fill the blocks: the bytes stay where they are."""
    x = node.inputs[0]
    if math.prod(static_shape(x.shape)[2:]) != 1 or node.output.type.size != x.type.size:
        return None
    return build("reshape", x, shape=node.output.shape)


def _reshape_unblock(node: Node, build: Builder) -> Value | None:
    x = node.inputs[0]
    if math.prod(static_shape(node.output.shape)[2:]) != 1 or node.output.type.size != x.type.size:
        return None
    return build("reshape", x, shape=node.output.shape)


def _softmax_last(node: Node, build: Builder) -> Value | None:
    """Softmax runs along rows: put its axis last."""
    x, axis = node.inputs[0], node.attrs["axis"]
    if math.prod(static_shape(x.shape)[axis + 1 :]) == 1:
        return None
    last = len(x.shape) - 1
    perm = tuple(axis if i == last else last if i == axis else i for i in range(last + 1))
    swapped = build("transpose", x, perm=perm)
    return build("transpose", build(node.op, swapped, axis=last), perm=perm)


@dataclass(frozen=True)
class PackMatmulWeights(Pass):
    """Products with constant matrices read panels: `width(rows, depth, columns)` is the panel's width."""

    width: Callable[[int, int, int], int]
    name: ClassVar[str] = "pack-weights"

    def run(self, graph: Graph) -> bool:
        rules: Mapping[str, Sequence[Rule]] = {"matmul": [self._pack]}
        return rewrite(graph, rules)

    def _pack(self, node: Node, build: Builder) -> Value | None:
        a, b = node.inputs
        if b.constant is None or len(b.shape) != 2:
            return None
        transposed = bool(node.attrs["transpose_b"])
        depth, columns = static_shape(b.shape)[::-1] if transposed else static_shape(b.shape)
        width = self.width(math.prod(static_shape(a.shape)[:-1]), depth, columns)
        type = TensorType(b.dtype, (-(-columns // width), depth, width))

        def pack(data: np.ndarray) -> np.ndarray:
            return pack_matmul_weight(data.T if transposed else data, width)

        packed = build.constant(b.constant.derive(type, pack), name=b.name)
        return build("matmul_packed", a, packed, columns=columns)
