"""What can be said of a model before the shapes of its inputs are known: that its graph hangs together.

A model with free shapes is translated when it meets a shape for the first time. What is wrong whatever the shape, or is
not supported, is to be found when it is compiled.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import onnx

from tensorc.errors import UserError
from tensorc.frontend.functions import is_function
from tensorc.frontend.inline import subgraphs
from tensorc.frontend.operators import find_rule
from tensorc.frontend.reader import LoadedModel
from tensorc.frontend.registry import STANDARD, domain_of
from tensorc.frontend.schema import check_node
from tensorc.frontend.translator import Unsupported, label_of, why_unknown


def check_structure(model: LoadedModel, opset: int, fallback: bool) -> None:
    """Raise UserError where names, inputs or attributes of a node are wrong, UnsupportedError, for all operators at
    once, where one has no rule. With `fallback` there need be none."""
    unsupported = Unsupported()
    _Check(model, opset, unsupported).graph(model.proto.graph, frozenset())
    if not fallback:
        unsupported.check(model.name)


class _Check:
    def __init__(self, model: LoadedModel, opset: int, unsupported: Unsupported):
        self.model = model
        self.opset = opset
        self.unsupported = unsupported

    def graph(self, graph: onnx.GraphProto, outer: AbstractSet[str]) -> None:
        """`outer` are the names that the graphs around it define."""
        defined = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
        defined |= {tensor.values.name for tensor in graph.sparse_initializer}
        for node in graph.node:
            for name in node.input:
                if name and name not in defined and name not in outer:
                    raise self.error(node, f"reads {name!r}, which nothing before it defines")
            self.node(node)
            for inner in subgraphs(node):
                self.graph(inner, defined | outer)
            for name in filter(None, node.output):
                if name in defined:
                    raise self.error(node, f"its output {name!r} is defined before")
                defined.add(name)
        for info in graph.output:
            if info.name not in defined and info.name not in outer:
                raise UserError(f"{self.model.name}: nothing defines the output {info.name!r}")

    def node(self, node: onnx.NodeProto) -> None:
        if find_rule(node) is None and not is_function(node, self.opset):
            self.unsupported.note(node, why_unknown(node))
        elif domain_of(node) == STANDARD:
            try:
                check_node(node, self.opset)
            except ValueError as error:
                raise self.error(node, str(error)) from error

    def error(self, node: onnx.NodeProto, what: str) -> UserError:
        return UserError(f"{self.model.name}: node {label_of(node)!r} ({node.op_type}): {what}")
