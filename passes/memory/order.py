"""The order of a fused graph's nodes, chosen for the peak of memory: run it when all copies are in, before the plan.

A node with regions is one step, that holds what its regions hold in the order that they have; the regions are ordered
as graphs of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from passes.fusion import is_view
from passes.memory.dataflow import Dataflow, peak_of
from passes.memory.graph import aliases_of, aligned
from passes.memory.in_place import overwritten
from passes.memory.ordering import EFFORT, best_ordering
from tensorc.ir import Graph, Node, Value
from tensorc.pipeline import Pass


@dataclass(frozen=True)
class OrderNodes(Pass):
    """Nodes in the order that holds the fewest bytes at its peak, as far as `effort` moves of the search find it. The
    order stays what it is where none is better."""

    name: ClassVar[str] = "order"
    effort: int = EFFORT

    def run(self, graph: Graph) -> bool:
        flow, steps = dataflow(graph)
        best = best_ordering(flow, self.effort)
        if best.order == tuple(range(len(flow))):
            return False
        graph.nodes = _with_views([steps[number] for number in best.order], graph.nodes)
        return True


def dataflow(graph: Graph) -> tuple[Dataflow, list[Node]]:
    """What `graph` does to the arena, and the nodes that are its steps."""
    inside = aliases_of(graph)

    def resolve(value: Value) -> tuple[Value, int]:
        return inside.get(value, (value, 0))

    def root(value: Value) -> Value:
        return resolve(value)[0]

    elsewhere = {*graph.inputs, *map(root, graph.outputs)}
    sizes: list[int] = []
    numbers: dict[Value, int] = {}
    makers: dict[Value, frozenset[int]] = {}
    steps: list[Node] = []
    rows, extra, in_place = [], [], []
    for node in graph.nodes:
        after: frozenset[int] = frozenset().union(*(makers.get(value, ()) for value in node.inputs))
        makers.update(dict.fromkeys(node.outputs, after if is_view(node) else frozenset([len(steps)])))
        if is_view(node):
            continue
        touched = []
        for value in dict.fromkeys(map(root, (*node.inputs, *node.outputs))):
            if value.constant is None and value not in elsewhere:
                if value not in numbers:
                    numbers[value] = len(sizes)
                    sizes.append(aligned(value.type.nbytes))
                touched.append(numbers[value])
        steps.append(node)
        rows.append((touched, after))
        extra.append(_inside(node))
        places = [numbers[value] for value in overwritten(node, resolve) if value in numbers]
        in_place.append([(place, numbers[node.output]) for place in places if node.output in numbers])
    return Dataflow.of(sizes, rows, extra, in_place), steps


def _inside(node: Node) -> int:
    """What a node holds while it runs beside its inputs and outputs."""
    held = max((peak_of(dataflow(region)[0]) for region in node.regions), default=0)
    if node.op == "loop":
        (region,) = node.regions
        # The iteration's number, and second places for what is carried.
        held += aligned(region.inputs[0].type.nbytes)
        held += sum(aligned(value.type.nbytes) for value in node.outputs[: node.attrs["carried"]])
    return held


def _with_views(steps: Sequence[Node], nodes: Sequence[Node]) -> list[Node]:
    """`steps` with the views among `nodes`, each as soon as what it shows is there."""
    waiting = {
        node: len({v.producer for v in node.inputs if v.producer is not None}) for node in nodes if is_view(node)
    }
    ordered: list[Node] = []

    def place(node: Node) -> None:
        placed = [node]
        while placed:
            node = placed.pop()
            ordered.append(node)
            for user in dict.fromkeys(user for value in node.outputs for user in value.users):
                if user in waiting:
                    waiting[user] -= 1
                    if not waiting[user]:
                        placed.append(user)

    there = [node for node, count in waiting.items() if not count]  # and the others, when these are placed
    for node in there:
        place(node)
    for step in steps:
        place(step)
    return ordered
