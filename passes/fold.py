"""Constant folding: what depends on nothing but constants becomes one.

Small results are computed now, by the operators' numpy meanings. Large ones (transposed or cast weights) are
computed when they are loaded, so that compiling a model does not copy it. One repeated number stays one number.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.rules.matching import compact
from tensorc.ir.dims import is_static
from tensorc.ir.graph import Constant, Graph, Node
from tensorc.ir.interpreter import evaluate_node
from tensorc.ir.ops import OPS, Kind
from tensorc.ir.ops.quantization import is_kept
from tensorc.pipeline import Pass

#: Operators that only move elements: of one repeated number they make the same number repeated.
_MOVES = frozenset({"reshape", "transpose", "slice", "expand"})

#: Bytes of a result that is folded although it is larger than all that it is computed from.
_MOST_GROWN = 1 << 26


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Results up to `limit` elements are computed now (the default holds the mask of 512 tokens by 512)."""

    name: ClassVar[str] = "fold-constants"
    limit: int = 1 << 18

    def run(self, graph: Graph) -> bool:
        for node in graph.nodes:
            if not _foldable(node):
                continue
            result = _repeated(node) or (_now(node) if node.output.type.size <= self.limit else _later(node))
            graph.replace(node.output, graph.add_constant(result, node.output.name))
        return graph.remove_dead()


@dataclass(frozen=True)
class RemoveDead(Pass):
    """Drop the nodes that no output depends on."""

    name: ClassVar[str] = "remove-dead"

    def run(self, graph: Graph) -> bool:
        return graph.remove_dead()


def _foldable(node: Node) -> bool:
    if node.body is not None or node.regions or len(node.outputs) != 1 or not is_static(node.output.shape):
        return False
    if any(value.constant is None for value in node.inputs) or is_kept(node.op, [v.type for v in node.inputs]):
        return False
    # What is blown up to much more than it is made of is better made at run time than written into the artifact.
    return node.output.type.nbytes <= max(_MOST_GROWN, sum(value.type.nbytes for value in node.inputs))


def _inputs(node: Node) -> list[Constant]:
    return [value.constant for value in node.inputs if value.constant is not None]


def _repeated(node: Node) -> Constant | None:
    """The result when it is plain that it repeats one number: without making the arrays."""
    numbers = [constant.splat for constant in _inputs(node)]
    if not numbers or any(number is None for number in numbers):
        return None
    if node.op in _MOVES:
        return Constant.full(node.output.type, numbers[0])
    if OPS[node.op].kind is Kind.ELEMENTWISE and node.op != "batch_norm":
        (number,) = evaluate_node(node, [np.asarray(number) for number in numbers])
        return Constant.full(node.output.type, number)
    return None


def _now(node: Node) -> Constant:
    with np.errstate(all="ignore"):
        (result,) = evaluate_node(node, [constant.numpy() for constant in _inputs(node)])
    return compact(result, node.output.type)


def _later(node: Node) -> Constant:
    constants = _inputs(node)

    def load() -> np.ndarray:
        (result,) = evaluate_node(node, [constant.numpy() for constant in constants])
        return result

    label = constants[0].label if constants else ""
    return Constant(node.output.type, load, label, origin=_origin(node, constants))


def _origin(node: Node, constants: Sequence[Constant]) -> Hashable:
    if any(constant.origin is None for constant in constants):
        return None
    return node.op, tuple(sorted(node.attrs.items())), tuple(constant.origin for constant in constants)
