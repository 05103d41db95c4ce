"""Rules on nan, infinities, tensors without elements and in float64, against ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tensorc.frontend import import_model
from tensorc.ir import evaluate


def agrees(op: str, opset: int, *inputs: np.ndarray, within: float = 0.0, **attributes: Any) -> None:
    names = [f"x{number}" for number in range(len(inputs))]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    given = dict(zip(names, inputs, strict=True))
    (want,) = ReferenceEvaluator(model).run(None, given)
    (got,) = evaluate(import_model(model).graph, given)
    np.testing.assert_allclose(got, want, rtol=within, strict=True)


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize("axis", [0, 1])
def test_hardmax_of_nan_has_one_hit_in_each_row(axis: int) -> None:
    agrees("Hardmax", 13, np.array([[NAN, 1, NAN], [2, INF, -INF], [3, INF, 3]], np.float32), axis=axis)


def test_hardmax_of_nothing_is_nothing() -> None:
    for shape in ((2, 0), (0, 2)):
        agrees("Hardmax", 13, np.zeros(shape, np.float32))


def test_clip_of_old_opsets_has_the_limits_of_single_precision() -> None:
    agrees("Clip", 6, np.array([-1e300, 2, 1e300]))


def test_defaults_of_attributes_are_in_single_precision() -> None:
    """As those are that a model gives: float64 shows the difference."""
    x = np.array([[0.99466, 0.99998]])
    agrees("LayerNormalization", 17, x, np.ones(2), within=1e-12)
    agrees("LayerNormalization", 17, x, np.ones(2), epsilon=1e-5, within=1e-12)
