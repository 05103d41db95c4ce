"""A small ONNX network as hls4ml reads it, and hls4ml's own C simulation of it.

hls4ml's ONNX reader takes only what qonnx has cleaned up: channels last, products as MatMul and Add. qonnx 1.0.0 cannot
do that beside a current onnx (its constant folding asks ONNX Runtime to run a model of an IR version that ONNX Runtime
does not know yet), and hls4ml does not need it: the same graph is written here. Nodes that qonnx would have made are
marked by their domain.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_CHANNELS_LAST = "qonnx.custom_op.channels_last"


@dataclass(frozen=True)
class Type:
    """Fixed-point numbers: `bits` in all, `fraction` behind the point."""

    bits: int
    signed: bool
    fraction: int

    def text(self) -> str:
        """As hls4ml spells it: rounded half up and saturated, as ours."""
        return f"{'' if self.signed else 'u'}fixed<{self.bits},{self.bits - self.fraction},RND,SAT>"


@dataclass(frozen=True)
class Layer:
    """Types of what a layer multiplies with and gives; its sums and its bias lose nothing."""

    weight: Type
    bias: Type
    sums: Type
    result: Type


def channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convolutions, pools, Flatten, Gemm, Relu and Softmax as hls4ml reads them. Raises ValueError for others."""
    return _Writer(model).written()


class _Writer:
    def __init__(self, model: onnx.ModelProto):
        self.graph = onnx.shape_inference.infer_shapes(model).graph
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        values = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.infos: dict[str, list[int]] = {name: _last(shape) for name, shape in self.shapes.items()}
        #: The order in which the numbers of a flattened image pass, if there is one.
        self.order: np.ndarray | None = None

    def written(self) -> onnx.ModelProto:
        for number, node in enumerate(self.graph.node):
            name = f"{node.op_type.lower()}{number}"
            given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            match node.op_type:
                case "Conv":
                    self._conv(name, node, given)
                case "MaxPool" | "AveragePool":
                    rank = len(given["kernel_shape"])
                    rest = {"pads": [0] * 2 * rank, "dilations": [1] * rank, **given}
                    self._add(node.op_type, name, [node.input[0]], node.output[0], rest, _CHANNELS_LAST)
                case "Flatten":
                    shape = self.shapes[node.input[0]][1:]
                    self.order = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), 0, -1).reshape(-1)
                    self._add("Reshape", name, [node.input[0], self._constant(name, np.array([1, -1]))], node.output[0])
                case "Gemm":
                    self._gemm(name, node, given)
                case "Relu" | "Softmax":
                    self._add(node.op_type, name, [node.input[0]], node.output[0], given)
                case _:
                    raise ValueError(f"{node.op_type} is not written for hls4ml here")
        outside = {value.name for value in (*self.graph.input, *self.graph.output)}
        graph = helper.make_graph(
            self.nodes, self.graph.name, *(
                [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, self.infos[value.name]) for value in some]
                for some in (self.graph.input, self.graph.output)
            ), self.constants,
            value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                        for name, shape in self.infos.items() if name not in outside],
        )  # fmt: skip
        return helper.make_model(graph)

    def _add(self, kind: str, name: str, inputs: Sequence[str], output: str, given: Mapping[str, Any] | None = None,
             domain: str = "") -> None:  # fmt: skip
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, domain=domain, **(given or {})))

    def _constant(self, name: str, numbers: np.ndarray) -> str:
        self.infos[f"{name}_constant"] = list(numbers.shape)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(numbers), f"{name}_constant"))
        return f"{name}_constant"

    def _conv(self, name: str, node: onnx.NodeProto, given: Mapping[str, Any]) -> None:
        weights = np.moveaxis(self.weights[node.input[1]], 1, -1)
        rank = weights.ndim - 2
        rest = {"group": 1, "strides": [1] * rank, "dilations": [1] * rank, "pads": [0] * 2 * rank, **given}
        inputs = [
            node.input[0],
            self._constant(name, weights),
            self._constant(f"{name}_bias", self.weights[node.input[2]]),
        ]
        self._add("Conv", name, inputs, node.output[0], rest, _CHANNELS_LAST)

    def _gemm(self, name: str, node: onnx.NodeProto, given: Mapping[str, Any]) -> None:
        weights = self.weights[node.input[1]]
        weights = weights.T if given.get("transB") else weights
        weights = weights if self.order is None else weights[self.order]
        self.order = None
        product = f"{node.output[0]}_product"
        self.infos[product] = self.infos[node.output[0]]
        self._add("MatMul", name, [node.input[0], self._constant(name, weights)], product)
        bias = self._constant(f"{name}_bias", self.weights[node.input[2]])
        self._add("Add", f"{name}_add", [product, bias], node.output[0])


