"""Operators as they were before opset 7, against numpy: newer evaluators do not know them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tensorc.errors import UnsupportedError
from tensorc.frontend import import_model
from tensorc.ir import evaluate


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).uniform(-2, 2, shape).astype(np.float32)


def run(op: str, opset: int, inputs: list[np.ndarray], constants: int = 0, **attrs: Any) -> np.ndarray:
    """The last `constants` inputs are initializers."""
    names = [f"x{i}" for i in range(len(inputs))]
    given = len(inputs) - constants
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attrs)],
        "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
         for n, x in zip(names[:given], inputs, strict=False)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(x, n) for n, x in zip(names[given:], inputs[given:], strict=True)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)
    imported = import_model(model)
    feed = {value.name: array for value, array in zip(imported.graph.inputs, inputs, strict=False)}
    (result,) = evaluate(imported.graph, feed)
    return result


X = random(2, 3, 4, 5)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize(
    ("shape", "axis", "lengthened"),
    [((3, 4), 1, (3, 4, 1)), ((2,), 0, (2, 1, 1, 1)), ((5,), None, (5,)), ((4, 5), None, (4, 5)), ((1,), 1, (1, 1, 1)),
     ((), None, ()), ((2, 3, 4, 5), None, (2, 3, 4, 5))],
)  # fmt: skip
def test_operands_along_a_named_axis(
    opset: int, shape: tuple[int, ...], axis: int | None, lengthened: tuple[int, ...]
) -> None:
    other = random(*shape)
    named = {} if axis is None else {"axis": axis}
    np.testing.assert_array_equal(run("Sub", opset, [X, other], broadcast=1, **named), X - other.reshape(lengthened))
    np.testing.assert_array_equal(run("Less", opset, [X, other], broadcast=1, **named), other.reshape(lengthened) > X)


def test_slopes_of_channels() -> None:
    slope = random(3)
    np.testing.assert_array_equal(run("PRelu", 6, [X, slope]), np.where(X < 0, X * slope.reshape(3, 1, 1), X))
    np.testing.assert_array_equal(run("PRelu", 1, [X, slope[:1]]), np.where(X < 0, X * slope[0], X))


def test_attributes_that_are_inputs_now() -> None:
    np.testing.assert_array_equal(run("Reshape", 1, [X], shape=[0, -1, 5]), X.reshape(2, 12, 5))
    np.testing.assert_array_equal(run("Reshape", 5, [X, np.array([6, 20])], constants=1), X.reshape(6, 20))
    np.testing.assert_array_equal(run("Pad", 1, [X[0, 0]], paddings=[1, 0, 0, 2]), np.pad(X[0, 0], [(1, 0), (0, 2)]))
    np.testing.assert_array_equal(run("Cast", 1, [X], to="INT32"), X.astype(np.int32))


def test_inputs_that_are_attributes_now() -> None:
    tiled = run("Tile", 1, [X, np.array([3], np.float32), np.array([1], np.float32)], constants=2)
    np.testing.assert_array_equal(tiled, np.tile(X, (1, 3, 1, 1)))
    np.testing.assert_array_equal(run("Split", 1, [X, np.array([5], np.float32)], constants=1, axis=3), X)


def test_defaults_that_went() -> None:
    np.testing.assert_array_equal(run("Concat", 1, [X, X]), np.concatenate([X, X], 1))
    selu = np.where(X > 0, X, 1.6732 * np.expm1(X)) * 1.0507
    np.testing.assert_allclose(run("Selu", 1, [X], consumed_inputs=[0]), selu, rtol=1e-6)
    np.testing.assert_allclose(run("Softmax", 6, [X[0, 0]]).sum(1), np.ones(4), rtol=1e-6)


def test_batch_norm_and_dropout_when_a_model_is_run() -> None:
    scale, bias, mean, variance = random(3), random(3) + 1, random(3) + 2, np.abs(random(3)) + 1
    got = run("BatchNormalization", 6, [X, scale, bias, mean, variance], is_test=1, epsilon=0.5)
    shape = (3, 1, 1)
    wanted = (X - mean.reshape(shape)) / np.sqrt(variance + 0.5).reshape(shape) * scale.reshape(shape)
    np.testing.assert_allclose(got, wanted + bias.reshape(shape), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run("Dropout", 6, [X], is_test=1, ratio=0.3), X)
    with pytest.raises(UnsupportedError, match="training mode"):
        run("Dropout", 6, [X])


def test_what_has_no_newer_form() -> None:
    with pytest.raises(UnsupportedError, match="of opset 1"):
        run("Upsample", 1, [X], height_scale=2.0, width_scale=2.0)
