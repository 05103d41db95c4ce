"""The Python API, and that importing it costs nothing."""

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import onnx
import pytest

import tensorc
from tensorc.errors import UserError

X = np.ones((2, 8), np.float32)


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'numpy', 'onnx', 'onnxruntime', 'rich', 'click', 'tvm', 'tvm_ffi', 'xgboost', 'sympy', 'networkx'}"
    code = f"import sys, tensorc; tensorc.__version__; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_loading_an_artifact_imports_no_compiler(artifact):
    code = (
        f"import sys, tensorc; tensorc.load({str(artifact)!r}); print({{'onnx', 'tvm', 'rich'}} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_version():
    assert tensorc.__version__ == version("tensorc")
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        tensorc.versoin  # noqa: B018


def test_a_path_bytes_and_a_proto_compile_alike(mlp):
    results = [
        tensorc.compile(source, target="interpreter").run(None, {"in/x": X})[0]
        for source in (mlp, str(mlp), mlp.read_bytes(), onnx.load(mlp))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_model_outlives_its_temporary_file_and_can_be_saved(mlp, tmp_path):
    model = tensorc.compile(mlp, target="interpreter")
    model.save(tmp_path / "kept.tcm")
    np.testing.assert_array_equal(
        tensorc.load(tmp_path / "kept.tcm").run(None, {"in/x": X})[0], model.run(None, {"in/x": X})[0]
    )


def test_out_keeps_the_artifact(mlp, tmp_path):
    tensorc.compile(mlp, target="interpreter", out=tmp_path / "mlp.tcm")
    assert (tmp_path / "mlp.tcm").exists()


def test_what_is_wrong_is_a_value_error():
    with pytest.raises(UserError, match=r"absent\.onnx"):
        tensorc.compile("absent.onnx", target="interpreter")
