"""A reshape of leading axes is worth chasing upwards, to the earlier reshape that it undoes.

Exporters flatten [batch, length, depth] to rows around a product of matrices. What stands between the two views works
on rows and does not care how many axes lead to them; done on the original shape, the later view vanishes, and with it
the barrier between the product and what follows.
"""

from __future__ import annotations

from passes.rules.matching import private, reshaped
from passes.rules.movement import view
from tensorc.ir import dims
from tensorc.ir.dims import Shape
from tensorc.ir.graph import Node, Value
from tensorc.ir.ops import OPS, Kind
from tensorc.ir.rewriter import Builder, Rule, producer

#: Operators over the last axis, where their attribute `axis` says so.
_OVER_ROWS = ("layer_norm", "rms_norm", "softmax", "log_softmax")


def undo_earlier_view(node: Node, build: Builder) -> Value | None:
    x, shape = node.inputs[0], node.output.shape
    if producer(x, "reshape") is not None or x.shape[-1:] != shape[-1:] or not shape:
        return None
    return _led_by(shape[:-1], x, build)


def _led_by(leading: Shape, value: Value, build: Builder) -> Value | None:
    """`value` with its axes but the last reshaped to `leading`, if a view that made it takes that up."""
    if value.constant is not None:
        return build.constant(reshaped(value.constant, dims.static_shape((*leading, value.shape[-1]))))
    earlier = producer(value, "reshape")
    if earlier is not None:
        return view(build, earlier.inputs[0], (*leading, value.shape[-1]))
    node = value.producer
    if node is None or not private(value, build.graph):
        return None
    if node.op == "matmul":
        rows = _led_by(leading, node.inputs[0], build) if node.inputs[1].type.rank == 2 and leading else None
        return build("matmul", rows, node.inputs[1], **node.attrs) if rows is not None else None
    if node.op in _OVER_ROWS:
        rows = _led_by(leading, node.inputs[0], build) if node.attrs["axis"] == value.type.rank - 1 else None
        attrs = {**node.attrs, "axis": len(leading)}
        return build(node.op, rows, *node.inputs[1:], **attrs) if rows is not None else None
    if OPS[node.op].kind is Kind.ELEMENTWISE and node.op != "batch_norm":
        return _elementwise(leading, node, build)
    return None


def _elementwise(leading: Shape, node: Node, build: Builder) -> Value | None:
    operands: list[Value] = []
    for operand in node.inputs:
        moved = _led_by(leading, operand, build) if operand.shape == node.output.shape else _row(operand, build)
        if moved is None:
            return None
        operands.append(moved)
    result = build(node.op, *operands, **node.attrs)
    return result if result.shape == (*leading, node.output.shape[-1]) else None


def _row(value: Value, build: Builder) -> Value | None:
    """An operand that is the same for every row, without leading axes."""
    if any(dim != 1 for dim in value.shape[:-1]):
        return None
    return view(build, value, value.shape[-1:])


RULES: dict[str, list[Rule]] = {"reshape": [undo_earlier_view]}
