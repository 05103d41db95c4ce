"""Models whose weights of products were encoded in a number format and decoded again: what a kernel that computes in
the format would multiply with, in a file that any engine runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tensorc.formats import find_format
from tensorc.formats.compensated import compensated
from tensorc.formats.integers import Integers

#: After a format's name: rounding is compensated for, with what the weights are multiplied with in the samples.
CALIBRATED = "+calibrated"
#: Operator -> which of its inputs are weights.
_PRODUCTS = {"Conv": 1, "Gemm": 1, "MatMul": 1}

#: Of what weights are multiplied with, the second moments, by the weights' names.
Moments = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class EncodedModel:
    model: onnx.ModelProto
    #: Of the weights of products: their number, their bytes in float32, and in the format.
    elements: int
    float_bytes: int
    encoded_bytes: int


def encoded(model: onnx.ModelProto, name: str, moments: Moments) -> EncodedModel:
    """A copy; every constant that a convolution or a matrix product multiplies with has gone through the format `name`.
    Scales are shared along what is summed over: for a convolution, all axes but that of the output channels."""
    format = find_format(name.removesuffix(CALIBRATED))
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    elements = float_bytes = encoded_bytes = 0
    for _, tensor, is_transposed in _weights(changed):
        data = numpy_helper.to_array(tensor)
        rows = data.reshape(len(data), -1) if data.ndim > 2 else data if is_transposed else data.T
        if name.endswith(CALIBRATED):
            assert isinstance(format, Integers), f"{format.name} is not made of integers"
            made = compensated(format, rows, moments[tensor.name])
        else:
            made = format.quantize(rows)
        elements += data.size
        float_bytes += data.nbytes
        encoded_bytes += made.nbytes
        back = made.dequantize()
        back = back.reshape(data.shape) if data.ndim > 2 or is_transposed else back.T
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(back), tensor.name))
    return EncodedModel(changed, elements, float_bytes, encoded_bytes)


def moments_of(model: onnx.ModelProto, samples: Mapping[str, np.ndarray]) -> Moments:
    """From arrays whose first axis is that of the samples, by the names of the model's inputs. The model's convolutions
    have one group."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    products = list(_weights(watched))
    read = list(dict.fromkeys(node.input[0] for node, _, _ in products if node.input[0] not in samples))
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in read)
    session = onnxruntime.InferenceSession(watched.SerializeToString())
    found: dict[str, np.ndarray] = {}
    for number in range(len(next(iter(samples.values())))):
        feed = {name: array[number] for name, array in samples.items()}
        values = feed | (dict(zip(read, session.run(read, feed), strict=True)) if read else {})
        for node, tensor, _ in products:
            x = values[node.input[0]]
            rows = _windows(node, x) if node.op_type == "Conv" else x.reshape(-1, x.shape[-1])
            found[tensor.name] = found.get(tensor.name, 0) + rows.T.astype(np.float64) @ rows
    return found


def _windows(node: onnx.NodeProto, x: np.ndarray) -> np.ndarray:
    """What a convolution multiplies its filters with: [places, channels * height * width of a filter]."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert given.get("group", 1) == 1
    assert set(given.get("dilations", [1])) == {1}
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    down, along = given.get("strides", (1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, given["kernel_shape"], axis=(2, 3))
    ordered = windows[:, :, ::down, ::along].transpose(0, 2, 3, 1, 4, 5)
    return ordered.reshape(-1, int(np.prod(ordered.shape[3:])))


def _weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto, bool]]:
    """Each of them once, with a node that reads it, and whether its first axis is that of the output channels."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        place = _PRODUCTS.get(node.op_type)
        if place is not None and (tensor := constants.pop(node.input[place], None)) is not None:
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            yield node, tensor, node.op_type == "Conv" or bool(attributes.get("transB", 0))
