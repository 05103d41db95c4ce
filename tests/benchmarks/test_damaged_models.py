"""The benchmark of damaged models: what it counts as how `tensorc compile` should end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.damaged.kinds import KINDS, damaged_models
from benchmarks.damaged_models import compile_in_process, written

#: Each of another part of the frontend.
FEW = ("bytes missing", "cycle", "huge sizes", "attribute of another type")


@pytest.mark.parametrize("kind", FEW)
def test_a_process_that_compiles_it_ends_well(kind: str) -> None:
    models = damaged_models(20 * len(KINDS))
    model = next(m for m in models if m.kind == kind and (kind != "huge sizes" or m.origin == "shapes"))
    with written(model, None, 0) as path:
        outcome = compile_in_process(path)
    assert outcome.status != "wrong", outcome.detail


def test_limits_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])])  # fmt: skip
    onnx.save(helper.make_model(graph), path)
    assert compile_in_process(path, seconds=0.05).detail.startswith("no end in 0.05 s")
    path.write_bytes(np.ones(9, np.uint8).tobytes())
    outcome = compile_in_process(path)
    assert (outcome.status, outcome.detail.startswith("tensorc: error: ")) == ("refused", True)
    assert list(tmp_path.iterdir()) == [path]
    assert compile_in_process(path, nbytes=10 << 20).status == "wrong"
