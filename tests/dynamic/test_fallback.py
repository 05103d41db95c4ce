"""What is not compiled runs on ONNX Runtime, if the caller wishes, between stages of what is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tensorc.errors import UnsupportedError, UserError
from tensorc.options import CompileOptions

ML = "ai.onnx.ml"


def model(operator: str = "Normalizer", domain: str = ML, **attributes: object) -> Any:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node(operator, ["a"], ["b"], domain=domain, name="foreign", **attributes),
        helper.make_node("Abs", ["b"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets, ir_version=8)


def test_a_foreign_operator_between_our_own(staged: Callable[..., Any]) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    ours = staged(model(norm="L2"), fallback=True)
    (got,) = ours.run({"x": x})
    (want,) = onnxruntime.InferenceSession(model(norm="L2").SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert "onnx_runtime" in ours.executable.ran
    assert [node.op for graph in ours.graphs for node in graph.nodes] == ["abs"]  # the first stage is numpy's


def test_without_it_the_operator_is_named(staged: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"ai\.onnx\.ml\.Normalizer \(.*such as 'foreign'"):
        staged(model(norm="L2")).run({"x": np.ones((2, 3), np.float32)})


def test_what_nobody_knows(staged: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"node 'foreign' \(Magic\) runs neither here nor on ONNX Runtime: "):
        staged(model("Magic", "com.acme"), fallback=True).run({"x": np.ones((2, 3), np.float32)})


def test_legal_fallbacks() -> None:
    with pytest.raises(UserError, match="no fallback 'numpy'; legal: error, onnxruntime"):
        CompileOptions(fallback="numpy")  # type: ignore[arg-type]
