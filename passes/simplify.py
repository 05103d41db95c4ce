"""Simplify: algebra, views and weights brought to one canonical form by rewriting.

The form that later passes count on: constants stand on the right of commutative operators; no division or
subtraction of a constant; no transpose of a transpose or reshape of a reshape; `relu`, `clip` and `rsqrt` by name;
constant factors are in the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from passes.rules import arithmetic, movement, transposition, views, weights
from tensorc.ir.graph import Graph
from tensorc.ir.rewriter import Rule, rewrite
from tensorc.pipeline import Pass


def joined(tables: Iterable[Mapping[str, list[Rule]]]) -> dict[str, list[Rule]]:
    """One table of rules: for each op, those of the first table first."""
    result: dict[str, list[Rule]] = {}
    for table in tables:
        for op, rules in table.items():
            result.setdefault(op, []).extend(rules)
    return result


_RULES = joined([arithmetic.RULES, weights.RULES, movement.RULES, transposition.RULES, views.RULES])


@dataclass(frozen=True)
class Simplify(Pass):
    """The canonical form; shapes, types and (but for rounding) values stay."""

    name: ClassVar[str] = "simplify"

    def run(self, graph: Graph) -> bool:
        return rewrite(graph, _RULES)
