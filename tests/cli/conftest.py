"""Small models, the command line in this process, and the interpreter target installed the way anybody adds one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorc.cli import main

HERE = Path(__file__).parent


def save_model(path, nodes, inputs, outputs, initializers):
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(*row) for row in inputs],
        [helper.make_tensor_value_info(*row) for row in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def mlp(tmp_path):
    """relu(x @ w + b), with the names that file systems dislike."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 4), np.float32), "b": rng.standard_normal(4, np.float32)}
    nodes = [helper.make_node("Gemm", ["in/x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["../out/y"])]
    inputs, outputs = [("in/x", TensorProto.FLOAT, [2, 8])], [("../out/y", TensorProto.FLOAT, [2, 4])]
    return save_model(tmp_path / "mlp.onnx", nodes, inputs, outputs, weights)


@pytest.fixture
def embedding(tmp_path):
    """Seven rows looked up by token ids, which go through a cast first."""
    table = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "wide"], ["y"]),
    ]
    inputs, outputs = [("ids", TensorProto.INT32, [1, 64])], [("y", TensorProto.FLOAT, [1, 64, 3])]
    return save_model(tmp_path / "embedding.onnx", nodes, inputs, outputs, {"table": table})


@pytest.fixture(autouse=True)
def interpreter(tmp_path_factory, monkeypatch):
    """The distribution `interpreter-target`, found by its entry point here and in processes started from here."""
    site = tmp_path_factory.mktemp("site")
    info = site / "interpreter_target-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: interpreter-target\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tensorc.targets]\ninterpreter = interpreter_target:InterpreterTarget\n")
    (site / "interpreter_target.py").write_text((HERE / "interpreter_target.py").read_text())
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    def complaint(self) -> str:
        """The one line on standard error of a command that was wrong."""
        assert self.code == 2, self
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("tensorc: error: ")
        return lines[0]


@pytest.fixture
def tensorc_(capsys, monkeypatch, tmp_path):
    """Run the command line in a folder of its own: `tensorc_("compile", model)`."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def call(*words: object) -> Finished:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Finished(code, *capsys.readouterr())

    return call


@pytest.fixture
def artifact(mlp, tensorc_):
    assert tensorc_("compile", mlp, "--target", "interpreter", "-o", mlp.with_suffix(".tcm")).code == 0
    return mlp.with_suffix(".tcm")
