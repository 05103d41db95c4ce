"""Random-wired networks, after Xie et al., "Exploring Randomly Wired Neural Networks for Image Recognition" (2019).

Three stages of 32 nodes, wired as a Watts-Strogatz graph of degree 4 is, 3 of 4 edges somewhere else than in a ring; a
node adds what it reads and convolves the sum, by depth and by pixel. What reads nothing in a stage reads its input, and
the ends are added. Each stage halves the image and doubles the channels. The order of so many nodes that may run in
almost any order is what plans of memory are made for.

    python benchmarks/random_wired.py 0 random_wired_0.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import networkx as nx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def random_wired(seed: int, stages: int = 3, nodes: int = 32, channels: int = 32, pixels: int = 56) -> onnx.ModelProto:
    """The same model for the same seed."""
    rng = np.random.default_rng(seed)
    network = _Network(rng)
    value, wide = "image", 3
    for stage in range(stages):
        value = network.conv(value, wide, channels, stride=2 if stage else 1)
        wide = channels
        graph = nx.connected_watts_strogatz_graph(nodes, 4, 0.75, seed=seed * stages + stage)
        made: dict[int, str] = {}
        for node in range(nodes):
            read = [made[other] for other in sorted(graph.neighbors(node)) if other < node]
            made[node] = network.node(read or [value], channels)
        ends = [made[node] for node in range(nodes) if all(other < node for other in graph.neighbors(node))]
        value = network.sum(ends)
        channels *= 2
    pooled = network.add("GlobalAveragePool", [value])
    network.nodes.append(helper.make_node("Identity", [pooled], ["features"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, pixels, pixels])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, wide, 1, 1])
    graph = helper.make_graph(network.nodes, f"random_wired_{seed}", [image], [features], network.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Network:
    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def conv(self, value: str, wide: int, channels: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> str:
        shape = (channels, wide // groups, kernel, kernel)
        weight = self.rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        self.weights.append(numpy_helper.from_array(weight, f"w{len(self.weights)}"))
        return self.add("Conv", [value, self.weights[-1].name], strides=[stride, stride], pads=[kernel // 2] * 4,
                        group=groups)  # fmt: skip

    def sum(self, values: list[str]) -> str:
        total, *rest = values
        for value in rest:
            total = self.add("Add", [total, value])
        return total

    def node(self, values: list[str], channels: int) -> str:
        active = self.add("Relu", [self.sum(values)])
        deep = self.conv(active, channels, channels, groups=channels)
        return self.conv(deep, channels, channels, kernel=1)


if __name__ == "__main__":
    onnx.save(random_wired(int(sys.argv[1])), Path(sys.argv[2]))
