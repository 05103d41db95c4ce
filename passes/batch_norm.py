"""Batch normalisation in its inference form is a multiply and an add, which mostly fold away.

Behind a convolution (or a product of matrices) by constant weights, with or without a bias between them, the factor
goes into the weights and one bias stays. Standing alone, as before DenseNet's activations, it becomes `mul` and `add`
of [C,1,1] constants. Parameters that are not constants are computed at run time, by operators; so no `batch_norm` is
left for a target to lower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.rules.matching import compact, is_small, private, wide
from passes.rules.weights import channel_axis, is_per_channel, scale_weights, weighted_anchor
from tensorc.ir.graph import Constant, Graph, Node, Value
from tensorc.ir.rewriter import Builder, producer, rewrite
from tensorc.ir.types import TensorType, is_float
from tensorc.pipeline import Pass


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """No `batch_norm` is left. The fold is computed in float64 and rounded once."""

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, graph: Graph) -> bool:
        return rewrite(graph, {"batch_norm": [_fold, _multiply_and_add, _compute]})


def _affine(node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """(factor, shift), float64 [C], of a batch_norm with constant parameters."""
    channels = node.inputs[0].shape[1]
    parameters: list[np.ndarray] = []
    for value in node.inputs[1:]:
        if value.constant is None or not is_small(value.constant):
            return None
        parameters.append(np.broadcast_to(wide(value.constant), (channels,)))
    scale, bias, mean, variance = parameters
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attrs["epsilon"])
        shift = bias - mean * factor
    return (factor, shift) if np.isfinite(factor).all() and np.isfinite(shift).all() else None


def _per_channel(data: np.ndarray, node: Node) -> Constant:
    shape = (data.size, *[1] * (node.output.type.rank - 2))
    return compact(data.reshape(shape), TensorType(node.output.dtype, shape))


def _bias_of(x: Value, build: Builder) -> tuple[Value, np.ndarray]:
    """x as (y, b) with x = y + b and b constant for each channel; b is zero when there is none."""
    add = producer(x, "add")
    constant = add.inputs[1].constant if add is not None else None
    if add is None or constant is None or not private(x, build.graph):
        return x, np.zeros(1)
    if not is_small(constant) or add.inputs[0].type != x.type or not is_per_channel(constant, x.shape, 1):
        return x, np.zeros(1)
    return add.inputs[0], wide(constant).reshape(-1)


def _fold(node: Node, build: Builder) -> Value | None:
    """batch_norm(conv(x, w) + b) -> conv(x, w * factor) + (b * factor + shift)."""
    affine = _affine(node)
    y, bias = _bias_of(node.inputs[0], build)
    anchor = weighted_anchor(y, build)
    if affine is None or anchor is None or channel_axis(anchor) != 1:
        return None
    factor, shift = affine
    return build("add", scale_weights(anchor, factor, build), build.constant(_per_channel(bias * factor + shift, node)))


def _multiply_and_add(node: Node, build: Builder) -> Value | None:
    affine = _affine(node)
    if affine is None or not is_float(node.output.dtype):
        return None
    factor, shift = (build.constant(_per_channel(data, node)) for data in affine)
    return build("add", build("mul", node.inputs[0], factor), shift)


def _compute(node: Node, build: Builder) -> Value:
    """The definition, for parameters known at run time only."""
    x, scale, bias, mean, variance = node.inputs
    epsilon = build.constant(Constant.full(TensorType(variance.dtype, ()), node.attrs["epsilon"]))
    factor = build("mul", scale, build("rsqrt", build("add", variance, epsilon)))
    shift = build("sub", bias, build("mul", mean, factor))
    shape = (x.shape[1], *[1] * (x.type.rank - 2))
    factor, shift = (build("reshape", value, shape=shape) for value in (factor, shift))
    return build("add", build("mul", x, factor), shift)
