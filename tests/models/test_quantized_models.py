"""Quantized networks and those of unusual element types, compiled whole."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tensorc

pytestmark = pytest.mark.compiler


def test_convolution_between_quantizations(net, agrees):
    """As quantizers write it: every operand dequantized, the result quantized."""
    x = net.input(1, 3, 10, 10)
    scale, zero = net.constant(np.float32(0.02)), net.constant(np.uint8(121))
    weight = net.constant(net.rng.integers(-127, 128, (20, 3, 3, 3)), "int8")
    scales, zeros = (
        net.constant(net.rng.uniform(0.001, 0.01, 20).astype(np.float32)),
        net.constant(np.zeros(20, np.int8)),
    )
    data = net.DequantizeLinear(net.QuantizeLinear(x, scale, zero), scale, zero)
    filters = net.DequantizeLinear(weight, scales, zeros, axis=0)
    y = net.Relu(net.Conv(data, filters, pads=[1, 1, 1, 1]))
    agrees(net, net.QuantizeLinear(y, net.constant(np.float32(0.017)), zero), y)


def test_integer_operators(net, agrees):
    x = net.input(1, 3, 9, 8)
    one, zero = net.constant(np.float32(0.03)), net.constant(np.uint8(117))
    quantized = net.QuantizeLinear(x, one, zero)
    weight = net.constant(net.rng.integers(-100, 100, (18, 3, 3, 3)), "int8")
    scales, zeros = (
        net.constant(net.rng.uniform(0.01, 0.02, 18).astype(np.float32)),
        net.constant(np.zeros(18, np.int8)),
    )
    bias = net.constant(net.rng.integers(-1000, 1000, 18), "int32")
    y_scale, y_zero = net.constant(np.float32(0.11)), net.constant(np.uint8(133))
    y = net.QLinearConv(quantized, one, zero, weight, scales, zeros, y_scale, y_zero, bias, pads=[1, 1, 1, 1])
    rows = net.Reshape(y, net.constant([18, 72]))
    matrix = net.constant(net.rng.integers(0, 255, (72, 11)), "uint8")
    product = net.QLinearMatMul(rows, y_scale, y_zero, matrix, one, zero, net.constant(np.float32(0.9)), y_zero)
    agrees(net, y, product, net.MatMulInteger(rows, matrix, y_zero, zero))


def test_dynamic_quantization(net, agrees):
    x = net.input(5, 24)
    steps = [f"q{i}" for i in range(3)]
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], steps))
    weight = net.constant(net.rng.integers(-127, 128, (24, 33)), "int8")
    product = net.Cast(net.MatMulInteger(steps[0], weight, steps[2]), to=TensorProto.FLOAT)
    agrees(net, net.Mul(product, net.Mul(steps[1], net.constant(np.float32(0.01)))))


def test_integer_wrap_in_one_kernel(net, agrees):
    x = net.input(6, 5, kind="i")
    big = net.constant(np.int64(2**62))
    product = net.Mul(net.Add(x, big), net.constant(np.int64(3)))
    agrees(net, product, net.Less(product, x), net.Sub(product, big), high=9)


def _reference(nodes, inputs, constants, opset=23):
    """The model of `nodes`, and what ONNX's own evaluator makes of it."""
    rows = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", rows, [helper.make_empty_tensor_value_info("y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    (want,) = ReferenceEvaluator(model).run(None, inputs)
    with tensorc.compile(model) as compiled:
        (got,) = compiled.run(None, inputs)
    assert got.dtype == want.dtype
    return got.astype(np.float64), want.astype(np.float64)


def test_bfloat16_network():
    rng = np.random.default_rng(0)
    constants = {
        "w": (rng.standard_normal((32, 24)) / 6).astype(ml_dtypes.bfloat16),
        "b": rng.standard_normal(24).astype(ml_dtypes.bfloat16),
        "v": (rng.standard_normal((24, 7)) / 5).astype(ml_dtypes.bfloat16),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["0"]),
        helper.make_node("Add", ["0", "b"], ["1"]),
        helper.make_node("Tanh", ["1"], ["2"]),
        helper.make_node("MatMul", ["2", "v"], ["3"]),
        helper.make_node("Softmax", ["3"], ["y"], axis=-1),
    ]
    got, want = _reference(nodes, {"x": rng.standard_normal((5, 32)).astype(ml_dtypes.bfloat16)}, constants)
    np.testing.assert_allclose(got, want, atol=0.02)


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn])
def test_weights_dequantized_by_blocks(dtype):
    rng = np.random.default_rng(1)
    constants = {
        "w": rng.integers(0, 7, (40, 19)).astype(dtype),
        "s": rng.uniform(0.1, 0.2, (3, 19)).astype(np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["0"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "0"], ["y"]),
    ]
    got, want = _reference(nodes, {"x": rng.standard_normal((3, 40)).astype(np.float32)}, constants)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_float64_network():
    rng = np.random.default_rng(2)
    constants = {
        "w": rng.standard_normal((12, 2, 3, 3)),
        "a": rng.standard_normal((96, 10)),
        "shape": np.array([2, -1]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["0"]),
        helper.make_node("Sigmoid", ["0"], ["1"]),
        helper.make_node("Reshape", ["1", "shape"], ["2"]),
        helper.make_node("MatMul", ["2", "a"], ["3"]),
        helper.make_node("Exp", ["3"], ["y"]),
    ]
    got, want = _reference(nodes, {"x": rng.standard_normal((2, 2, 6, 4)) / 3}, constants)
    np.testing.assert_allclose(got, want, rtol=1e-13)
