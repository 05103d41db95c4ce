"""The tensors and operators of a fused graph, for a fast memory to be mapped to."""

from __future__ import annotations

from collections.abc import Callable

from passes.fusion import is_view
from passes.memory.graph import aliases_of, aligned
from passes.memory.replacement.problem import Operator, ReplacementProblem, Role, Tensor
from tensorc.ir import Graph, Value


def problem_of(graph: Graph, capacity: int | Callable[[int], int], weights: bool = True) -> ReplacementProblem:
    """Each group of `graph` is an operator; views are none. `capacity` may be a function of the smallest that will do.

    Without `weights`, constants are left out: they pass by, as in a machine that streams them from slow memory to where
    they are used. Raises ValueError if the capacity is too small for an operator.
    """
    inside = aliases_of(graph)
    outputs = {inside.get(value, (value, 0))[0] for value in graph.outputs}
    tensors: list[Tensor] = []
    numbers: dict[Value, int] = {}
    makers: dict[Value, frozenset[int]] = {}
    operators: list[Operator] = []

    def number(value: Value) -> int:
        root, _ = inside.get(value, (value, 0))
        if root not in numbers:
            numbers[root] = len(tensors)
            role = Role.INPUT if root.producer is None else Role.OUTPUT if root in outputs else Role.INSIDE
            tensors.append(Tensor(root.name, aligned(root.type.nbytes), role))
        return numbers[root]

    for node in graph.nodes:
        after: frozenset[int] = frozenset().union(*(makers.get(value, ()) for value in node.inputs))
        makers.update(dict.fromkeys(node.outputs, after if is_view(node) else frozenset([len(operators)])))
        if not is_view(node):
            reads = [v for v in node.inputs if weights or inside.get(v, (v, 0))[0].constant is None]
            operators.append(Operator(
                node.outputs[0].name, tuple(sorted(set(map(number, reads)))), tuple(map(number, node.outputs)),
                tuple(sorted(after)),
            ))  # fmt: skip
    unlimited = ReplacementProblem(tuple(tensors), tuple(operators), sum(tensor.size for tensor in tensors))
    if callable(capacity):
        capacity = capacity(unlimited.smallest_capacity)
    return ReplacementProblem(unlimited.tensors, unlimited.operators, capacity)
