"""`tensorc inspect`, `tensorc targets` and `tensorc ops`."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorc.formats import LISTED
from tensorc.ir import OPS


def test_a_model_before_compilation(tensorc_, mlp):
    facts = json.loads(tensorc_("inspect", mlp, "--json").out)
    assert facts["parameters"] == 8 * 4 + 4
    assert facts["supported"] is True
    assert {row["name"]: (row["count"], row["supported"]) for row in facts["operators"]} == {
        "Gemm": (1, True),
        "Relu": (1, True),
    }
    assert facts["ir"]["text"].startswith("graph @")
    text = tensorc_("inspect", mlp).out
    assert "graph @" in text
    assert "in/x" in text


def test_an_unsupported_operator_is_told_not_refused(tensorc_, tmp_path):
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="org.example")
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "g", rows[:1], rows[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "odd.onnx")
    done = tensorc_("inspect", tmp_path / "odd.onnx", "--json")
    facts = json.loads(done.out)
    assert (done.code, facts["supported"]) == (0, False)
    assert "org.example.Frobnicate" in facts["problem"]
    assert "org.example.Frobnicate" in tensorc_("inspect", tmp_path / "odd.onnx").out


def test_an_artifact(tensorc_, artifact):
    facts = json.loads(tensorc_("inspect", artifact, "--json").out)
    assert facts["name"] == "mlp"
    assert "graph" in facts["sections"]
    text = tensorc_("inspect", artifact).out
    for word in ("interpreter", "section graph", "Kernels", "matmul" if "matmul" in OPS else "gemm"):
        assert word in text


def test_a_target_added_by_another_package_is_listed(tensorc_, monkeypatch):
    import tensorc.cli.listings
    from tensorc.target import find_target

    # Alone, so that this test does not need the compiler of the others.
    monkeypatch.setattr(tensorc.cli.listings, "installed_targets", lambda: [type(find_target("interpreter"))])
    rows = json.loads(tensorc_("targets", "--json").out)["targets"]
    assert rows == [{"target": "interpreter", "description": "numpy, one operator at a time"}]
    assert "interpreter" in tensorc_("targets").out


def test_ops_lists_the_table_and_what_the_frontend_takes(tensorc_):
    listed = json.loads(tensorc_("ops", "--json").out)
    assert [op["name"] for op in listed["ir"]] == list(OPS)
    assert "Relu" in [operator["name"] for operator in listed["onnx"]]
    assert "Relu" in tensorc_("ops").out


def test_ops_lists_the_formats(tensorc_):
    listed = json.loads(tensorc_("ops", "--formats", "--json").out)
    rows = {row["name"]: row for row in listed["formats"]}
    assert list(rows) == list(LISTED)
    assert rows["mxfp4"] == {
        "name": "mxfp4", "bits_per_element": 4.25, "block": 32,
        "summary": "microscaling: E2M1 floats, a power of two for each 32",
    }  # fmt: skip
    assert rows["int8"]["block"] is None
    assert [row["name"] for row in listed["arithmetic"]] == ["lmul"]
    text = tensorc_("ops", "--formats").out
    assert all(name in text for name in (*LISTED, "lmul"))


@pytest.mark.compiler
def test_the_memory_plan(tensorc_, tmp_path):
    w = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"]),
    ]
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, 64]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", rows[:1], rows[1:], [numpy_helper.from_array(w, "w")])
    model = tmp_path / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    facts = json.loads(tensorc_("inspect", model, "--memory", "--json").out)
    assert tensorc_("compile", model, "-o", tmp_path / "chain.tcm").code == 0
    artifact = tmp_path / "chain.tcm"
    assert json.loads(tensorc_("inspect", artifact, "--memory", "--json").out) == facts | {"model": str(artifact)}
    blocks = facts["blocks"]
    assert facts["peak_bytes"] == max(block["offset"] + block["size"] for block in blocks)
    assert facts["lower_bound_bytes"] <= facts["peak_bytes"]
    fullest = [b["name"] for b in blocks if b["lower"] <= facts["peak_step"] < b["upper"]]
    assert sorted(fullest) == sorted(facts["live_at_peak"])
    picture = tmp_path / "plan.svg"
    text = tensorc_("inspect", artifact, "--memory", "--plot", picture).out
    assert "lower bound" in text
    assert facts["live_at_peak"][0] in text
    assert "</svg>" in picture.read_text()


def test_memory_plans_that_are_not_there(tensorc_, artifact, tmp_path):
    done = tensorc_("inspect", artifact, "--memory")
    assert done.code == 2
    assert "has no memory plan" in done.err
    assert tensorc_("inspect", artifact, "--plot", tmp_path / "plan.svg").code == 2
    assert tensorc_("inspect", artifact, "--memory", "--plot", tmp_path / "plan.docx").code == 2
