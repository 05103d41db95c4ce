"""Models whose weights of products were encoded in a number format and decoded again: what a kernel that computes in
the format would multiply with, in a file that any engine runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tensorc.formats import Format

#: Operator -> which of its inputs are weights.
_PRODUCTS = {"Conv": 1, "Gemm": 1, "MatMul": 1}


@dataclass(frozen=True)
class EncodedModel:
    model: onnx.ModelProto
    #: Of the weights of products: their number, their bytes in float32, and in the format.
    elements: int
    float_bytes: int
    encoded_bytes: int


def encoded(model: onnx.ModelProto, format: Format) -> EncodedModel:
    """A copy; every constant that a convolution or a matrix product multiplies with has gone through the format. Scales
    are shared along what is summed over: for a convolution, all axes but that of the output channels."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    elements = float_bytes = encoded_bytes = 0
    for tensor, is_transposed in _weights(changed):
        data = numpy_helper.to_array(tensor)
        rows = data.reshape(len(data), -1) if data.ndim > 2 else data if is_transposed else data.T
        parts = format.quantize(rows)
        elements += data.size
        float_bytes += data.nbytes
        encoded_bytes += parts.nbytes
        back = parts.dequantize()
        back = back.reshape(data.shape) if data.ndim > 2 or is_transposed else back.T
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(back), tensor.name))
    return EncodedModel(changed, elements, float_bytes, encoded_bytes)


def _weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """Each of them once, and whether its first axis is that of the output channels."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        place = _PRODUCTS.get(node.op_type)
        if place is not None and (tensor := constants.pop(node.input[place], None)) is not None:
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            yield tensor, node.op_type == "Conv" or bool(attributes.get("transB", 0))
