"""A PyTorch module that does what an ONNX model does, with the same weights, in PyTorch's own best terms.

The few operators of the benchmark's networks become a `torch.fx` graph, which `torch.compile` takes whole. What
exporters spell out is put together again: products with biases, GELU and attention are the functions that PyTorch has
for them, as in the networks that these models were exported from.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor, nn


def twin(model: onnx.ModelProto) -> nn.Module:
    """In float32, on the CPU; shapes are those of the model. Raises KeyError for an operator that it does not know."""
    return _Translator(model).module


class _Translator:
    """Walks the nodes with tensors of the right shapes and no data. What depends on shapes alone is computed."""

    def __init__(self, model: onnx.ModelProto):
        graph = model.graph
        self.graph = torch.fx.Graph()
        self.root = nn.Module()
        self.constants: dict[str, np.ndarray] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.nodes: dict[str, torch.fx.Node] = {}
        #: Of computed values.
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.buffers: dict[str, torch.fx.Node] = {}
        self.producer = {name: node for node in graph.node for name in node.output}
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        for value in graph.input:
            self.nodes[value.name] = self.graph.placeholder(value.name)
            self.shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        self.meta: dict[torch.fx.Node, Tensor] = {}
        for value in graph.input:
            dtype = torch.int64 if value.type.tensor_type.elem_type == onnx.TensorProto.INT64 else torch.float32
            self.meta[self.nodes[value.name]] = torch.empty(self.shapes[value.name], dtype=dtype, device="meta")
        for node in graph.node:
            self.translate(node)
        self.graph.output(tuple(self.nodes[value.name] for value in graph.output))
        self.graph.eliminate_dead_code()
        self.module = torch.fx.GraphModule(self.root, self.graph)

    def translate(self, node: NodeProto) -> None:
        name = node.output[0]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Shape":
            self.constants[name] = np.array(self.meta[self.nodes[node.input[0]]].shape, np.int64)
        elif all(i in self.constants for i in node.input if i):
            self.constants[name] = _evaluate(node, [self.constants[i] for i in node.input if i], attributes)
        else:
            made = self.together(node) or getattr(self, f"on_{node.op_type}")(node, **attributes)
            self.nodes[name] = made

    # Values ------------------------------------------------------------------------------------------------

    def emit(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> torch.fx.Node:
        made = self.graph.call_function(function, arguments, named)

        def plain(value: Any) -> Any:
            return torch.fx.node.map_arg(value, lambda node: self.meta[node])

        self.meta[made] = function(*plain(arguments), **plain(named))
        return made

    def value(self, name: str) -> torch.fx.Node:
        """Computed, or a constant as a buffer of the module."""
        if name in self.nodes:
            return self.nodes[name]
        if name not in self.buffers:
            self.buffers[name] = self.buffer(name, self.constants[name])
        return self.buffers[name]

    def buffer(self, name: str, array: np.ndarray) -> torch.fx.Node:
        label = "c" + str(len(dict(self.root.named_buffers())))
        tensor = torch.from_numpy(np.array(array))
        self.root.register_buffer(label, tensor)
        made = self.graph.get_attr(label)
        self.meta[made] = tensor.to("meta")
        del name
        return made

    def floats(self, name: str) -> list[float]:
        return [float(number) for number in self.constants[name].reshape(-1)]

    # Patterns ----------------------------------------------------------------------------------------------

    def only(self, name: str, op: str) -> NodeProto | None:
        """The one consumer of a value, if it is of this kind."""
        found = self.consumers.get(name, [])
        return found[0] if len(found) == 1 and found[0].op_type == op else None

    def source(self, name: str, *ops: str) -> NodeProto | None:
        """Its producer, if it is of these kinds; casts are passed over."""
        node = self.producer.get(name)
        while node is not None and node.op_type == "Cast":
            node = self.producer.get(node.input[0])
        return node if node is not None and node.op_type in ops else None

    def together(self, node: NodeProto) -> torch.fx.Node | None:
        if node.op_type == "Add":
            return self.linear(node)
        if node.op_type == "Mul":
            return self.gelu(node)
        if node.op_type == "MatMul":
            return self.attention(node)
        return None

    def linear(self, node: NodeProto) -> torch.fx.Node | None:
        """x @ w + b"""
        for bias, product in (node.input, tuple(reversed(node.input))):
            made = self.source(product, "MatMul")
            if made is None or bias not in self.constants or made.input[1] not in self.constants:
                continue
            if made.input[0] in self.nodes and self.uses[product] == 1 and self.constants[bias].ndim == 1:
                weight = self.buffer("", np.ascontiguousarray(self.constants[made.input[1]].T))
                return self.emit(F.linear, self.nodes[made.input[0]], weight, self.value(bias))
        return None

    def gelu(self, node: NodeProto) -> torch.fx.Node | None:
        """x * (1 + erf(x / sqrt(2))) * 0.5"""
        product = self.source(node.input[0], "Mul")
        if product is None or node.input[1] not in self.constants or self.floats(node.input[1]) != [0.5]:
            return None
        x, added = product.input
        plus = self.source(added, "Add")
        erf = self.source(plus.input[0], "Erf") if plus is not None else None
        scaled = self.source(erf.input[0], "Div") if erf is not None else None
        return self.emit(F.gelu, self.nodes[x]) if scaled is not None and scaled.input[0] == x else None

    def attention(self, node: NodeProto) -> torch.fx.Node | None:
        """softmax(q @ k * scale) @ v"""
        weights = self.source(node.input[0], "Softmax")
        scaled = self.source(weights.input[0], "Mul", "Div") if weights is not None else None
        if scaled is None or scaled.input[1] not in self.constants:
            return None
        product = self.source(scaled.input[0], "MatMul")
        if product is None:
            return None
        (factor,) = self.floats(scaled.input[1])
        query, key, value = (self.nodes[name] for name in (*product.input, node.input[1]))
        key = self.emit(torch.transpose, key, -1, -2)
        scale = factor if scaled.op_type == "Mul" else 1 / factor
        return self.emit(F.scaled_dot_product_attention, query, key, value, scale=scale)

    # Operators ---------------------------------------------------------------------------------------------

    def on_Identity(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        return self.value(node.input[0])

    def on_Cast(self, node: NodeProto, to: int) -> torch.fx.Node:  # noqa: ARG002, N802
        return self.value(node.input[0])

    def on_Conv(self, node: NodeProto, *, dilations: list[int], group: int, kernel_shape: list[int], pads: list[int],  # noqa: N802, ARG002
                strides: list[int]) -> torch.fx.Node:  # fmt: skip
        assert pads[:2] == pads[2:]
        return self.emit(F.conv2d, *map(self.value, node.input), stride=tuple(strides), padding=tuple(pads[:2]),
                         dilation=tuple(dilations), groups=group)  # fmt: skip

    def on_MaxPool(self, node: NodeProto, *, ceil_mode: int, dilations: list[int], kernel_shape: list[int],  # noqa: N802
                   pads: list[int], strides: list[int]) -> torch.fx.Node:  # fmt: skip
        assert (ceil_mode, set(dilations), pads[:2]) == (0, {1}, pads[2:])
        return self.emit(F.max_pool2d, self.value(node.input[0]), tuple(kernel_shape), tuple(strides), tuple(pads[:2]))

    def on_Relu(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        return self.emit(F.relu, self.value(node.input[0]))

    def on_Clip(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        (low,), (high,) = map(self.floats, node.input[1:])
        return self.emit(F.hardtanh, self.value(node.input[0]), low, high)

    def on_GlobalAveragePool(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        return self.emit(F.adaptive_avg_pool2d, self.value(node.input[0]), 1)

    def on_Flatten(self, node: NodeProto, axis: int) -> torch.fx.Node:  # noqa: N802
        return self.emit(torch.flatten, self.value(node.input[0]), axis)

    def on_Gemm(self, node: NodeProto, *, alpha: float, beta: float, transB: int) -> torch.fx.Node:  # noqa: N802
        assert (alpha, beta, transB) == (1, 1, 1)
        return self.emit(F.linear, *map(self.value, node.input))

    def on_MatMul(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        return self.emit(torch.matmul, *map(self.value, node.input))

    def on_Add(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        return self.emit(operator.add, *map(self.value, node.input))

    def on_Mul(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        return self.emit(operator.mul, *map(self.value, node.input))

    def on_Div(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        return self.emit(operator.truediv, *map(self.value, node.input))

    def on_Erf(self, node: NodeProto) -> torch.fx.Node:  # noqa: N802
        return self.emit(torch.erf, self.value(node.input[0]))

    def on_Softmax(self, node: NodeProto, axis: int) -> torch.fx.Node:  # noqa: N802
        return self.emit(F.softmax, self.value(node.input[0]), axis)

    def on_LayerNormalization(self, node: NodeProto, axis: int, epsilon: float) -> torch.fx.Node:  # noqa: N802
        assert axis == -1
        x, weight, bias = map(self.value, node.input)
        return self.emit(F.layer_norm, x, tuple(self.meta[weight].shape), weight, bias, epsilon)

    def on_Reshape(self, node: NodeProto, allowzero: int = 0) -> torch.fx.Node:  # noqa: N802, ARG002
        return self.emit(torch.reshape, self.value(node.input[0]), tuple(self.constants[node.input[1]].tolist()))

    def on_Transpose(self, node: NodeProto, perm: list[int]) -> torch.fx.Node:  # noqa: N802
        return self.emit(torch.permute, self.value(node.input[0]), tuple(perm))

    def on_Concat(self, node: NodeProto, axis: int) -> torch.fx.Node:  # noqa: N802
        return self.emit(torch.cat, tuple(map(self.value, node.input)), axis)

    def on_Gather(self, node: NodeProto, axis: int = 0) -> torch.fx.Node:  # noqa: N802
        assert axis == 0
        return self.emit(F.embedding, self.value(node.input[1]), self.value(node.input[0]))


def _evaluate(node: NodeProto, inputs: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    """Of constants, by the ONNX package's reference."""
    if node.op_type == "Identity":
        return inputs[0]
    if node.op_type == "Constant":
        return numpy_helper.to_array(attributes["value"])
    if node.op_type == "GatherElements":  # the reference takes only one element of each
        return np.take_along_axis(*inputs, axis=attributes["axis"])
    from onnx.reference import ReferenceEvaluator

    graph = helper.make_graph([node], "one", [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip((name for name in node.input if name), inputs, strict=True)
    ], [onnx.ValueInfoProto(name=node.output[0])])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    names = [name for name in node.input if name]
    found: np.ndarray = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))[0]
    return found
