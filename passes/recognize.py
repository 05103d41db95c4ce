"""Recognize: composite operators that exporters spell out become one operator each.

Expects the canonical form of `passes.simplify`, and leaves transposes for it to drop. A match whose inner values are
read from outside, by another node or as a graph output, is no match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from passes.rules import activations, attention, experts, norms
from passes.simplify import joined
from tensorc.ir.graph import Graph
from tensorc.ir.rewriter import rewrite
from tensorc.pipeline import Pass

_RULES = joined([activations.RULES, norms.RULES, attention.RULES])


@dataclass(frozen=True)
class Recognize(Pass):
    """layer_norm, rms_norm, softmax, gelu, silu and attention by name."""

    name: ClassVar[str] = "recognize"

    def run(self, graph: Graph) -> bool:
        return rewrite(graph, _RULES)


@dataclass(frozen=True)
class RecognizeExperts(Pass):
    """Mixtures of experts, of which only those that are chosen are computed then."""

    name: ClassVar[str] = "recognize-experts"

    def run(self, graph: Graph) -> bool:
        return rewrite(graph, experts.RULES)
