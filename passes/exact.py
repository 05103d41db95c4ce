"""What makes a graph's arithmetic exact: float32 becomes float64, which holds sums of fixed-point numbers whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tensorc.ir.graph import Graph, Value
from tensorc.ir.types import TensorType
from tensorc.pipeline import Pass


@dataclass(frozen=True)
class ComputeExactly(Pass):
    """Every float32 value, the graph's inputs and outputs included, becomes float64."""

    name: ClassVar[str] = "exact"

    def run(self, graph: Graph) -> bool:
        wide: dict[Value, Value] = {}
        for value in [*graph.inputs, *graph.constants()]:
            if value.dtype == "float32":
                wide[value] = _widened(graph, value)
        graph.inputs = [wide.get(value, value) for value in graph.inputs]
        nodes = []
        for node in graph.nodes:
            attrs = {**node.attrs, **({"to": "float64"} if node.attrs.get("to") == "float32" else {})}
            operands = [wide.get(value, value) for value in node.inputs]
            new = graph.make(node.op, operands, attrs, node.body, node.output.name, node.regions)
            for old, made in zip(node.outputs, new.outputs, strict=True):
                made.name, old.name = old.name, made.name
                wide[old] = made
            nodes.append(new)
        for node in graph.nodes:
            node.inputs = ()
        graph.nodes = nodes
        graph.outputs = [wide.get(value, value) for value in graph.outputs]
        return bool(wide)


def _widened(graph: Graph, value: Value) -> Value:
    type = TensorType("float64", value.shape)
    if value.constant is None:
        return Value(value.name, type)
    new = value.constant.derive(type, lambda array: array.astype(np.float64), how="float64")
    if value.constant.splat is not None:
        new.splat = np.float64(value.constant.splat)
    made = graph.add_constant(new, value.name)
    made.name, value.name = value.name, made.name
    return made
