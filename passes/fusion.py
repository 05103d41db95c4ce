"""Fusion: nodes that one kernel computes become one `group` node, whose body is the kernel's workload.

A group has at most one anchor or reduction. Elementwise work behind it joins while nobody else needs the values in
between: the chain is followed from a node to its immediate post-dominator, so that a diamond such as x * sigmoid(x)
joins whole. Work in front joins where the kernel reads each element once (reductions, elementwise chains), or where
it only says from where elements are read (slices and transposes in front of products and attention).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tensorc.ir import OPS, Graph, Kind, Node, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.view import EXIT, post_dominators
from tensorc.pipeline import Pass

#: Anchors whose operands (by number) may be read through slices and transposes: addresses change, nothing else.
_MOVED_OPERANDS = {"attention": (0, 1, 2), "matmul": (0, 1), "matmul_packed": (0,)}
_MOVES = frozenset({"slice", "transpose"})
#: These read an element of their operand several times, or many of them: nothing is computed on the way in.
_REPEATING = frozenset({"concat", "expand", "gather", "gather_elements", "gather_nd", "lrn", "pad"})


@dataclass
class _Group:
    """Nodes of one kernel, in order. `head` is the anchor or reduction, if there is one; `tail` gives the result."""

    nodes: list[Node]
    head: Node | None

    @property
    def tail(self) -> Node:
        return self.nodes[-1]


@dataclass(frozen=True)
class FuseGroups(Pass):
    """Every node but views (reshapes, and joins that a memory plan makes free) ends in a group."""

    name: ClassVar[str] = "fuse"

    def run(self, graph: Graph) -> bool:
        groups = _Fusion(graph).groups
        if not groups:
            return False
        inside = {node for group in groups for node in group.nodes}
        placed: dict[Node, Node] = {}
        for group in groups:
            placed[group.tail] = _outline(graph, group)
        nodes: list[Node] = []
        for node in graph.nodes:
            if node in placed:
                nodes.append(placed[node])
            elif node not in inside:
                nodes.append(node)
        for group in groups:
            graph.replace(group.tail.output, placed[group.tail].output)
        for group in groups:
            for node in reversed(group.nodes):
                node.inputs = ()
        graph.nodes = nodes
        return True


class _Fusion:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.outputs = set(graph.outputs)
        self.dominators = post_dominators(graph)
        self.group_of: dict[Node, _Group] = {}
        self.groups: list[_Group] = []
        for node in graph.nodes:
            if node not in self.group_of and _starts(node):
                self._grow(node)
        self.groups = [g for g in self.groups if g.nodes]

    def _grow(self, start: Node) -> None:
        group = _Group([start], start if _kind(start) in (Kind.ANCHOR, Kind.REDUCTION) else None)
        self.groups.append(group)
        self._claim(group, [start])
        for operand in _MOVED_OPERANDS.get(start.op, ()):
            self._take_moves(group, start.inputs[operand])
        while (region := self._next_region(group)) is not None:
            self._claim(group, region)
        while group.nodes and _kind(group.tail) is Kind.VIEW:  # a view at the end is free outside
            del self.group_of[group.nodes.pop()]

    def _claim(self, group: _Group, nodes: Iterable[Node]) -> None:
        members = set(group.nodes)
        for node in nodes:
            other = self.group_of.get(node)
            if other is not None and other is not group:
                members.update(other.nodes)
                group.head = group.head or other.head
                other.nodes = []
            elif _kind(node) is Kind.REDUCTION:
                group.head = node
            members.add(node)
        group.nodes = sorted(members, key=self.position.__getitem__)
        self.group_of.update(dict.fromkeys(group.nodes, group))

    def _take_moves(self, group: _Group, value: Value) -> None:
        """Join the slices and transposes that make an anchor's operand, when it is their only reader."""
        node = value.producer
        while node is not None and node.op in _MOVES and len(value.users) == 1 and value not in self.outputs:
            other = self.group_of.get(node)
            if other is not None and other.nodes != [node]:
                return
            self._claim(group, [node])
            value = node.inputs[0]
            node = value.producer

    def _next_region(self, group: _Group) -> list[Node] | None:
        """The nodes from behind the tail to its post-dominator, when all of them may join."""
        tail = group.tail
        end = self.dominators.get(tail, EXIT)
        if not isinstance(end, Node) or any(value in self.outputs for value in tail.outputs):
            return None
        region: dict[Node, None] = {}
        frontier = [tail]
        while frontier:
            for user in frontier.pop().output.users:
                if user not in region:
                    region[user] = None
                    if user is not end:
                        if user.output in self.outputs:
                            return None
                        frontier.append(user)
        joined = list(region)
        # Groups that met these nodes from another operand come along, if one kernel can still do it all.
        met = {id(g): g for node in joined if (g := self.group_of.get(node)) is not None and g is not group}
        heads = [g.head for g in (group, *met.values()) if g.head is not None]
        if len(heads) > 1 or (heads and any(_kind(node) is Kind.REDUCTION and node not in heads for node in joined)):
            return None
        if any(_kind(head) is Kind.ANCHOR and self.position[end] < self.position[head] for head in heads):
            return None  # in front of an anchor, where elements are read many times
        return joined if all(self._may_join(group, node) for node in joined) else None

    def _may_join(self, group: _Group, node: Node) -> bool:
        kind = _kind(node)
        shape = node.output.shape if node.outputs else ()
        result = group.tail.output
        if kind is Kind.ELEMENTWISE:
            if group.head is not None:
                return shape == group.head.output.shape
            # In front of a broadcast the chain would be computed once for each copy.
            return shape == result.shape or _cheap(group)
        if group.head is not None:
            return False
        if kind is Kind.VIEW:
            return True
        if kind is Kind.INJECTIVE:
            return node.op != "concat" and (node.op not in _REPEATING or _cheap(group))
        if kind is Kind.REDUCTION:
            # A reduction reads its first operand once, its parameters once for every row.
            return all(value.producer not in group.nodes for value in node.inputs[1:])
        return False