def _last(shape: list[int]) -> list[int]:
    return [shape[0], *shape[2:], shape[1]] if len(shape) > 2 else shape


@dataclass(frozen=True)
class Peer:
    """hls4ml's results [images, ...], and what it says of itself: layers that multiply, by their multiplications in an
    image and multipliers."""

    results: np.ndarray
    products: Mapping[str, tuple[int, int]]


def simulated(model: onnx.ModelProto, entry: Type, layers: Sequence[Layer], result: Type, images: np.ndarray,
              reuse: Mapping[int, int], folder: Path) -> Peer:  # fmt: skip
    """hls4ml's C simulation of `model` (one of `channels_last`) in `folder`. `layers` are the types of its products, in
    order, `result` that of the output; `reuse` the reuse factors, by their numbers."""
    import hls4ml

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        config = hls4ml.utils.config_from_onnx_model(
            model, granularity="name", backend="Vitis", default_precision=entry.text()
        )
        _set_types(model, config["LayerName"], entry, layers, result, reuse)
        config["Model"]["Strategy"] = "Resource" if max(reuse.values(), default=1) > 1 else "Latency"
        stream = any(node.op_type == "Conv" for node in model.graph.node)
        made = hls4ml.converters.convert_from_onnx_model(
            model, hls_config=config, output_dir=str(folder), backend="Vitis",
            io_type="io_stream" if stream else "io_parallel",
        )  # fmt: skip
        made.compile()
        results = made.predict(np.ascontiguousarray(images))
    products = {}
    for layer in made.get_layers():
        if "weight" not in layer.weights:
            continue
        positions = math.prod(layer.get_output_variable().shape[:-1])
        count = layer.weights["weight"].data.size
        products[layer.name] = count * positions, -(-count // layer.get_attr("reuse_factor", 1))
    return Peer(np.asarray(results), products)


def _set_types(model: onnx.ModelProto, config: dict[str, Any], entry: Type, layers: Sequence[Layer], result: Type,
               reuse: Mapping[int, int]) -> None:  # fmt: skip
    """Sums and what is added to them are exact in both; results are rounded where the activation gives them."""
    inputs = {value.name for value in model.graph.input}
    for name in inputs:
        config[name]["Precision"] = {"result": entry.text()}
    number, now = -1, entry
    for position, node in enumerate(model.graph.node):
        row = config[node.name]
        row.setdefault("Precision", {})
        if node.op_type in ("Conv", "MatMul"):
            number += 1
            layer = layers[number]
            now = layer.result
            config[f"{node.name}_constant"]["Precision"]["result"] = layer.weight.text()
            config[f"{node.name}_bias_constant"]["Precision"]["result"] = layer.bias.text()
            row["Precision"] |= {"weight": layer.weight.text(), "bias": layer.bias.text()}
            row["Precision"] |= {"result": layer.sums.text(), "accum": layer.sums.text()}
            row["ReuseFactor"] = reuse.get(number, 1)
        elif node.op_type == "Add":
            layer = layers[number]
            rounded = now if not _is_rounded_later(model, position) else layer.sums
            row["Precision"] = {"result": rounded.text(), "bias": layer.bias.text()}
        elif node.op_type == "Softmax":
            row["Precision"]["result"] = result.text()
        else:
            row["Precision"]["result"] = now.text()


def _is_rounded_later(model: onnx.ModelProto, position: int) -> bool:
    """By the activation behind it."""
    return [node.op_type for node in model.graph.node[position + 1 : position + 2]] == ["Relu"]
