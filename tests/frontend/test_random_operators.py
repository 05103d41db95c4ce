"""Random operators: the seed decides, and what is drawn is spread as it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tensorc.frontend import import_model
from tensorc.ir import evaluate


def model(op: str, *inputs: np.ndarray, outputs: int = 1, opset: int = 22, name: str = "y", **attrs: Any) -> bytes:
    """A model of one node, whose inputs are constants."""
    names = [f"x{i}" for i in range(len(inputs))]
    results = [f"{name}{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, **attrs)], "random", [],
        [helper.make_empty_tensor_value_info(result) for result in results],
        [numpy_helper.from_array(x, name) for x, name in zip(inputs, names, strict=True)],
    )  # fmt: skip
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()
    return made


def run(*args: Any, **kwargs: Any) -> list[np.ndarray]:
    return evaluate(import_model(model(*args, **kwargs)).graph, {})


def reference(*args: Any, **kwargs: Any) -> list[np.ndarray]:
    return list(ReferenceEvaluator(onnx.load_from_string(model(*args, **kwargs))).run(None, {}))


X = np.zeros((40, 500), np.float32)


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("RandomUniform", (), {"shape": [30, 50], "low": -1.0, "high": 3.0}),
        ("RandomNormal", (), {"shape": [30, 50], "mean": 2.0, "scale": 0.5, "dtype": TensorProto.DOUBLE}),
        ("RandomUniformLike", (X,), {}),
        ("RandomNormalLike", (X.astype(np.int32),), {"dtype": TensorProto.FLOAT}),
        ("Dropout", (X + 2, np.float32(0.25), np.bool_(True)), {"outputs": 2}),
    ],
)
def test_a_seed_gives_what_the_reference_draws(op: str, inputs: tuple, attrs: dict) -> None:
    seed = 7 if op == "Dropout" else 7.0  # as their schemas have it
    for got, want in zip(run(op, *inputs, seed=seed, **attrs), reference(op, *inputs, seed=seed, **attrs), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_the_name_decides_without_a_seed() -> None:
    (first,), (again,), (other,) = (run("RandomUniform", shape=[100], name=name) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_bernoulli_and_multinomial_follow_their_probabilities() -> None:
    p = np.broadcast_to(np.float32([0, 0.3, 0.9, 1]), (20000, 4))
    (drawn,) = run("Bernoulli", p, dtype=TensorProto.INT32, seed=1.0)
    assert drawn.dtype == np.int32
    np.testing.assert_allclose(drawn.mean(0), p[0], atol=0.02)

    weights = np.float32([[0.1, 0.2, 0.3, 0.4], [0, 1, 0, 0]])
    with np.errstate(divide="ignore"):
        (drawn,) = run("Multinomial", np.log(weights), sample_size=20000, dtype=TensorProto.INT64, seed=1.0)
    assert (drawn.dtype, drawn.shape) == (np.int64, (2, 20000))
    shares = np.stack([(drawn == c).mean(1) for c in range(4)], 1)
    np.testing.assert_allclose(shares, weights, atol=0.02)


def test_dropout_without_training_is_nothing() -> None:
    for inputs in ((X,), (X, np.float32(0.9)), (X, np.float32(0), np.bool_(True))):
        y, mask = run("Dropout", *inputs, outputs=2)
        np.testing.assert_array_equal(y, X)
        assert mask.all()


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_numbers_of_few_bits_do_not_reach_the_end_of_their_range(dtype: int) -> None:
    (x,) = run("RandomUniform", shape=[40000], dtype=dtype, seed=3.0, low=1.0, high=3.0)
    assert x.min() >= 1
    assert x.max() < 3
    ones = np.ones(40000, helper.tensor_dtype_to_np_dtype(dtype))
    (certain,) = run("Bernoulli", ones, seed=3.0)
    assert (certain == 1).all()
