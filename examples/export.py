"""The layers of `examples.layers` as ONNX nodes, written as exporters write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from examples.layers import EPSILON
from examples.training import Parameters


class Nodes:
    """Collects nodes and the constants that they have beside a network's parameters. Whatever adds a node gives the
    name of its output, which is the node's own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: Parameters = {}

    def add(self, op: str, *inputs: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def constant(self, name: str, value: object, dtype: type = np.int64) -> str:
        self.constants[name] = np.array(value, dtype)
        return name

    def linear(self, name: str, x: str, result: str = "") -> str:
        product = self.add("MatMul", x, f"{name}.weight", name=f"{name}.product")
        return self.add("Add", product, f"{name}.bias", name=result or name)

    def dense(self, name: str, x: str, result: str = "") -> str:
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        self.nodes.append(helper.make_node("Gemm", inputs, [result or name], name, transB=1))
        return result or name

    def conv(self, name: str, x: str, kernel: Sequence[int], stride: int = 1, result: str = "") -> str:
        attributes = {"kernel_shape": kernel, "pads": [size // 2 for size in kernel] * 2}
        if stride > 1:
            attributes["strides"] = [stride] * len(kernel)
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        self.nodes.append(helper.make_node("Conv", inputs, [result or name], name, **attributes))
        return result or name

    def norm(self, name: str, x: str) -> str:
        inputs = x, f"{name}.weight", f"{name}.bias"
        return self.add("LayerNormalization", *inputs, name=name, axis=-1, epsilon=EPSILON)

    def attention(self, block: str, x: str, tokens: int, width: int, heads: int) -> str:
        self.constant("heads", (1, tokens, heads, width // heads))
        self.constant("tokens", (1, tokens, width))
        self.constant("scale", (width // heads) ** -0.5, np.float32)

        def split(name: str, order: tuple[int, ...]) -> str:
            apart = self.add("Reshape", self.linear(name, x), "heads", name=f"{name}.split")
            return self.add("Transpose", apart, name=f"{name}.heads", perm=order)

        query = split(f"{block}.query", (0, 2, 1, 3))
        key = split(f"{block}.key", (0, 2, 3, 1))
        value = split(f"{block}.value", (0, 2, 1, 3))
        product = self.add("MatMul", query, key, name=f"{block}.product")
        scores = self.add("Mul", product, "scale", name=f"{block}.scores")
        weights = self.add("Softmax", scores, name=f"{block}.weights", axis=-1)
        mixed = self.add("MatMul", weights, value, name=f"{block}.mixed")
        merged = self.add("Transpose", mixed, name=f"{block}.merged", perm=(0, 2, 1, 3))
        return self.linear(f"{block}.out", self.add("Reshape", merged, "tokens", name=f"{block}.tokens"))
