"""Sub-graphs written out as nodes of the graph around them, under names of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import helper


def inline(
    graph: onnx.GraphProto, prefix: str, inputs: Mapping[str, str], outputs: Sequence[str]
) -> list[onnx.NodeProto]:
    """The nodes of `graph`, which reads outer names for its inputs and gives its outputs under those in `outputs` (""
    for one that nobody wants). What it defines itself has its name behind `prefix`."""
    names = dict(inputs)
    for name in _defined(graph):
        names.setdefault(name, prefix + name)
    nodes = [
        helper.make_node("Constant", [], [names[tensor.name]], value=tensor)
        for tensor in graph.initializer
        if tensor.name not in inputs
    ]
    nodes += [_renamed(node, names, prefix) for node in graph.node]
    for info, name in zip(graph.output, outputs, strict=False):
        if name:
            nodes.append(helper.make_node("Identity", [names.get(info.name, info.name)], [name]))
    return nodes


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (name for name in node.output if name)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    copy.name = prefix + node.name if node.name else ""
    for graph in subgraphs(copy):
        _rename_free(graph, names)
    return copy


def _rename_free(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename what `graph` reads of its surroundings."""
    own = {*_defined(graph), *(info.name for info in graph.input)}
    outer = {old: new for old, new in names.items() if old not in own}
    for node in graph.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            _rename_free(inner, outer)
    for info in graph.output:
        info.name = outer.get(info.name, info.name)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def reads(node: onnx.NodeProto) -> set[str]:
    """All names that a node needs: its inputs, and what its sub-graphs read of their surroundings."""
    found = {name for name in node.input if name}
    for graph in subgraphs(node):
        found |= captured(graph)
    return found


def captured(graph: onnx.GraphProto) -> set[str]:
    """The outer names that a sub-graph reads."""
    own = {*_defined(graph), *(info.name for info in graph.input)}
    found = {info.name for info in graph.output}
    for node in graph.node:
        found |= reads(node)
    return found - own
