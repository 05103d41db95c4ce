"""What regions are handed: constants go into them, and what no iteration changes is not carried.

Other passes then see, inside a region, that a weight is a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tensorc.ir.graph import Graph, Node, Value
from tensorc.pipeline import Pass


@dataclass(frozen=True)
class SimplifyRegions(Pass):
    """Of loops and branches: captured constants inside, values that nobody reads no longer captured, values that a loop
    carries unchanged captured."""

    name: ClassVar[str] = "regions"

    def run(self, graph: Graph) -> bool:
        changed = False
        for node in graph.nodes:
            if node.op == "loop":
                changed |= _capture_unchanged(graph, node)
            if node.regions:
                changed |= _drop_captured(node)
        return changed


def _capture_unchanged(graph: Graph, node: Node) -> bool:
    (region,) = node.regions
    count = node.attrs["carried"]
    same = [i for i in range(node.attrs["conditional"], count) if region.outputs[i] is region.inputs[1 + i]]
    for number in reversed(same):
        graph.replace(node.outputs[number], node.inputs[number])
        node.outputs = _without(node.outputs, number)
        node.inputs = (*_without(node.inputs, number), node.inputs[number])
        region.inputs.append(region.inputs.pop(1 + number))
        del region.outputs[number]
    node.attrs["carried"] = count - len(same)
    return bool(same)


def _without(values: tuple[Value, ...], number: int) -> tuple[Value, ...]:
    return values[:number] + values[number + 1 :]


def _drop_captured(node: Node) -> bool:
    """The inputs of a loop's region stand behind the iteration's number, which the node has not; those of an `if`'s
    regions are the node's without the condition."""
    first, shift = (1, -1) if node.op == "if" else (node.attrs["carried"] + len(node.attrs["scanned"]), 1)
    dropped = set()
    for number in range(first, len(node.inputs)):
        value = node.inputs[number]
        read = False
        for region in node.regions:
            inner = region.inputs[number + shift]
            if value.constant is not None:
                region.replace(inner, region.add_constant(value.constant, value.name))
            read |= bool(inner.users) or any(inner is output for output in region.outputs)
        if not read:
            dropped.add(number)
    for region in node.regions:
        region.inputs = [value for i, value in enumerate(region.inputs) if i - shift not in dropped]
    node.inputs = tuple(value for i, value in enumerate(node.inputs) if i not in dropped)
    return bool(dropped)
