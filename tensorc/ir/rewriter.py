"""Pattern rewriting: a rule looks at one node and gives what its outputs become, or None for no match.

    def drop_double_negation(node, build):
        match = producer(node.inputs[0], "neg")
        return match.inputs[0] if match else None

    rewrite(graph, {"neg": [drop_double_negation]})

`build` adds nodes in front of the matched one. Sweeps repeat until no rule fires; dead nodes are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensorc.errors import IRError
from tensorc.ir.graph import Constant, Graph, Node, Value

Rule = Callable[[Node, "Builder"], Value | Sequence[Value] | None]
_SWEEPS = 100


class Builder:
    """Collects the nodes that a rule makes, to stand in front of the node it matched."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.made: list[Node] = []

    def __call__(self, op: str, *inputs: Value, name: str = "v", **attrs: Any) -> Value:
        node = self.graph.make(op, inputs, attrs, name=name)
        self.made.append(node)
        return node.output

    def constant(self, data: Any, dtype: str | None = None, name: str = "c") -> Value:
        """A constant value of an array, a number or a `Constant`."""
        return self.graph.add_constant(data if isinstance(data, Constant) else Constant.of(data, dtype), name)


def producer(value: Value, *ops: str) -> Node | None:
    """The node that makes `value` when it is one of `ops`, else None."""
    node = value.producer
    return node if node is not None and node.op in ops else None


def only_user(value: Value) -> Node | None:
    """The one node that reads `value`, or None when several do (a graph output must be checked apart)."""
    return value.users[0] if len(value.users) == 1 else None


def scalar(value: Value) -> float | None:
    """The number of a constant that repeats one, else None."""
    if value.constant is None or value.constant.splat is None:
        return None
    return float(value.constant.splat)


def rewrite(graph: Graph, rules: Mapping[str, Sequence[Rule]]) -> bool:
    """Apply `rules`, keyed by the op they match, until none fires. True if any did."""
    changed = False
    for _ in range(_SWEEPS):
        if not _sweep(graph, rules):
            return changed
        changed = True
        graph.remove_dead()
    raise IRError(f"rules for {', '.join(rules)} still fire after {_SWEEPS} sweeps: two of them undo each other")


def _sweep(graph: Graph, rules: Mapping[str, Sequence[Rule]]) -> bool:
    changed = False
    kept: list[Node] = []
    for node in graph.nodes:
        build = Builder(graph)
        for rule in rules.get(node.op, ()):
            result = rule(node, build)
            if result is None:
                _discard(build.made)
                build.made = []
                continue
            outputs = (result,) if isinstance(result, Value) else tuple(result)
            for old, new in zip(node.outputs, outputs, strict=True):
                graph.replace(old, new)
            changed = True
            break
        kept.extend(build.made)
        kept.append(node)
    graph.nodes = kept
    return changed


def _discard(nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.inputs = ()
