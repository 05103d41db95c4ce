"""What is known of the numbers that a value holds."""

from __future__ import annotations

from tensorc.ir.graph import Value
from tensorc.ir.ops.table import OPS, Kind
from tensorc.ir.types import is_integer


def is_from_integers(x: Value, size: int | None = None) -> bool:
    """Whether x is sums and products of converted integers and of factors that are given, and so a number. Given are
    constants, and inputs of the graph that have fewer than the `size` elements of what is computed."""
    node = x.producer
    if size is None:
        size = x.type.size
    if node is None:
        return x.constant is not None or x.type.size < size
    if node.op in ("cast", "dequantize"):
        return is_integer(node.inputs[0].dtype)
    keeps = node.op in ("add", "sub", "mul", "clip", "relu", "round") or OPS[node.op].kind is Kind.VIEW
    return keeps and all(is_from_integers(value, size) for value in node.inputs)
