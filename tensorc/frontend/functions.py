"""Operators that the standard itself defines by others: a node gives way to the nodes of its function's body.

A body is either one for all nodes of an operator, or made for one node, of its attributes and its inputs' types. Both
are protobufs in `onnx.defs`. Here they are put in a node's place: its names stand for the body's formal inputs and
outputs, all other names of the body are made unique, and its attributes for those that the body refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tensorc.errors import UnsupportedError
from tensorc.frontend.inline import subgraphs
from tensorc.frontend.reader import element_code
from tensorc.frontend.registry import STANDARD, SupportedOperator, domain_of, ruled_operators, versions_of
from tensorc.frontend.scope import Datum, SequenceDatum
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Value

#: An `onnx.defs.OpSchema`, whose type stubs do not know of functions.
Schema = Any
#: The operators of this domain are not final; they have no rules, but some have bodies.
PREVIEW = "ai.onnx.preview"
#: The oldest opset that has all that the bodies of that domain hold. They name none, and graphs of the node's own,
#: which are of the model's opset, are part of them: they are read in the model's, or in this one if that is older.
PREVIEW_OPSET = 15
#: How deep bodies may hold operators that have bodies. The standard's own go down four steps.
DEEPEST = 16
#: What the bodies that are made for one node may hold that has no rule, as far as `supported_operators` must know it.
_NEEDED_BY_MADE = {
    "Bernoulli": ("RandomUniformLike",),
    "LinearAttention": ("Scan",),
    "SequenceMap": ("SequenceAt", "SequenceEmpty", "SequenceInsert", "SequenceLength", "Loop"),
}


@dataclass(frozen=True)
class Body:
    """Nodes in a node's place, of opset `opset`. `read` are the names that they read."""

    nodes: tuple[onnx.NodeProto, ...]
    opset: int
    read: frozenset[str]


def is_function(node: onnx.NodeProto, opset: int) -> bool:
    """Whether the standard defines the node's operator by others."""
    schema = _schema(node.op_type, domain_of(node), opset)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def body_of(node: onnx.NodeProto, opset: int, inputs: Sequence[Datum | None], depth: int = 0) -> Body:
    """What `node`, of opset `opset` and with `inputs`, stands for. `depth`: the bodies around it.

    UnsupportedError when the standard gives none for such inputs.
    """
    if depth >= DEEPEST:
        raise UnsupportedError(f"its function body holds others, {DEEPEST} deep")
    schema = _schema(node.op_type, domain_of(node), opset)
    assert schema is not None
    function = _made_for(schema, node, opset, inputs) if schema.has_context_dependent_function else None
    if function is None and schema.has_function:
        function = _parsed(schema.get_function_with_opset_version(_nearest(schema.function_opset_versions, opset)))
    if function is None:
        raise UnsupportedError("the standard has no function body for such inputs and attributes")
    versions = [entry.version for entry in function.opset_import if entry.domain in ("", STANDARD)]
    nodes = tuple(_Inlining(node, function, schema).nodes())
    own = max(opset, PREVIEW_OPSET) if domain_of(node) == PREVIEW else opset
    return Body(nodes, versions[0] if versions else own, frozenset(_names_read(nodes)))


@cache
def _schema(name: str, domain: str, opset: int) -> Schema | None:
    if domain not in (STANDARD, PREVIEW):
        return None
    try:
        if domain == PREVIEW:
            return onnx.defs.get_schema(name, PREVIEW)
        return onnx.defs.get_schema(name, max_inclusive_version=opset)
    except onnx.defs.SchemaError:
        return None


def _made_for(
    schema: Schema, node: onnx.NodeProto, opset: int, inputs: Sequence[Datum | None]
) -> onnx.FunctionProto | None:
    types = [_type_proto(value).SerializeToString() for value in inputs]
    version = _nearest(schema.context_dependent_function_opset_versions, opset)
    try:
        made = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)
        function = _parsed(made)
    except (RuntimeError, DecodeError) as error:
        raise ValueError(f"its function body cannot be made: {error}") from error
    return function if function.node else None


def _parsed(serialized: bytes) -> onnx.FunctionProto:
    function = onnx.FunctionProto()
    function.ParseFromString(serialized)
    return function


def _nearest(versions: Sequence[int], opset: int) -> int:
    """The newest that is not newer than `opset`; else the oldest, whose nodes are of a newer opset than the model's."""
    return max((version for version in versions if version <= opset), default=min(versions))


