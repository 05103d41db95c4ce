"""Constant factors behind a convolution or matrix product move into its weights, which are rescaled when packed.

A factor that is one number, or one for each output channel, commutes with the sum of products. The weights stay
where they are: what changes is how they are loaded (`Constant.derive`), in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np

from passes.rules.matching import combine, is_small, private, transposed, wide
from tensorc.ir.graph import Constant, Node, Value
from tensorc.ir.rewriter import Builder, Rule, producer
from tensorc.ir.types import is_float


def is_per_channel(constant: Constant, shape: tuple[object, ...], axis: int) -> bool:
    """Whether `constant`, broadcast to `shape`, varies along `axis` only."""
    padded = (1,) * (len(shape) - constant.type.rank) + constant.type.shape
    return len(padded) == len(shape) and all(dim == 1 or at == axis for at, dim in enumerate(padded))


def channel_axis(anchor: Node) -> int:
    """The axis of the result that the weights' output channels are."""
    return 1 if anchor.op == "conv" else anchor.output.type.rank - 1


def weighted_anchor(value: Value, build: Builder) -> Node | None:
    """The convolution or product by constant weights that makes `value` for one reader."""
    anchor = producer(value, "conv", "matmul")
    if anchor is None or not is_float(value.dtype) or not private(value, build.graph):
        return None
    if anchor.inputs[1].constant is None or anchor.attrs.get("transpose_b"):
        return None
    return anchor


def scale_weights(anchor: Node, factor: np.ndarray, build: Builder) -> Value:
    """`anchor` with its output channels multiplied by `factor`, float64 of one element or one a channel."""
    x, weights = anchor.inputs
    assert weights.constant is not None
    along = factor.reshape(-1, *[1] * (weights.type.rank - 1)) if anchor.op == "conv" else factor

    def times_factor(data: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # infinities and nan are results like others
            return np.asarray((data.astype(np.float64) * along).astype(data.dtype))

    scaled = weights.constant.derive(weights.type, times_factor)
    return build(anchor.op, x, build.constant(scaled, name=f"{weights.name}.scaled"), **anchor.attrs)


def _factor(node: Node, anchor: Node) -> np.ndarray | None:
    """The constant that `node` multiplies by, when `anchor`'s weights can take it up."""
    constant = node.inputs[1].constant
    if constant is None or not is_small(constant) or node.inputs[0].type != node.output.type:
        return None
    if not is_per_channel(constant, node.output.shape, channel_axis(anchor)):
        return None
    factor = wide(constant).reshape(-1)
    return factor if np.isfinite(factor).all() else None


def fold_factor(node: Node, build: Builder) -> Value | None:
    """conv(x, w) * c -> conv(x, w * c), and so for matmul."""
    anchor = weighted_anchor(node.inputs[0], build)
    factor = _factor(node, anchor) if anchor is not None else None
    return scale_weights(anchor, factor, build) if anchor is not None and factor is not None else None


def distribute_factor(node: Node, build: Builder) -> Value | None:
    """(y + b) * c -> y * c + b * c where y takes up the factor: it is scaled already, or made by weights."""
    bias, factor = producer(node.inputs[0], "add"), node.inputs[1].constant
    if bias is None or factor is None or not private(bias.output, build.graph):
        return None
    y, offset = bias.inputs
    if offset.constant is None or y.type != node.output.type or not is_float(y.dtype):
        return None
    anchor, scaled = weighted_anchor(y, build), producer(y, "mul")
    takes_it = anchor is not None and _factor(node, anchor) is not None
    takes_it |= scaled is not None and scaled.inputs[1].constant is not None and private(y, build.graph)
    product = combine(np.multiply, offset.constant, factor) if takes_it else None
    if product is None:
        return None
    return build("add", build("mul", y, node.inputs[1]), build.constant(product))


def absorb_transpose(node: Node, build: Builder) -> Value | None:
    """matmul(a, transpose of the last two axes) <-> its attribute; constants are transposed when loaded."""
    a, b = node.inputs
    if b.constant is not None:
        if not node.attrs["transpose_b"]:
            return None
        return build("matmul", a, build.constant(transposed(b.constant, _swapped(b.type.rank)), name=b.name))
    move = producer(b, "transpose")
    if move is None or tuple(move.attrs["perm"]) != _swapped(b.type.rank):
        return None
    return build("matmul", a, move.inputs[0], transpose_b=1 - node.attrs["transpose_b"])


def _swapped(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


RULES: dict[str, list[Rule]] = {
    "mul": [fold_factor, distribute_factor],
    "matmul": [absorb_transpose],
}
