"""Integers: what is quantized is multiplied as bytes where a target can do that, and is plain arithmetic elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from passes.rules.quantized import FLOATS, RULES, SPELLING
from tensorc.ir.graph import Graph
from tensorc.ir.rewriter import rewrite
from tensorc.pipeline import Pass


@dataclass(frozen=True)
class ComputeInIntegers(Pass):
    """Leaves no `quantize` and no `dequantize`. `products`: whether kernels multiply bytes."""

    name: ClassVar[str] = "integers"
    products: bool

    def run(self, graph: Graph) -> bool:
        changed = self.products and rewrite(graph, RULES)
        changed = rewrite(graph, FLOATS) or changed
        return rewrite(graph, SPELLING) or changed