def _type_proto(datum: Datum | None) -> onnx.TypeProto:
    if isinstance(datum, Value):
        return onnx.helper.make_tensor_type_proto(element_code(datum.dtype), static_shape(datum.shape))
    if isinstance(datum, SequenceDatum):
        tensor = onnx.helper.make_tensor_type_proto(element_code(datum.dtype or "float32"), None)
        return onnx.helper.make_sequence_type_proto(tensor)
    return onnx.TypeProto()


class _Inlining:
    """The nodes of `function` as they stand in the place of `call`."""

    def __init__(self, call: onnx.NodeProto, function: onnx.FunctionProto, schema: Schema):
        self.function = function
        self.label = call.name or call.op_type
        defined = next((name for name in call.output if name), call.op_type)
        #: The body's names -> those that stand for them. What is not among them comes from outside of the body: a graph
        #: that is an attribute of the node may be part of it.
        self.names = {name: f"{defined}:{call.op_type}:{name}" for name in _names_defined(function.node)}
        for formals, actuals in ((function.input, call.input), (function.output, call.output)):
            given = [*actuals, *[""] * (len(formals) - len(actuals))]
            self.names |= {
                formal: name or self.names.get(formal, "") for formal, name in zip(formals, given, strict=False)
            }
        self.attributes = _attributes(call, function, schema)

    def nodes(self) -> Iterator[onnx.NodeProto]:
        for number, node in enumerate(self.function.node):
            placed = self._placed(node)
            placed.name = f"{self.label}/{node.name or f'{node.op_type}_{number}'}"
            yield placed

    def _placed(self, node: onnx.NodeProto) -> onnx.NodeProto:
        result = onnx.NodeProto()
        result.CopyFrom(node)
        del result.attribute[:]
        result.input[:] = [self.names.get(name, name) for name in node.input]
        result.output[:] = [self.names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            given = self.attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if given is None:
                continue  # the node refers to an attribute that the call has not
            added = result.attribute.add()
            added.CopyFrom(given)
            added.name = attribute.name
            if not attribute.ref_attr_name:  # a graph that the call has itself already has names of its own
                for graph in (*([added.g] if added.HasField("g") else []), *added.graphs):
                    self._rename(graph)
        return result

    def _rename(self, graph: onnx.GraphProto) -> None:
        for named in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            named.name = self.names.get(named.name, named.name)
        nodes = [self._placed(node) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)


def _attributes(
    call: onnx.NodeProto, function: onnx.FunctionProto, schema: Schema
) -> Mapping[str, onnx.AttributeProto]:
    """The values of the attributes that the body may refer to: the call's, else their defaults."""
    result = {
        name: attribute.default_value
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
    }
    result |= {attribute.name: attribute for attribute in function.attribute_proto}
    return result | {attribute.name: attribute for attribute in call.attribute}


def _names_defined(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (name for name in node.output if name)
        for graph in subgraphs(node):
            yield from (named.name for named in (*graph.input, *graph.initializer))
            yield from _names_defined(graph.node)


def _names_read(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for graph in subgraphs(node):
            yield from _names_read(graph.node)
            yield from (info.name for info in graph.output)


# What is supported ------------------------------------------------------------------------------------------


def supported_operators() -> list[SupportedOperator]:
    """Every operator that has a rule, or a function body of such operators, by domain and name."""
    newest = onnx.defs.onnx_opset_version()
    schemas = [schema for schema in onnx.defs.get_all_schemas() if schema.domain in ("", PREVIEW)]
    names = ruled_operators() | {
        (schema.domain or STANDARD, schema.name)
        for schema in schemas
        if _is_supported(schema.name, schema.domain or STANDARD, newest)
    }
    return [SupportedOperator(domain, name, versions_of(domain, name)) for domain, name in sorted(names)]


def _is_supported(name: str, domain: str, opset: int) -> bool:
    if (domain, name) in ruled_operators():
        return True
    schema = _schema(name, domain, opset)
    if schema is None or not (schema.has_function or schema.has_context_dependent_function):
        return False
    if schema.has_function:
        needed = [(node.op_type, domain_of(node)) for node in schema.function_body.node]
    else:
        needed = [(inner, STANDARD) for inner in _NEEDED_BY_MADE.get(name, ())]
    return all(_is_supported(inner, inner_domain, opset) for inner, inner_domain in needed)
