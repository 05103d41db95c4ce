"""A model from rows of nodes, compiled for the CPU and compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tensorc

Spec = Mapping[str, tuple[str, Sequence[int]]]
ELEMENTS = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}


class ModelBuilder:
    """Writes an ONNX graph: `net.Conv(x, w, pads=...)` adds a node and gives the name of its output."""

    def __init__(self, seed: int = 0, opset: int = 17):
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def input(self, *shape: int, kind: str = "f") -> str:
        self.inputs.append(helper.make_tensor_value_info(f"in{len(self.inputs)}", ELEMENTS[kind], shape))
        return self.inputs[-1].name

    def constant(self, array: object, dtype: str | None = None) -> str:
        data = np.asarray(array, dtype)
        if data.dtype == np.float64:
            data = data.astype(np.float32)
        self.initializers.append(numpy_helper.from_array(data, f"c{len(self.initializers)}"))
        return self.initializers[-1].name

    def weight(self, *shape: int, scale: float | None = None, shift: float = 0.0) -> str:
        spread = scale or float(1 / np.sqrt(max(np.prod(shape[1:]), 1)))
        return self.constant((self.rng.standard_normal(shape) * spread + shift).astype(np.float32))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, **attributes: object) -> str:
        filters = self.weight(outputs, inputs // groups, kernel, kernel)
        pads = [kernel // 2] * 4
        return self.Conv(x, filters, self.weight(outputs, scale=0.1), **{"pads": pads, "group": groups, **attributes})

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        names = [f"v{len(self.nodes)}_{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], names, axis=axis))
        return names

    def __getattr__(self, operator: str) -> Callable[..., str]:
        if not operator[0].isupper():
            raise AttributeError(operator)

        def add(*inputs: str, **attributes: object) -> str:
            name = f"v{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
            return name

        return add

    def model(self, *outputs: str) -> onnx.ModelProto:
        rows = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, rows, self.initializers)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(proto)

    def feed(self, high: int = 2) -> dict[str, np.ndarray]:
        """Seeded inputs; whole numbers from 0 to below `high`."""
        arrays = {}
        for row in self.inputs:
            shape = [dim.dim_value for dim in row.type.tensor_type.shape.dim]
            kind = row.type.tensor_type.elem_type
            if kind == TensorProto.FLOAT:
                arrays[row.name] = self.rng.standard_normal(shape).astype(np.float32)
            else:
                arrays[row.name] = self.rng.integers(0, high, shape).astype(helper.tensor_dtype_to_np_dtype(kind))
        return arrays


@pytest.fixture
def net() -> ModelBuilder:
    return ModelBuilder()


def close(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if want.dtype != np.float32:
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * max(np.abs(want).max(initial=0), 1e-6))


@pytest.fixture
def agrees() -> Callable[..., list[np.ndarray]]:
    """agrees(net, *outputs): compiled, the model gives what ONNX Runtime gives, for two inputs."""

    def check(net: ModelBuilder, *outputs: str, high: int = 2, target: str = "cpu") -> list[np.ndarray]:
        data = net.model(*outputs).SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        with tensorc.compile(data, target=target) as model:
            for _ in range(2):
                feed = net.feed(high)
                want = session.run(None, feed)
                got = model.run(None, feed)
                for ours, theirs in zip(got, want, strict=True):
                    close(ours, theirs)
        return want

    return check
