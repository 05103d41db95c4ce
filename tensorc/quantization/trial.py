"""A model of which every layer is there twice, in float32 and quantized, and that is told in each run which to take.

So one program measures any choice of quantized layers, with the same integer kernels that compute them later.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tensorc.ir.graph import Graph, Value, clone
from tensorc.ir.types import TensorType
from tensorc.options import CompileOptions
from tensorc.quantization.calibration import at_quantizer
from tensorc.target import Target


@dataclass(frozen=True)
class Layer:
    """By the name of what it gives; `label` is its weights' in the model, "" where they have none."""

    name: str
    op: str
    label: str
    multiplications: int

    @property
    def title(self) -> str:
        """For people: a name that a pass has made up says less than that of the weights."""
        return self.label if self.label and re.fullmatch(r"v(\.\d+)*", self.name) else self.name


@dataclass(frozen=True)
class Run:
    """The model's outputs; what each layer gave, and what it would give quantized, of what it was given."""

    outputs: list[np.ndarray]
    layers: list[np.ndarray]
    quantized: list[np.ndarray]


class Trial:
    """Of a graph as the frontend gives it, whose `inputs` are named so; the options say how it is quantized."""

    def __init__(self, graph: Graph, inputs: Sequence[str], target: Target, options: CompileOptions):
        graph = clone(graph)
        quantizer, later = at_quantizer(graph, target, options)
        self._inputs = inputs
        self._count = len(graph.outputs)
        replacements = quantizer.replacements(graph)
        own = [replacement for replacement in replacements if replacement.readers is None]
        self.layers = [_described(replacement.old) for replacement in own]
        switches = {layer.name: graph.add_input(f"{layer.name}.on", TensorType("bool", ())) for layer in self.layers}
        for replacement in replacements:
            value = _chosen(graph, replacement.layers, switches, replacement.new, replacement.old)
            replacement.put(graph, value)
            assert value.producer is not None
            value.producer.set_input(2, replacement.old)
            if replacement.readers is None:
                graph.outputs.append(value)
        graph.outputs.extend(replacement.new for replacement in own)
        graph.sort()
        self._executable = target.executable(graph, later, options) if own else None

    def run(self, feed: Mapping[str, np.ndarray], quantized: Collection[str]) -> Run:
        """With these layers quantized. There must be layers."""
        assert self._executable is not None
        switches = [np.asarray(layer.name in quantized) for layer in self.layers]
        arrays = self._executable.run([*(feed[name] for name in self._inputs), *switches])
        behind = self._count + len(self.layers)
        return Run(arrays[: self._count], arrays[self._count : behind], arrays[behind:])

    def close(self) -> None:
        if self._executable is not None:
            self._executable.close()


def _described(value: Value) -> Layer:
    node = value.producer
    assert node is not None
    weights = node.inputs[1]
    label = weights.constant.label if weights.constant is not None else ""
    columns = weights.shape[0] if node.op == "conv" or node.attrs.get("transpose_b") else weights.shape[-1]
    return Layer(value.name, node.op, label, value.type.size * (weights.type.size // max(columns, 1)))


def _chosen(graph: Graph, layers: Sequence[str], switches: Mapping[str, Value], new: Value, old: Value) -> Value:
    on = switches[layers[0]]
    for name in layers[1:]:
        on = graph.add("or", [on, switches[name]], {})
    return graph.add("where", [on, new, old], {})
