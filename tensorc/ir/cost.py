"""How much work a fused group is: arithmetic operations and bytes of memory, from shapes alone.

Conventions, the usual ones of rooflines:
- A multiply-add is two operations; an elementwise operator is one for each result, a transcendental function too;
  moving elements is none. Windows over padding count whole, as do keys that a mask hides.
- What types say is what counts. A channel that only fills a block of a blocked layout is an element like others: it
  is computed, and a graph does not know which ones those are. A column that only fills a panel of packed weights is
  no element of the product.
- Bytes are what must cross a cache that is empty before and large enough: each input and output of the group once,
  of a table that is gathered from or sliced no more than is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tensorc.errors import IRError
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Graph, Node, Value
from tensorc.ir.ops import OPS, Kind
from tensorc.ir.types import numpy_dtype


@dataclass(frozen=True, slots=True)
class Work:
    """Of one run: `flops` operations, `nbytes` read or written."""

    flops: int
    nbytes: int


def work(body: Graph) -> Work:
    """What one run of the group with this body takes; shapes must be static."""
    read = sum(_read_bytes(value, body) for value in (*body.inputs, *body.constants()))
    written = sum(value.type.nbytes for value in body.outputs)
    return Work(sum(flops(node) for node in body.nodes), read + written)


def flops(node: Node) -> int:
    """Operations of one node; 0 for those that only move elements."""
    if node.body is not None:
        return sum(flops(inner) for inner in node.body.nodes)
    rule = _RULES.get(node.op)
    if rule is not None:
        return rule(node)
    kind = OPS[node.op].kind
    if kind is Kind.ANCHOR:
        raise IRError(f"{node.op} has no rule in tensorc.ir.cost for the operations that it takes")
    if kind is Kind.REDUCTION:
        return node.inputs[0].type.size
    return node.output.type.size if kind is Kind.ELEMENTWISE else 0


# Bytes ---------------------------------------------------------------------------------------------------

#: These read of their first input only what they give.
_TAKING = frozenset({"gather", "gather_elements", "gather_nd", "slice"})


def _read_bytes(value: Value, body: Graph) -> int:
    if value.constant is not None and value.constant.splat is not None:
        return 0  # one number, which is part of the code
    return _read_elements(value, body) * numpy_dtype(value.dtype).itemsize


def _read_elements(value: Value, body: Graph) -> int:
    """At most as many elements as there are, and as all that read them take."""
    if any(value is output for output in body.outputs):
        return value.type.size
    return min(value.type.size, sum(_taken(user, value, body) for user in value.users))


def _taken(user: Node, value: Value, body: Graph) -> int:
    if user.op in _TAKING and all(value is not other for other in user.inputs[1:]):
        return user.output.type.size
    if OPS[user.op].kind is Kind.VIEW:
        return _read_elements(user.output, body)
    return value.type.size


# Operations ----------------------------------------------------------------------------------------------


def _shape(node: Node, index: int) -> tuple[int, ...]:
    return static_shape(node.inputs[index].shape)


def _conv(node: Node) -> int:
    _, per_group, *kernel = _shape(node, 1)
    return 2 * node.output.type.size * per_group * math.prod(kernel)


def _conv_blocked(node: Node) -> int:
    _, per_group, *kernel, _ = _shape(node, 1)
    return 2 * node.output.type.size * per_group * math.prod(kernel)


def _matmul(node: Node) -> int:
    return 2 * node.output.type.size * _shape(node, 0)[-1]


def _attention(node: Node) -> int:
    """The two products, as is the custom: softmax, scale and mask are of a lower order."""
    batch, queries, heads, depth = _shape(node, 0)
    _, keys, _, value_depth = _shape(node, 2)
    return 2 * batch * heads * queries * keys * (depth + value_depth)


def _pool(node: Node) -> int:
    return node.output.type.size * int(math.prod(node.attrs["kernel"]))


def _lrn(node: Node) -> int:
    """Squares and their sum, then scale, bias, power and quotient."""
    return node.output.type.size * (2 * int(node.attrs["size"]) + 4)


def _det(node: Node) -> int:
    """Elimination, a multiply and a subtract for each element below each pivot."""
    extent = _shape(node, 0)[-1]
    return node.output.type.size * (2 * extent**3 // 3)


def _each(count: int) -> Callable[[Node], int]:
    """`count` operations for each element of the result."""
    return lambda node: count * node.output.type.size


_RULES: dict[str, Callable[[Node], int]] = {
    "conv": _conv,
    "conv_blocked": _conv_blocked,
    "matmul": _matmul,
    "lmul_conv": _conv,
    "lmul_matmul": _matmul,
    "matmul_coded": _matmul,
    "matmul_packed": _matmul,
    "attention": _attention,
    "fixed_attention": _attention,
    "max_pool": _pool,
    "avg_pool": _pool,
    "lrn": _lrn,
    "det": _det,
    "experts": _matmul,
    "batch_norm": _each(2),  # a multiply and an add, once its constants are folded
    "softmax": _each(5),  # maximum, subtract, exponential, sum, divide
    "fixed_softmax": _each(5),
    "fixed_top_k": lambda node: node.inputs[0].type.size,
    "log_softmax": _each(5),
    "fixed_norm": _each(5),  # without scale and bias
    "layer_norm": _each(7),  # mean, subtract, square, its mean, normalise, scale, bias
    "rms_norm": _each(4),  # square, its mean, normalise, scale
    "scatter": lambda node: int(node.inputs[2].type.size),
}
