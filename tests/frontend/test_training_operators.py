"""Adam after its first update, where ONNX's reference evaluator gives float64: against the standard's own formulas."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tensorc.frontend import import_model
from tensorc.ir import evaluate


def test_adam_corrects_its_rate() -> None:
    rng = np.random.default_rng(0)
    x, g, v, h = (rng.random((2, 3), dtype=np.float32) for _ in range(4))
    feed = {"r": np.float32(0.1), "t": np.int64(3), "x": x, "g": g, "v": v, "h": h}
    attrs = {"alpha": 0.9, "beta": 0.99, "epsilon": 1e-5, "norm_coefficient": 0.1, "norm_coefficient_post": 0.2}
    types = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in feed.items()}
    graph = helper.make_graph(
        [helper.make_node("Adam", [*feed], ["x1", "v1", "h1"], domain="ai.onnx.preview.training", **attrs)], "adam",
        [helper.make_tensor_value_info(name, types[name], a.shape) for name, a in feed.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 3)) for name in ("x1", "v1", "h1")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.preview.training", 1)]
    imported = import_model(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    values = zip(imported.graph.inputs, imported.input_names, strict=True)
    got = evaluate(imported.graph, {value.name: np.asarray(feed[name]) for value, name in values})

    gradient = 0.1 * x + g
    mean, squares = 0.9 * v + 0.1 * gradient, 0.99 * h + 0.01 * gradient**2
    rate = 0.1 * np.sqrt(1 - 0.99**3) / (1 - 0.9**3)
    want = 0.8 * (x - rate * mean / (np.sqrt(squares) + 1e-5)), mean, squares
    for one, other in zip(got, want, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=2e-5)
