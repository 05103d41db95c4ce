"""Nodes of the opsets before 7, written as nodes of opset 7: the rules need not know of them.

What changed then is mostly how operands are broadcast: along an axis that is named, no longer from the last one on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import helper

from tensorc.errors import UnsupportedError
from tensorc.frontend.scope import Datum
from tensorc.ir.graph import Value

#: The opset that nodes are raised to.
RAISED = 7

_BROADCASTING = frozenset({"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"})
#: Attributes that went without anything in their place.
_GONE = frozenset({"broadcast", "consumed_inputs", "is_test", "output_sequence"})

Upgrade = Callable[[onnx.NodeProto, int, Sequence[Datum | None]], list[onnx.NodeProto]]


def raised(node: onnx.NodeProto, opset: int, inputs: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    """Nodes of opset 7 that do what `node`, of `opset` and with `inputs`, does. UnsupportedError if there are none."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    gone = _GONE | {"axis"} if node.op_type in _BROADCASTING else _GONE
    kept = [attribute for attribute in node.attribute if attribute.name not in gone]
    del result.attribute[:]
    result.attribute.extend(kept)
    before = _UPGRADES[node.op_type](result, opset, inputs) if node.op_type in _UPGRADES else []
    if node.op_type in _BROADCASTING:
        before = _aligned(result, _number(node, "axis", -1), inputs)
    if node.op_type in ("BatchNormalization", "Dropout") and not _number(node, "is_test", 0):
        raise UnsupportedError("it is in training mode")
    return [*before, result]


def _number(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _rank(datum: Datum | None) -> int:
    return len(datum.shape) if isinstance(datum, Value) else 0


def _aligned(node: onnx.NodeProto, axis: int, inputs: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    """The second operand's first axis stands at `axis` of the first operand, -1 where its last one is the last."""
    if axis < 0 or len(inputs) < 2:
        return []
    return _lengthened(node, 1, range(_rank(inputs[1]), _rank(inputs[0]) - axis))


def _lengthened(node: onnx.NodeProto, index: int, axes: Sequence[int]) -> list[onnx.NodeProto]:
    """Puts axes of extent 1 into an input."""
    if not axes:
        return []
    name = f"{node.output[0]}:{node.input[index]}:aligned"
    given, node.input[index] = node.input[index], name
    return [helper.make_node("Unsqueeze", [given], [name], axes=list(axes))]


def _slope(node: onnx.NodeProto, _: int, inputs: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    """One slope a channel, which is axis 1."""
    slope = inputs[1] if len(inputs) > 1 else None
    if not isinstance(slope, Value) or _rank(slope) != 1 or slope.shape == (1,):
        return []
    return _lengthened(node, 1, range(1, _rank(inputs[0]) - 1))


def _shape_attribute(node: onnx.NodeProto, opset: int, _: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    if opset >= 5:
        return []
    shape = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "shape"), None)
    if shape is None:
        raise ValueError("the attribute 'shape' is missing")
    del node.attribute[:]
    name = f"{node.output[0]}:shape"
    node.input.append(name)
    value = helper.make_tensor(name, onnx.TensorProto.INT64, [len(shape)], shape)
    return [helper.make_node("Constant", [], [name], value=value)]


def _type_name(node: onnx.NodeProto, opset: int, _: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    for attribute in node.attribute if opset < 6 else ():
        if attribute.name == "to":
            code = onnx.TensorProto.DataType.Value(attribute.s.decode("utf-8", "replace").upper())
            attribute.CopyFrom(helper.make_attribute("to", code))
    return []


def _paddings(node: onnx.NodeProto, opset: int, _: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    for attribute in node.attribute if opset < 2 else ():
        if attribute.name == "paddings":
            attribute.name = "pads"
    return []


def _default(name: str, value: float, until: int) -> Upgrade:
    """An attribute that had a default before opset `until`, which it has no more, or another."""

    def upgrade(node: onnx.NodeProto, opset: int, _: Sequence[Datum | None]) -> list[onnx.NodeProto]:
        if opset < until and all(attribute.name != name for attribute in node.attribute):
            node.attribute.append(helper.make_attribute(name, value))
        return []

    return upgrade


def _selu(node: onnx.NodeProto, opset: int, inputs: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    _default("alpha", 1.6732, 6)(node, opset, inputs)
    return _default("gamma", 1.0507, 6)(node, opset, inputs)


def _tile(node: onnx.NodeProto, opset: int, inputs: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    """Repeated along one axis, by two inputs."""
    if opset >= 6:
        return []
    tiles, axis = inputs[1:3]
    known = [v.constant for v in (tiles, axis) if isinstance(v, Value) and v.constant is not None]
    if len(known) < 2:
        raise UnsupportedError("its input 1 or 2 is computed from data, in an opset before 6")
    repeats = [1] * _rank(inputs[0])
    repeats[int(known[1].numpy().reshape(()))] = int(known[0].numpy().reshape(()))
    name = f"{node.output[0]}:repeats"
    del node.input[1:]
    node.input.append(name)
    value = helper.make_tensor(name, onnx.TensorProto.INT64, [len(repeats)], repeats)
    return [helper.make_node("Constant", [], [name], value=value)]


def _split(node: onnx.NodeProto, opset: int, inputs: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    if opset < 2 and len(inputs) > 1 and inputs[1] is not None:
        sizes = inputs[1]
        if not isinstance(sizes, Value) or sizes.constant is None:
            raise UnsupportedError("its input 1 is computed from data, in an opset before 2")
        node.attribute.append(helper.make_attribute("split", [int(size) for size in sizes.constant.numpy()]))
        del node.input[1:]
    return []


def _unsupported(_node: onnx.NodeProto, opset: int, _inputs: Sequence[Datum | None]) -> list[onnx.NodeProto]:
    raise UnsupportedError(f"it is of opset {opset}")


_UPGRADES: dict[str, Upgrade] = {
    "Cast": _type_name,
    "Concat": _default("axis", 1, 4),
    "PRelu": _slope,
    "Pad": _paddings,
    "Reshape": _shape_attribute,
    "Selu": _selu,
    "Split": _split,
    "Tile": _tile,
    "Upsample": _unsupported,
}
