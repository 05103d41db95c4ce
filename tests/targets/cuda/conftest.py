"""Small models compiled for a GPU, and loaded on the emulator; and what all tests of CUDA kernels ask of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tensorc
from targets.cuda.codegen import print_kernel
from tensorc.runtime.model import Model


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORC_CUDA_EMULATE", "1")


def two_layers(path: Path) -> Path:
    """a = relu(x @ w), s = softmax(a) + y: y is read by the last launch only, and a is an output on the way."""
    weights = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["a"]),
        helper.make_node("Softmax", ["a"], ["n"], axis=1),
        helper.make_node("Add", ["n", "y"], ["s"]),
    ]
    rows = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, n]) for name, n in
            (("x", 6), ("y", 5), ("a", 5), ("s", 5))}  # fmt: skip
    graph = helper.make_graph(nodes, "two", [rows["x"], rows["y"]], [rows["a"], rows["s"]],
                              [numpy_helper.from_array(weights, "w")])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="session")
def two_layer_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    out = folder / "two.tcm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORC_CUDA_EMULATE", "1")
        tensorc.compile(two_layers(folder / "two.onnx"), target="cuda:sm_90", out=out).close()
    return out


@pytest.fixture
def two(two_layer_artifact: Path) -> Model:
    with tensorc.load(two_layer_artifact) as model:
        yield model


@pytest.fixture(scope="session")
def expected_two() -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    weights = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)

    def compute(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a = np.maximum(x @ weights, 0)
        power = np.exp(a - a.max(1, keepdims=True))
        return a, power / power.sum(1, keepdims=True) + y

    return compute


@pytest.fixture
def well_made() -> Callable[..., bool]:
    """Whether the kernels of a batch are no tasks, a thread each, and have room for all they keep in registers."""

    def ask(batch) -> bool:
        own = all("int end = " not in print_kernel(case.kernel.function, "k") for case in batch.cases)
        return own and all(found.spill_stores == found.spill_loads == 0 for found in batch.resources)

    return ask
