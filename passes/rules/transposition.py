"""A transposition that undoes an earlier one is worth chasing through the arithmetic between them.

Rotary embeddings stand between the transpose of a query and the attention that wants it back; so do activations
between the layers of an NHWC export. The search goes up from the later transpose and fires only when it finds that
all of it vanishes: every branch ends at a constant, at a transpose that it undoes, or at a mere view. So nothing is
ever transposed twice to save once.
"""

from __future__ import annotations

from collections.abc import Sequence

from passes.rules.matching import private, reshaped, transposed
from passes.rules.movement import compose, moves_nothing, view
from tensorc.ir.graph import Node, Value
from tensorc.ir.ops import OPS, Kind
from tensorc.ir.rewriter import Builder, Rule, producer


def undo_earlier_transpose(node: Node, build: Builder) -> Value | None:
    x = node.inputs[0]
    if producer(x, "transpose") is not None:
        return None
    return _without_moving(x, node.attrs["perm"], build)


def _without_moving(value: Value, perm: Sequence[int], build: Builder) -> Value | None:
    """`value` transposed by `perm`, if that takes no transpose."""
    shape = tuple(value.shape[axis] for axis in perm)
    if value.constant is not None:
        return build.constant(transposed(value.constant, tuple(perm)))
    if moves_nothing(value.shape, perm):
        return view(build, value, shape)
    inner = producer(value, "transpose")
    if inner is not None:
        source = inner.inputs[0]
        undone = moves_nothing(source.shape, compose(inner.attrs["perm"], perm))
        return view(build, source, shape) if undone else None
    node = value.producer
    if node is None or not private(value, build.graph):
        return None
    if node.op == "slice":
        return _slice(node, perm, build)
    if node.op == "concat":
        parts = _operands(node, perm, build)
        return build("concat", *parts, axis=perm.index(node.attrs["axis"])) if parts is not None else None
    if OPS[node.op].kind is Kind.ELEMENTWISE and node.op != "batch_norm":
        operands = _operands(node, perm, build)
        return build(node.op, *operands, **node.attrs) if operands is not None else None
    return None


def _slice(node: Node, perm: Sequence[int], build: Builder) -> Value | None:
    source = _without_moving(node.inputs[0], perm, build)
    if source is None:
        return None
    starts, sizes, steps = (tuple(node.attrs[key][axis] for axis in perm) for key in ("starts", "sizes", "steps"))
    return build("slice", source, starts=starts, sizes=sizes, steps=steps)


def _operands(node: Node, perm: Sequence[int], build: Builder) -> list[Value] | None:
    found: list[Value] = []
    for operand in node.inputs:
        moved = _without_moving(_of_rank(operand, len(perm), build), perm, build) if operand.shape else operand
        if moved is None:
            return None
        found.append(moved)
    return found


def _of_rank(value: Value, rank: int, build: Builder) -> Value:
    """`value` with axes of extent 1 in front, as broadcasting reads it."""
    shape = (1,) * (rank - len(value.shape)) + value.shape
    return build.constant(reshaped(value.constant, shape)) if value.constant is not None else view(build, value, shape)


RULES: dict[str, list[Rule]] = {"transpose": [undo_earlier_transpose]}
