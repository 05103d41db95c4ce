"""Spell out: composite operators become reductions, products and elementwise work where a target has no kernel.

The opposite of `passes.recognize`, and after it: what is recognised gets a kernel of its own if the target has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Constant, Graph, Node, Value
from tensorc.ir.rewriter import Builder, Rule, rewrite
from tensorc.ir.types import TensorType
from tensorc.pipeline import Pass

_SWAP_HEADS = (0, 2, 1, 3)


@dataclass(frozen=True)
class SpellOut(Pass):
    """No node is left of those that `lacks_kernel` names, as far as there is a rule here."""

    name: ClassVar[str] = "spell-out"
    lacks_kernel: Callable[[Node], bool]

    def run(self, graph: Graph) -> bool:
        return rewrite(graph, {op: [self._where_needed(rule)] for op, rule in _RULES.items()})

    def _where_needed(self, rule: Rule) -> Rule:
        return lambda node, build: rule(node, build) if self.lacks_kernel(node) else None


def _number(build: Builder, number: float, like: Value) -> Value:
    return build.constant(Constant.full(TensorType(like.dtype, ()), number))


def _widened(build: Builder, x: Value) -> Value:
    """16-bit floats are computed with in float32, as kernels do."""
    return build("cast", x, to="float32") if x.dtype in ("float16", "bfloat16") else x


def _narrowed(build: Builder, x: Value, node: Node) -> Value:
    return x if x.dtype == node.output.dtype else build("cast", x, to=node.output.dtype)


def _softmax(node: Node, build: Builder) -> Value:
    x, axes = _widened(build, node.inputs[0]), (node.attrs["axis"],)
    shifted = build("sub", x, build("reduce_max", x, axes=axes))
    power = build("exp", shifted)
    total = build("reduce_sum", power, axes=axes)
    result = build("div", power, total) if node.op == "softmax" else build("sub", shifted, build("log", total))
    return _narrowed(build, result, node)


def _norm(node: Node, build: Builder) -> Value:
    x, *parameters = (_widened(build, value) for value in node.inputs)
    axes = tuple(range(node.attrs["axis"], x.type.rank))
    if node.op == "layer_norm":
        x = build("sub", x, build("reduce_mean", x, axes=axes))
    variance = build("reduce_mean", build("mul", x, x), axes=axes)
    inverse = build("rsqrt", build("add", variance, _number(build, node.attrs["epsilon"], variance)))
    result = build("mul", build("mul", x, inverse), parameters[0])
    for bias in parameters[1:]:
        result = build("add", result, bias)
    return _narrowed(build, result, node)


def _attention(node: Node, build: Builder) -> Value:
    q, k, v, *masks = (_widened(build, value) for value in node.inputs)
    queries, keys, values = (build("transpose", value, perm=_SWAP_HEADS) for value in (q, k, v))
    batch, heads, length, _ = static_shape(queries.shape)
    shared = heads // static_shape(keys.shape)[1]
    if shared > 1:  # the queries of the heads that share a key are rows of one matrix
        queries = build("reshape", queries, shape=(batch, heads // shared, shared * length, queries.shape[3]))
    scores = build("matmul", queries, keys, transpose_b=1)
    scores = build("mul", scores, _number(build, node.attrs["scale"], scores))
    for mask in masks:
        whole = (batch, heads, length, scores.shape[3])
        masked = build("add", build("reshape", scores, shape=whole), mask)
        scores = build("reshape", masked, shape=scores.shape)
    weighed = build("matmul", build("softmax", scores, axis=3), values)
    result = build("reshape", weighed, shape=(batch, heads, length, values.shape[3]))
    return _narrowed(build, build("transpose", result, perm=_SWAP_HEADS), node)


_RULES: dict[str, Rule] = {
    "attention": _attention,
    "layer_norm": _norm,
    "log_softmax": _softmax,
    "rms_norm": _norm,
    "softmax": _softmax,
}
