"""Layouts: images in blocks of channels as wide as a vector, weights packed when the model is compiled.

A convolution becomes `unblock(conv_blocked(block(x), packed weights))`; then `unblock` moves down through whatever
works on any layout, until it meets a `block` and both vanish. What remains are the few changes of layout where the
network itself changes what an axis means.

Channels that only fill up a block are computed like others, and a consumer's zero weights take them out again. Zero
times infinity would put them back in: so what a filler holds is followed, and `unblock` stops where it is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.rules.quantized import TOGETHER
from passes.rules.repetition import gathers_as_expansion, sink_below_unblock
from passes.rules.shuffle import sink_below_depthwise, sink_below_elementwise
from passes.rules.windows import conv_1d, conv_by_computed, conv_nd, pool_over_two_axes
from tensorc.ir import OPS, Graph, Kind, Node, TensorType, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.layout import blocks_of, pack_conv_weight, pack_matmul_weight
from tensorc.ir.ops.nn import multiplies_bytes
from tensorc.ir.ops.table import Attrs
from tensorc.ir.rewriter import Builder, Rule, producer, rewrite
from tensorc.ir.types import is_float, numpy_dtype
from tensorc.pipeline import Pass

#: A filler beyond this might become infinite in a kernel that rounds otherwise than numpy.
_LARGEST_FILLER = 1e30
#: These give, of equal elements, that element. The other windows and reductions do so of zeros.
_OF_EQUALS = frozenset({"max_pool", "reduce_max", "reduce_min"})


@dataclass(frozen=True)
class BlockLayout(Pass):
    """Blocked convolutions, pooling and what stands between. `block` is the number of channels in a block."""

    block: int
    name: ClassVar[str] = "layout"

    def run(self, graph: Graph) -> bool:
        return rewrite(graph, _Blocking(self.block).rules())


class _Blocking:
    def __init__(self, block: int):
        self.block = block
        #: The number that all fillers of a blocked value hold; of those not listed see `_filler`.
        self.fillers: dict[Value, np.ndarray] = {}

    def rules(self) -> dict[str, Sequence[Rule]]:
        rules: dict[str, Sequence[Rule]] = {
            op: [self._sink_elementwise, sink_below_elementwise]
            for op, row in OPS.items()
            if row.kind is Kind.ELEMENTWISE
        }
        rules |= {op: [self._sink_reduction] for op in OPS if op.startswith("reduce_")}
        return rules | {
            "conv": [conv_by_computed, conv_1d, conv_nd, sink_below_depthwise, self._conv],
            "max_pool": [pool_over_two_axes, self._sink_pool],
            "avg_pool": [pool_over_two_axes, self._sink_pool],
            "concat": [self._sink_concat],
            "gather": [sink_below_unblock, gathers_as_expansion],
            "block": [_cancel, _reshape_block],
            "unblock": [_reshape_unblock],
            "softmax": [_softmax_last],
            "log_softmax": [_softmax_last],
        }

    def _groups(self, channels: int, groups: int) -> int:
        """1 where blocks of groups are the same as blocks of all the channels."""
        return 1 if (channels // groups) % self.block == 0 else groups

    def _conv(self, node: Node, build: Builder) -> Value | None:
        x, w = node.inputs
        if len(x.shape) != 4 or w.constant is None:
            return None
        block = self.block
        out, per_group, *_ = static_shape(w.shape)
        channels = per_group * node.attrs["groups"]
        depthwise = 1 < node.attrs["groups"] == channels == out
        merged = 1 if depthwise else self._merged_groups(out, channels, node.attrs["groups"])
        groups = node.attrs["groups"] // merged
        # Few channels are not worth a block, and those of narrow groups would mostly be fillers.
        few = not depthwise and (channels < block if groups == 1 else (channels // groups) % block != 0)
        # Bytes are multiplied several at a time, and those must be neighbours.
        plain = few and not multiplies_bytes(x.type, w.type)
        in_block = -(-(channels // groups) // TOGETHER) * TOGETHER if few and not plain else block
        source = producer(x, "unblock")
        pack_groups = groups
        if depthwise:  # in whatever blocks its channels are
            pack_groups = source.attrs["groups"] if source is not None else 1
        pad_inputs = not (depthwise or plain)
        inputs = per_group * merged
        shape = (
            blocks_of(out, pack_groups, block),
            -(-inputs // in_block) * in_block if pad_inputs else inputs,
            *w.shape[2:],
            block,
        )
        to = in_block if pad_inputs else 1
        how = ("conv", groups, merged, pack_groups, block, to)

        def pack(data: np.ndarray) -> np.ndarray:
            return pack_conv_weight(_merge_groups(data, groups, merged), pack_groups, block, to)

        packed = build.constant(w.constant.derive(TensorType(w.dtype, shape), pack, how=how), name=w.name)
        in_groups = pack_groups if depthwise else groups if few else self._groups(channels, groups)
        data = x if plain else build("block", x, block=in_block, groups=in_groups)
        attrs = {key: node.attrs[key] for key in ("strides", "pads", "dilations")}
        conv_groups = blocks_of(out, pack_groups, block) * block if depthwise else groups
        result = build("conv_blocked", data, packed, **attrs, groups=conv_groups, depthwise=int(depthwise))
        out_groups = pack_groups if depthwise else self._groups(out, groups)
        return build("unblock", result, channels=out, groups=out_groups)

    def _merged_groups(self, out: int, channels: int, groups: int) -> int:
        """How many groups of a convolution become one, with zeros for the weights from one into another: as many as
        need the fewest products of blocks. Narrow groups, a block each, would multiply mostly fillers."""

        def products(merged: int) -> int:
            count = groups // merged
            return count * blocks_of(channels // count, 1, self.block) * blocks_of(out // count, 1, self.block)

        return min((m for m in range(groups, 0, -1) if groups % m == 0), key=products)

    # Moving `unblock` down -------------------------------------------------------------------------------

    def _sink_elementwise(self, node: Node, build: Builder) -> Value | None:
        if OPS[node.op].kind is not Kind.ELEMENTWISE or len(node.output.shape) != 4:
            return None
        blocked = [source for v in node.inputs if (source := producer(v, "unblock")) and v.shape == node.output.shape]
        if not blocked:
            return None
        channels, groups = blocked[0].attrs["channels"], blocked[0].attrs["groups"]
        operands = [operand for v in node.inputs if (operand := self._blocked(v, channels, groups, build))]
        if len(operands) < len(node.inputs):
            return None
        filler = None
        if self._fills(channels, groups):
            filler = self._computed_filler(node, operands)
            if filler is None:
                return None
        return self._unblocked(build(node.op, *operands, **node.attrs), channels, groups, filler, build)

    def _fills(self, channels: int, groups: int) -> bool:
        return (channels // groups) % self.block != 0

    def _filler(self, blocked: Value) -> np.ndarray | None:
        """The number that the fillers of `blocked` hold, None when they differ or are unknown."""
        if blocked in self.fillers:
            return self.fillers[blocked]
        if blocked.constant is not None and not blocked.shape:
            return np.asarray(blocked.constant.splat)
        zero = blocked.constant is not None or producer(blocked, "block", "conv_blocked") is not None
        return np.zeros((), numpy_dtype(blocked.dtype)) if zero else None

    def _computed_filler(self, node: Node, operands: Sequence[Value]) -> np.ndarray | None:
        """What `node` makes of its operands' fillers, if it is a number and no trap."""
        fillers = [filler for v in operands if (filler := self._filler(v)) is not None]
        if len(fillers) < len(operands) or (node.op in ("div", "mod") and not is_float(node.output.dtype)):
            return None
        (result,) = OPS[node.op].evaluate(fillers, node.attrs)
        return result if np.abs(result.astype(np.float64)) <= _LARGEST_FILLER else None

    def _unblocked(self, blocked: Value, channels: int, groups: int, filler: np.ndarray | None,
                   build: Builder) -> Value:  # fmt: skip
        if filler is not None:
            self.fillers[blocked] = filler
        return build("unblock", blocked, channels=channels, groups=groups)

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

            type, how = TensorType(value.dtype, blocked), ("block", shape, block, groups)
            return build.constant(value.constant.derive(type, change, how=how), name=value.name)
        if len(value.shape) != 4:
            value = build("reshape", value, shape=shape)
        return build("block", value, block=self.block, groups=groups)

    def _sink_pool(self, node: Node, build: Builder) -> Value | None:
        source = producer(node.inputs[0], "unblock")
        if source is None or len(node.output.shape) != 4:
            return None
        return self._sink_windows(node, source, node.attrs, build)

    def _sink_reduction(self, node: Node, build: Builder) -> Value | None:
        """Sums and the like over the spatial axes."""
        source = producer(node.inputs[0], "unblock")
        if source is None or not set(node.attrs["axes"]) <= {2, 3} or len(node.inputs[0].shape) != 4:
            return None
        plain = self._sink_windows(node, source, {"axes": node.attrs["axes"], "keepdims": 1}, build)
        return plain if plain is None or node.attrs["keepdims"] else build("reshape", plain, shape=node.output.shape)

    def _sink_windows(self, node: Node, source: Node, attrs: Attrs, build: Builder) -> Value | None:
        """An operator that makes one element of many of the same channel."""
        channels, groups = source.attrs["channels"], source.attrs["groups"]
        filler = None
        if self._fills(channels, groups):
            filler = self._filler(source.inputs[0])
            if filler is None or (filler != 0 and node.op not in _OF_EQUALS):
                return None
        return self._unblocked(build(node.op, source.inputs[0], **attrs), channels, groups, filler, build)

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


def _merge_groups(w: np.ndarray, groups: int, merged: int) -> np.ndarray:
    """[O, I, ...] of groups * merged groups to [O, merged * I, ...] of `groups`: their blocks on the diagonal."""
    if merged == 1:
        return w
    out, inputs, *kernel = w.shape
    each = out // (groups * merged)
    wide = np.zeros((groups, merged, each, merged, inputs, *kernel), w.dtype)
    parts = w.reshape(groups, merged, each, inputs, *kernel)
    for part in range(merged):
        wide[:, part, :, part] = parts[:, part]
    return wide.reshape(out, merged * inputs, *kernel)


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
    """Products with constant matrices read panels of `block` columns; a kernel may pack them further."""

    block: int
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
        type = TensorType(b.dtype, (blocks_of(columns, 1, self.block), depth, self.block))

        def pack(data: np.ndarray) -> np.ndarray:
            return pack_matmul_weight(data.T if transposed else data, self.block)

        packed = build.constant(b.constant.derive(type, pack, how=("matmul", transposed, self.block)), name=b.name)
        return build("matmul_packed", a, packed, columns=columns)
