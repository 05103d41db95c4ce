"""Checks that a graph keeps the IR's rules; run after every pass."""

from __future__ import annotations

from collections import Counter

from tensorc.errors import IRError
from tensorc.ir.graph import Graph, Node, result_types
from tensorc.ir.ops import OPS


def verify(graph: Graph) -> None:
    """Raise IRError at the first broken rule, with the lines around it."""
    defined = {id(value) for value in graph.inputs}
    names = Counter(value.name for value in graph.values())
    names.update(value.name for value in graph.constants())
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise IRError(f"two values of graph {graph.name!r} are named %{repeated[0]}")
    for node in graph.nodes:
        try:
            _verify_node(node, defined)
        except (IRError, TypeError, ValueError) as error:
            raise IRError(f"{error}\n{_around(graph, node)}") from error
        defined.update(id(value) for value in node.outputs)
    for value in graph.outputs:
        if id(value) not in defined and value.constant is None:
            raise IRError(f"graph {graph.name!r} returns %{value.name}, which nothing defines")
    _verify_users(graph)


def _verify_node(node: Node, defined: set[int]) -> None:
    row = OPS.get(node.op)
    if row is None:
        raise IRError(f"unknown op {node.op!r}")
    row.check_arity(len(node.inputs))
    if node.attrs != row.complete(node.attrs):
        raise IRError(f"{node.op} lacks attributes: {sorted(set(row.attrs) - set(node.attrs))}")
    for value in node.inputs:
        if value.constant is None and id(value) not in defined:
            raise IRError(f"{node.op} reads %{value.name} before it is defined")
    if (node.body is not None) != (node.op == "group"):
        raise IRError("a group, and only a group, has a body")
    if node.body is not None:
        verify(node.body)
        got, want = [v.type for v in node.inputs], [v.type for v in node.body.inputs]
        if got != want:
            raise IRError(f"the body takes {want}, the group is given {got}")
    for region in node.regions:
        verify(region)
    types = result_types(node)
    if [value.type for value in node.outputs] != types:
        raise IRError(
            f"{node.op} gives {', '.join(map(str, types))}, but its outputs are {', '.join(map(repr, node.outputs))}"
        )
    if any(value.producer is not node for value in node.outputs):
        raise IRError(f"an output of {node.op} names another producer")


def _verify_users(graph: Graph) -> None:
    reads: Counter[tuple[int, int]] = Counter()
    for node in graph.nodes:
        reads.update((id(value), id(node)) for value in node.inputs)
    for value in (*graph.values(), *graph.constants()):
        for user in value.users:
            if reads[id(value), id(user)] != value.users.count(user):
                raise IRError(f"%{value.name} lists {user.op} as a user, which is not in the graph or reads it less")
    for node in graph.nodes:
        for value in node.inputs:
            if node not in value.users:
                raise IRError(f"{node.op} reads %{value.name}, which does not list it as a user")


def _around(graph: Graph, fault: Node, context: int = 5) -> str:
    index = graph.nodes.index(fault)
    lines = [
        f"{'>' if node is fault else ' '} {node!r}"
        for node in graph.nodes[max(index - context, 0) : index + context + 1]
    ]
    return "\n".join(lines)
