"""`--precision` of the commands that compile."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.compiler


@pytest.fixture
def product(tmp_path):
    w = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [20, 64]) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "product", [x], [y], [numpy_helper.from_array(w, "w")])
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_compile_says_what_became_of_the_weights(tensorc_, product, tmp_path):
    out = tmp_path / "product.tcm"
    done = tensorc_("compile", product, "--precision", "bfloat16", "-o", out, "--json")
    report = json.loads(done.out)
    assert report["summary"]["precision"] == "bfloat16, 1 of 1 weights"
    whole = json.loads(tensorc_("compile", product, "--json", "-o", tmp_path / "whole.tcm").out)
    assert "precision" not in whole["summary"]
    assert tensorc_("inspect", out).code == 0
    assert "--precision is for an ONNX model" in tensorc_("bench", out, "--precision", "float16").complaint()
    timed = tensorc_("bench", out, "--seconds", 0.05, "--json")
    assert json.loads(timed.out)["precision"] == "bfloat16"


def test_bench_compiles_in_it(tensorc_, product):
    done = tensorc_("bench", product, "--precision", "float16", "--against", "", "--seconds", 0.05, "--json")
    assert json.loads(done.out)["precision"] == "float16"


def test_tuning_records_are_of_a_precision(tensorc_, product, tmp_path):
    database = tmp_path / "tuning.db"
    workloads = {}
    for precision in ("float32", "bfloat16"):
        done = tensorc_("tune", product, "--precision", precision, "--budget", 2, "--database", database, "--json")
        (task,) = json.loads(done.out)["tasks"]
        assert task["trials"] > 0
        workloads[precision] = task["workload"]
    assert workloads["float32"] != workloads["bfloat16"]
    done = tensorc_("compile", product, "--precision", "bfloat16", "--database", database, "--json")
    assert json.loads(done.out)["summary"]["schedules"] == "1 from tuning records"
    done = tensorc_("compile", product, "--precision", "float16", "--database", database, "--json")
    assert "from tuning records" not in json.loads(done.out)["summary"]["schedules"]
