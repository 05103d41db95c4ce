"""Quantize: what multiplies constant weights is made to take quantized inputs and quantized weights.

Only `quantize` and `dequantize` are put in; what becomes integers of that is the affair of `passes.integers`. The graph
is in canonical form, and every value has the name that it had when its range was looked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from passes.rules.quantized import TOGETHER, WIDEST_SUM
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Graph, Node, Value
from tensorc.ir.types import TensorType
from tensorc.quantization.calibration import Quantizer
from tensorc.quantization.params import QuantParams


@dataclass(frozen=True)
class QuantizeProducts(Quantizer):
    """`params` of the activations, by the names of their values; products of others stay as they are, but with
    `dynamic` matrix products find the ranges of theirs when they run. With `per_channel` each output channel's weights
    have a scale of their own."""

    name: ClassVar[str] = "quantize"
    params: Mapping[str, QuantParams] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()
    dynamic: bool = False
    per_channel: bool = True

    def run(self, graph: Graph) -> bool:
        chosen = [node for node in products(graph) if self._is_chosen(node)]
        made: dict[Value, Value] = {}
        weights: dict[Value, Value] = {}
        for node in chosen:
            x, w = node.inputs
            if x not in made:
                others = _others(graph, x, set(chosen))  # not what is made here to find its range
                params = self.params.get(x.name)
                made[x] = _rounded_as_it_runs(graph, x) if params is None else _rounded(graph, x, params)
                for user in others:
                    user.inputs = tuple(made[x] if value is x else value for value in user.inputs)
            if w not in weights:
                weights[w] = self._weights(graph, node)
            node.inputs = made[x], weights[w]
        if chosen:
            graph.sort()
        return bool(chosen)

    def watched(self, graph: Graph) -> list[Value]:
        return list(dict.fromkeys(node.inputs[0] for node in products(graph) if node.output.name not in self.skipped))

    def _is_chosen(self, node: Node) -> bool:
        known = node.inputs[0].name in self.params or (self.dynamic and node.op == "matmul")
        return known and node.output.name not in self.skipped

    def _weights(self, graph: Graph, node: Node) -> Value:
        """Signed bytes around zero, so that what is subtracted for them is nothing."""
        w = node.inputs[1]
        assert w.constant is not None
        axis = 0 if node.op == "conv" or node.attrs["transpose_b"] else w.type.rank - 1
        others = tuple(at for at in range(w.type.rank) if at != axis) if self.per_channel else None
        largest = np.abs(w.constant.numpy()).max(axis=others, keepdims=self.per_channel)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)

        def quantized(data: np.ndarray) -> np.ndarray:
            return np.asarray(np.clip(np.round(data / scale), -127, 127).astype(np.int8))

        how = ("int8", self.per_channel)
        q = graph.add_constant(w.constant.derive(TensorType("int8", w.shape), quantized, how=how), f"{w.name}.int8")
        return graph.add("dequantize", [q, graph.constant(scale)], {}, name=w.name)


def products(graph: Graph) -> list[Node]:
    """The nodes whose left operands may be quantized: their sums fit, and enough elements are multiplied at once."""
    return [node for node in graph.nodes if node.op in ("conv", "matmul") and _is_quantizable(node)]


def _is_quantizable(node: Node) -> bool:
    x, w = node.inputs
    if x.dtype != "float32" or w.constant is None or x.constant is not None:
        return False
    if node.op == "conv":
        return w.type.rank == 4 and math.prod(static_shape(w.shape)[1:]) <= WIDEST_SUM
    depth = static_shape(x.shape)[-1]
    return w.type.rank == 2 and x.type.rank > 1 and depth % TOGETHER == 0 and depth <= WIDEST_SUM


def _rounded(graph: Graph, x: Value, params: QuantParams) -> Value:
    """x as its integers have it."""
    scale = graph.constant(np.float32(params.scale))
    zero = graph.constant(np.asarray(params.zero, params.dtype))
    q = graph.add("quantize", [x, scale, zero], {"to": params.dtype}, name=f"{x.name}.{params.dtype}")
    return graph.add("dequantize", [q, scale, zero], {}, name=x.name)


def _rounded_as_it_runs(graph: Graph, x: Value) -> Value:
    """x in 256 steps between the least and the greatest of its elements and 0, as DynamicQuantizeLinear has it."""

    def number(value: float, dtype: str = "float32") -> Value:
        return graph.constant(np.asarray(value, dtype))

    axes = tuple(range(x.type.rank))
    low = graph.add("min", [graph.add("reduce_min", [x], {"axes": axes, "keepdims": 0}), number(0)], {})
    high = graph.add("max", [graph.add("reduce_max", [x], {"axes": axes, "keepdims": 0}), number(0)], {})
    span = graph.add("sub", [high, low], {})
    nothing = graph.add("equal", [span, number(0)], {})
    scale = graph.add("where", [nothing, number(1), graph.add("mul", [span, number(1 / 255)], {})], {})
    below = graph.add("neg", [graph.add("div", [low, scale], {})], {})
    zero = graph.add("cast", [graph.add("clip", [graph.add("round", [below], {})], {"min": 0.0, "max": 255.0})],
                     {"to": "uint8"})  # fmt: skip
    q = graph.add("quantize", [x, scale, zero], {"to": "uint8"}, name=f"{x.name}.uint8")
    return graph.add("dequantize", [q, scale, zero], {}, name=x.name)


def _others(graph: Graph, x: Value, chosen: set[Node]) -> list[Node]:
    """Who else shall read the rounded value: for an image, everybody, so that it lies in memory once and as bytes. The
    sums that run past a transformer's layers stay as exact as they are."""
    if x.type.rank != 4 or any(x is output for output in graph.outputs):
        return []
    return [user for user in dict.fromkeys(x.users) if user not in chosen and user.op != "quantize"]
