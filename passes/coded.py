"""Weights that come in few bits: products take them as they are, everything else as the floats that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tensorc.ir.graph import Constant, Graph, Node, Value
from tensorc.ir.ops.coded import decode
from tensorc.ir.rewriter import Builder, Rule, producer, rewrite
from tensorc.pipeline import Pass


@dataclass(frozen=True)
class MultiplyCodes(Pass):
    """Leaves no `decode`."""

    name: ClassVar[str] = "codes"

    def run(self, graph: Graph) -> bool:
        changed = rewrite(graph, _PRODUCTS)
        return rewrite(graph, _SPELLING) or changed


def _product(node: Node, build: Builder) -> Value | None:
    """matmul(x, decode^T) is a product by codes."""
    x, w = node.inputs
    if not node.attrs["transpose_b"]:
        move = producer(w, "transpose")
        if move is None or tuple(move.attrs["perm"]) != (1, 0):
            return None
        w = move.inputs[0]
    source = producer(w, "decode")
    if source is None or x.dtype != "float32":
        return None
    attrs = {name: value for name, value in source.attrs.items() if name != "depth"}
    return build("matmul_coded", x, *source.inputs, **attrs)


def _spell(node: Node, build: Builder) -> Value | None:
    constants = [value.constant for value in node.inputs if value.constant is not None]
    if len(constants) < len(node.inputs):
        return None

    def load() -> np.ndarray:
        return decode(*(constant.numpy() for constant in constants), **node.attrs)

    return build.constant(Constant(node.output.type, load, constants[0].label), name=node.output.name)


_PRODUCTS: dict[str, list[Rule]] = {"matmul": [_product]}
_SPELLING: dict[str, list[Rule]] = {"decode": [_spell]}
