"""Whether a node is what its operator's schema says: the number of its inputs and outputs, its attributes' types.

Rules read nodes that are known to be sound in this respect; what else an operator asks of its inputs, they see.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx
from onnx import AttributeProto

_KINDS = {int(value): name for name, value in AttributeProto.AttributeType.items()}


@functools.cache
def _schema(name: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return None


def check_node(node: onnx.NodeProto, opset: int) -> None:
    """Raise ValueError where `node`, of the standard domain, is not as its operator's schema in `opset` has it.

    An operator that this opset does not define is left to its rule.
    """
    schema = _schema(node.op_type, opset)
    if schema is None:
        return
    _check_count("inputs", len(node.input), schema.min_input, schema.max_input)
    _check_count("outputs", len(node.output), schema.min_output, schema.max_output)
    names = [attribute.name for attribute in node.attribute]
    for attribute in node.attribute:
        _check_attribute(attribute, schema)
        if names.count(attribute.name) > 1:
            raise ValueError(f"the attribute {attribute.name!r} is given twice")
    for name, row in schema.attributes.items():
        if row.required and name not in names:
            raise ValueError(f"the attribute {name!r} is missing")


def _check_count(what: str, count: int, least: int, most: int) -> None:
    if count < least:
        raise ValueError(f"{what.removesuffix('s')} {count} is missing")
    if count > most:
        raise ValueError(f"it has {count} {what}, and may have {most}")


def _check_attribute(attribute: AttributeProto, schema: onnx.defs.OpSchema) -> None:
    row = schema.attributes.get(attribute.name)
    if row is None:
        if attribute.name.startswith("_"):  # what exporters keep for themselves
            return
        legal = ", ".join(sorted(schema.attributes)) or "none"
        raise ValueError(f"there is no attribute {attribute.name!r}; attributes: {legal}")
    wanted, given = _name(row.type), _KINDS.get(attribute.type, str(attribute.type))
    if given != wanted:
        raise ValueError(f"the attribute {attribute.name!r} must be {wanted}, not {given}")
    if wanted in _FIELDS and not attribute.HasField(_FIELDS[wanted]):
        raise ValueError(f"the attribute {attribute.name!r} has no value")


def _name(type: Any) -> str:
    return str(type.name)


#: Where the value of an attribute of one value lies. Numbers and strings that are not written are 0 and "".
_FIELDS: dict[str, Any] = {"TENSOR": "t", "GRAPH": "g", "SPARSE_TENSOR": "sparse_tensor", "TYPE_PROTO": "tp"}
