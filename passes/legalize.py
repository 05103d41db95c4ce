"""Arithmetic in types that machines compute in: what is held in fewer bits is widened before it, and narrowed after.

bfloat16, float8 and their like are computed with in float32, integers of less than 8 bits in int32: every operator's
result is rounded to its type as if it had been computed in that. Operators that only move elements keep their types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tensorc.ir import OPS, Graph, Node
from tensorc.ir.graph import Value
from tensorc.ir.ops.nn import has_narrow_weights
from tensorc.ir.ops.table import Attrs
from tensorc.ir.types import STORED, is_integer
from tensorc.pipeline import Pass

#: Those that read constant weights in 16 bits as they lie.
PRODUCTS = frozenset({"conv", "conv_blocked", "matmul", "matmul_packed"})
#: Operators that give back the elements they are given, of whatever type, or that know every type. An operator that is
#: not listed is widened, which is right of all, though not always needed.
WIDTH_FREE = frozenset({
    "bitcast", "block", "cast", "cast_float8", "concat", "expand", "gather", "gather_elements", "gather_nd", "group",
    "matmul_coded", "pad", "reshape", "slice", "transpose", "unblock", "unfold", "where",
})  # fmt: skip


@dataclass(frozen=True)
class Legalize(Pass):
    name: ClassVar[str] = "legalize"

    def run(self, graph: Graph) -> bool:
        narrow = [node for node in graph.nodes if _is_narrow(node)]
        for node in narrow:
            _widen(graph, node)
        if narrow:
            graph.sort()
            graph.remove_dead()
        return bool(narrow)


def _is_narrow(node: Node) -> bool:
    if node.op in WIDTH_FREE or node.regions:
        return False
    if is_mixed_product(node):
        return False
    return any(value.dtype in STORED for value in (*node.inputs, *node.outputs))


def is_mixed_product(node: Node) -> bool:
    """A product whose kernel widens its constant weights as it reads them."""
    return node.op in PRODUCTS and has_narrow_weights(node.inputs[0].type, node.inputs[1].type)


def _wide(dtype: str) -> str:
    if dtype not in STORED:
        return dtype
    return "int32" if is_integer(dtype) else "float32"


def _widen(graph: Graph, node: Node) -> None:
    def cast(value: Value, dtype: str) -> Value:
        return value if value.dtype == dtype else graph.add("cast", [value], {"to": dtype}, name=value.name)

    inputs = [value if _stays(node, value) else cast(value, _wide(value.dtype)) for value in node.inputs]
    wide = graph.make(node.op, inputs, _wide_attrs(node), name=node.outputs[0].name)
    graph.nodes.append(wide)
    for old, new in zip(node.outputs, wide.outputs, strict=True):
        graph.replace(old, cast(new, old.dtype))


def _stays(node: Node, value: Value) -> bool:
    """Whether `value` are weights that a product reads in 16 bits."""
    if node.op not in PRODUCTS or value is not node.inputs[1] or value.constant is None:
        return False
    if node.op == "matmul" and value.type.rank != 2:  # these have no packed weights
        return False
    return value.dtype == node.inputs[0].dtype == "bfloat16"


def _wide_attrs(node: Node) -> Attrs:
    """Operators without inputs name their type in the attribute `dtype`."""
    if OPS[node.op].attrs.keys() & {"dtype"}:
        return node.attrs | {"dtype": _wide(node.attrs["dtype"])}
    return node.attrs