def _kind(node: Node) -> Kind:
    return OPS[node.op].kind


def _starts(node: Node) -> bool:
    if node.op == "concat" and is_free_concat(node):
        return False
    return _kind(node) not in (Kind.VIEW,) and node.op != "group"


def _cheap(group: _Group) -> bool:
    """Only moves elements: computing them again costs a load."""
    return all(_kind(node) in (Kind.INJECTIVE, Kind.VIEW) and node.op not in _REPEATING for node in group.nodes)


def is_free_concat(node: Node) -> bool:
    """A join whose parts lie one behind the other in memory: to place the parts is to have the result."""
    return math.prod(static_shape(node.output.shape)[: node.attrs["axis"]]) == 1


def is_view(node: Node) -> bool:
    """The result is bytes that are there already, if the memory plan puts them right."""
    return _kind(node) is Kind.VIEW or (node.op == "concat" and is_free_concat(node))


def _outline(graph: Graph, group: _Group) -> Node:
    """A group node that computes what the nodes do. Single numbers go into its body, other values are inputs."""
    body = Graph("body")
    known: dict[Value, Value] = {}
    inputs: list[Value] = []

    def inner(value: Value, node: Node) -> Value:
        if value not in known:
            constant = value.constant
            literal = constant is not None and constant.splat is not None and (
                math.prod(value.shape) == 1 or _kind(node) is Kind.ELEMENTWISE
            )  # fmt: skip
            if constant is not None and literal:
                known[value] = body.add_constant(constant, value.name)
            else:
                known[value] = body.add_input(value.name, value.type)
                inputs.append(value)
        return known[value]

    for node in group.nodes:
        known[node.output] = body.add(node.op, [inner(v, node) for v in node.inputs], node.attrs, name=node.output.name)
    body.outputs = [known[group.tail.output]]
    return graph.make("group", inputs, {}, body, name=group.tail.output.name)


def copy_of(graph: Graph, value: Value) -> Node:
    """A group that copies `value`: its body gives back what it is given."""
    body = Graph("body")
    body.outputs = [body.add_input(value.name, value.type)]
    return graph.make("group", [value], {}, body, name=value.name)
