"""Common subexpressions: of nodes that compute the same from the same, the first stays."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tensorc.ir.graph import Graph, Node, Value
from tensorc.pipeline import Pass

#: Constants up to this many elements are compared by content, larger ones by identity.
_BY_CONTENT = 1 << 10
_COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "xor", "equal"})


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Nodes that hold graphs are left alone: whether two of those are the same is not this pass's question."""

    name: ClassVar[str] = "eliminate-common-subexpressions"

    def run(self, graph: Graph) -> bool:
        first: dict[Hashable, Node] = {}
        for node in graph.nodes:
            if node.body is not None or node.regions:
                continue
            same = first.setdefault(_key(node), node)
            if same is not node:
                for old, new in zip(node.outputs, same.outputs, strict=True):
                    graph.replace(old, new)
        return graph.remove_dead()


def _key(node: Node) -> Hashable:
    operands = [_operand(value) for value in node.inputs]
    if node.op in _COMMUTATIVE:
        operands.sort(key=hash)
    # repr: attribute values need not be hashable, and nan must equal itself.
    attrs = tuple(sorted((name, repr(value)) for name, value in node.attrs.items()))
    return node.op, attrs, tuple(operands), tuple(value.type for value in node.outputs)


def _operand(value: Value) -> Hashable:
    constant = value.constant
    if constant is None:
        return id(value)
    if constant.splat is not None:
        return constant.type, np.asarray(constant.splat).tobytes()
    if constant.type.size <= _BY_CONTENT:
        return constant.type, constant.numpy().tobytes()
    return id(constant)
