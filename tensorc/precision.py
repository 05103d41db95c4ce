"""What became of a model's weights under `CompileOptions.precision`, for its summary."""

from __future__ import annotations

from collections.abc import Iterator

from tensorc.ir.graph import Graph, Value, nested
from tensorc.ir.ops import OPS, Kind
from tensorc.ir.types import is_float


def described(graph: Graph, precision: str) -> str:
    """How many weights of a fused graph are held in `precision`, and how much of their bytes those are."""
    if precision == "tf32":
        return "tf32 in products, weights in float32"
    weights = dict.fromkeys(_weights(graph))
    lowered = [value for value in weights if value.dtype == precision]
    rest = sum(value.type.nbytes for value in weights if value.dtype != precision)
    kept = f", {rest / 2**20:.2f} MiB in float32" if rest else ""
    return f"{precision}, {len(lowered)} of {len(weights)} weights{kept}"


def _weights(graph: Graph) -> Iterator[Value]:
    """The constants that anchors multiply by, and the tables that rows are gathered from."""
    for node in (node for part in nested(graph) for node in part.nodes if node.body is not None):
        assert node.body is not None
        outer = dict(zip(node.body.inputs, node.inputs, strict=True))
        for inner in node.body.nodes:
            operands = inner.inputs[1:] if OPS[inner.op].kind is Kind.ANCHOR else inner.inputs[:1]
            if OPS[inner.op].kind is not Kind.ANCHOR and inner.op != "gather":
                continue
            for value in operands:
                source = outer.get(value)
                if source is not None and source.constant is not None and is_float(source.dtype):
                    yield source
