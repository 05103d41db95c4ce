"""Products by packed weights as ONNX Runtime writes them, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tensorc
from passes.canonical import canonical_passes
from tensorc.errors import UserError
from tensorc.frontend import import_model
from tensorc.ir import evaluate
from tensorc.pipeline import run_passes

RNG = np.random.default_rng(0)


def model_of(shape, depth, columns, width, block, zeros=None, bias=False, order=None, dtype=np.float32):
    groups = -(-depth // block)
    given = {
        "b": RNG.integers(0, 256, (columns, groups, block * width // 8), dtype=np.uint8),
        "scales": (RNG.random((columns, groups)) + 0.5).astype(dtype),
        "zeros": None,
        "order": order,
        "bias": RNG.standard_normal(columns).astype(dtype) if bias else None,
    }
    if zeros == "packed":
        given["zeros"] = RNG.integers(0, 256, (columns, -(-groups * width // 8)), dtype=np.uint8)
    elif zeros == "floats":
        given["zeros"] = (RNG.random((columns, groups)) * 2**width).astype(dtype)
    names = ["a", *(name if array is not None else "" for name, array in given.items())]
    while not names[-1]:
        names.pop()
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", K=depth, N=columns, bits=width,
                            block_size=block)  # fmt: skip
    inputs = [helper.make_tensor_value_info("a", element, [*shape, depth])]
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", element, [*shape, columns])],
        [numpy_helper.from_array(array, name) for name, array in given.items() if array is not None],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


CASES = {
    "four bits": ((3,), 64, 20, 4, 32),
    "a short last block": ((2, 3), 80, 7, 4, 32),
    "packed zero points": ((1,), 96, 9, 4, 32, "packed"),
    "zero points of a short row": ((1,), 144, 9, 4, 16, "packed"),
    "zero points as floats": ((4,), 64, 8, 4, 16, "floats"),
    "a bias": ((5,), 64, 20, 4, 64, None, True),
    "eight bits": ((3,), 64, 20, 8, 32, "packed"),
    "an order that is none": ((2,), 64, 5, 4, 32, None, False, (np.arange(64) // 32).astype(np.int32)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_onnx_runtime_computes(name):
    model = model_of(*CASES[name])
    graph = import_model(model.SerializeToString()).graph
    (value,) = graph.inputs
    a = RNG.standard_normal(value.shape).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"a": a})
    (got,) = evaluate(graph, {value.name: a})
    assert "matmul_coded" in [node.op for node in graph.nodes]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.compiler
def test_compiled():
    for name in ("a short last block", "packed zero points", "a bias", "eight bits"):
        model = model_of(*CASES[name])
        with tensorc.compile(model, threads=1) as compiled:
            a = RNG.standard_normal(compiled.get_inputs()[0].shape).astype(np.float32)
            (got,) = compiled.run(None, {"a": a})
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (want,) = session.run(None, {"a": a})
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=name)


@pytest.mark.compiler
def test_half_precision():
    model = model_of((3,), 64, 20, 4, 32, "packed", True, None, np.float16)
    with tensorc.compile(model, threads=1) as compiled:
        a = RNG.standard_normal((3, 64)).astype(np.float16)
        (got,) = compiled.run(None, {"a": a})
    graph = import_model(model.SerializeToString()).graph
    (want,) = evaluate(graph, {graph.inputs[0].name: a})
    assert got.dtype == np.float16
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=2e-3)


@pytest.mark.parametrize(("model", "message"), [
    (model_of((2,), 64, 5, 4, 32, order=(np.arange(64) % 2).astype(np.int32)), "g_idx puts the elements of a block"),
    (model_of((2,), 64, 5, 4, 24), "block_size=24 is a power of two"),
])  # fmt: skip
def test_what_is_refused(model, message):
    with pytest.raises(UserError, match=message):
        import_model(model.SerializeToString())


def dequantized(element, axis, block, zero, transposed=False, shape=(64, 20)):
    """A product by a matrix that DequantizeLinear makes of few bits, as ONNX itself writes it."""
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128)}[element]
    own = list(shape)
    if block:
        own[axis] = -(-own[axis] // block)
    else:
        own = [] if axis is None else [own[axis]]
    code = getattr(TensorProto, element.upper())
    tensors = [
        helper.make_tensor("q", code, shape, RNG.integers(low, high, shape).reshape(-1).tolist()),
        numpy_helper.from_array((RNG.random(own) + 0.5).astype(np.float32), "s"),
    ]
    if zero:
        tensors.append(helper.make_tensor("z", code, own, RNG.integers(low, high, own).reshape(-1).tolist()))
    attrs = {"axis": axis, "block_size": block} if block else {} if axis is None else {"axis": axis}
    depth, columns = shape[::-1] if transposed else shape
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"][: 2 + zero], ["w"], **attrs),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(transposed)),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, columns])], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


STANDARD = {
    "blocks": (("int4", 0, 16, False), "matmul_coded"),
    "unsigned blocks with zero points": (("uint4", 0, 32, True), "matmul_coded"),
    "blocks along the rows": (("int4", 1, 16, True, True, (20, 64)), "matmul_coded"),
    "bytes in blocks": (("int8", 0, 16, True), "matmul_coded"),
    "a scale for each column": (("int4", 1, 0, True), "matmul_coded"),
    "one scale": (("uint4", None, 0, True), "matmul_coded"),
    "blocks across the sum": (("int4", 1, 4, False), "matmul"),
}


@pytest.mark.parametrize("name", STANDARD)
def test_dequantized_matrices_are_multiplied_as_they_are(name):
    arguments, op = STANDARD[name]
    model = dequantized(*arguments)
    graph = import_model(model.SerializeToString()).graph
    x = RNG.standard_normal(graph.inputs[0].shape).astype(np.float32)
    options = onnxruntime.SessionOptions()  # which would round x to bytes where it makes MatMulNBits of it
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    feed = {graph.inputs[0].name: x}
    np.testing.assert_allclose(evaluate(graph, feed)[0], want, rtol=0, atol=1e-5 * np.abs(want).max())
    run_passes(graph, canonical_passes())
    assert [node.op for node in graph.nodes] == [op]
    np.testing.assert_allclose(evaluate(graph, feed)[0], want, rtol=0, atol=1e-5 * np.abs(want).max())
