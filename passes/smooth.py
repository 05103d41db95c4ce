"""SmoothQuant: large channels of activations are made smaller, and the weights that read them larger.

In transformers a few channels are a hundred times as large as the others, and one scale for all leaves those with a few
codes. Weights are even: they take up a part of the difference. Channel j is divided by max|x_j|^alpha / max|w_j|^(1 -
alpha), by changing the constants that the activations are made of, such as the scale and the bias of a layer norm.
After Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models" (ICML 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from passes.channel_factors import Divisible, divisible, is_weighted, multiply, powers_of_two
from passes.rules.matching import is_output
from tensorc.ir.graph import Graph, Node, Value
from tensorc.quantization.calibration import Preparation

#: By how much the expected noise has to become less for it to be worth it.
_WORTHWHILE = 1.5


@dataclass(frozen=True)
class SmoothActivations(Preparation):
    """`largest` of each channel's magnitudes, by the names of values; others stay as they are. Changes no result by a
    bit, unless numbers get too small or too large."""

    name: ClassVar[str] = "smooth"
    largest: Mapping[str, Sequence[float]] = field(default_factory=dict)
    alpha: float = 0.5
    per_channel: bool = True

    def watched(self, graph: Graph) -> list[Value]:
        return [value for value, _, _ in _candidates(graph)]

    def run(self, graph: Graph) -> bool:
        changed = False
        for value, readers, way in _candidates(graph):
            if value.name not in self.largest:
                continue
            largest = np.asarray(self.largest[value.name], np.float64)
            weights = [_matrix(node) for node in readers]
            factors = self._factors(largest, weights)
            before, after = (self._noise(largest, weights, some) for some in (np.ones_like(largest), factors))
            if before < _WORTHWHILE * after:
                continue
            way.divide(factors)
            for node in readers:
                multiply(node, graph, factors)
            changed = True
        if changed:
            graph.sort()
            graph.remove_dead()
        return changed

    def _factors(self, largest: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
        read = np.max([np.abs(matrix).max(1) for matrix in weights], axis=0)
        known = (largest > 0) & (read > 0)
        factors = np.where(known, largest, 1) ** self.alpha / np.where(known, read, 1) ** (1 - self.alpha)
        return powers_of_two(np.where(known, factors, 1))

    def _noise(self, largest: np.ndarray, weights: Sequence[np.ndarray], factors: np.ndarray) -> float:
        """What rounding is expected to do to the products, in squares, were the inputs of a third of their largest."""
        step = 2 * (largest / factors).max(initial=0) / 255
        total = 0.0
        for matrix in weights:
            scaled = matrix * factors[:, None]
            steps = np.abs(scaled).max(0 if self.per_channel else None, keepdims=True) / 127
            total += float(step**2 * (scaled**2).sum())
            total += float(((largest / 3 / factors) ** 2).sum() * np.broadcast_to(steps**2, (1, matrix.shape[1])).sum())
        return total


def _candidates(graph: Graph) -> list[tuple[Value, list[Node], Divisible]]:
    found = []
    for value in dict.fromkeys(n.inputs[0] for n in graph.nodes if n.op == "matmul" and is_weighted(n)):
        readers = list(dict.fromkeys(value.users))
        alike = all(n.op == "matmul" and is_weighted(n) and n.inputs[0] is value for n in readers)
        if not alike or value.type.rank < 2 or is_output(value, graph):
            continue
        way = divisible(value, value.type.rank - 1, graph)
        if way is not None:
            found.append((value, readers, way))
    return found


def _matrix(node: Node) -> np.ndarray:
    """[inputs, outputs], float64."""
    constant = node.inputs[1].constant
    assert constant is not None
    data = constant.numpy().astype(np.float64)
    return data.T if node.attrs["transpose_b"] else data
