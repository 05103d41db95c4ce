"""Models whose weights of products were encoded in a number format and decoded again: what a kernel that computes in
the format would multiply with, in a file that any engine runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import tensorc
from tensorc.errors import UserError
from tensorc.formats import find_format
from tensorc.formats.compensated import compensated
from tensorc.formats.integers import Integers
from tensorc.quantization.scheme import SCHEMES, Quantization

#: After a format's name: rounding is compensated for, with what the weights are multiplied with in the samples.
CALIBRATED = "+calibrated"
#: Operator -> which of its inputs are weights.
_PRODUCTS = {"Conv": 1, "Gemm": 1, "MatMul": 1}

#: Of what weights are multiplied with, the second moments, by the weights' names.
Moments = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class EncodedModel:
    model: onnx.ModelProto
    #: Of the weights that were encoded: their bytes in float32, and in the format.
    float_bytes: int
    encoded_bytes: int


def quantized(model: onnx.ModelProto, name: str, calibration: Path, moments: Moments) -> tuple[tensorc.Model, int]:
    """The model compiled with `--quantize name`, or in float32, and the bytes of its weights. Weights for which there
    is no such kernel (convolutions', for any format) are encoded in the model, and counted as that."""
    if name == "float32" or name in SCHEMES:
        scheme = name if name in SCHEMES else None
        made = tensorc.compile(model, threads=1, quantize=scheme, calibration=calibration if name == "int8" else None)
        return made, made.manifest["sections"]["constants"]["size"]
    format = name.removesuffix(CALIBRATED)
    takes = _takes(format)
    weights = encoded(model, name, moments, {"Conv"} if takes else set(_PRODUCTS))
    samples = calibration if takes and name != format else None
    made = tensorc.compile(weights.model, threads=1, quantize=format if takes else None, calibration=samples)
    size = made.manifest["sections"]["constants"]["size"]
    return made, size - weights.float_bytes + weights.encoded_bytes


def _takes(name: str) -> bool:
    try:
        Quantization(name)
    except UserError:
        return False
    return True


def bits(model: onnx.ModelProto, name: str) -> float:
    """Of a weight that is multiplied with, scales included."""
    format = find_format(name.removesuffix(CALIBRATED))
    shapes = [(tensor.dims, turned) for _, tensor, turned in _weights(model)]
    rows = [(dims[0], int(np.prod(dims[1:]))) if turned else (dims[1], dims[0]) for dims, turned in shapes]
    return 8 * sum(format.nbytes(shape) for shape in rows) / sum(a * b for a, b in rows)


def encoded(model: onnx.ModelProto, name: str, moments: Moments, operators: Collection[str]) -> EncodedModel:
    """A copy; every constant that one of the operators multiplies with has gone through the format `name`. Scales are
    shared along what is summed over: for a convolution, all axes but that of the output channels."""
    format = find_format(name.removesuffix(CALIBRATED))
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    float_bytes = encoded_bytes = 0
    for node, tensor, is_transposed in _weights(changed):
        if node.op_type not in operators:
            continue
        data = numpy_helper.to_array(tensor)
        rows = data.reshape(len(data), -1) if data.ndim > 2 else data if is_transposed else data.T
        if name.endswith(CALIBRATED):
            assert isinstance(format, Integers), f"{format.name} is not made of integers"
            made = compensated(format, rows, moments[tensor.name])
        else:
            made = format.quantize(rows)
        float_bytes += data.nbytes
        encoded_bytes += made.nbytes
        back = made.dequantize()
        back = back.reshape(data.shape) if data.ndim > 2 or is_transposed else back.T
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(back), tensor.name))
    return EncodedModel(changed, float_bytes, encoded_bytes)


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
