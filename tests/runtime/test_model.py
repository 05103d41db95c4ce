"""The session: checks of inputs, selection of outputs, saving, loading, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tensorc.errors import UserError
from tensorc.runtime import model as module
from tensorc.runtime.artifact import Artifact, write_artifact
from tensorc.runtime.model import Model, load
from tensorc.target import Executable

MANIFEST = {
    "tensorc": "0.1.0",
    "target": "fake:part",
    "name": "net",
    "inputs": [
        {"name": "x", "dtype": "float32", "shape": [2, 3]},
        {"name": "mask", "dtype": "bool", "shape": []},
    ],
    "outputs": [
        {"name": "twice", "dtype": "float32", "shape": [2, 3]},
        {"name": "flag", "dtype": "bool", "shape": []},
    ],
    "program": {"scale": 2},
    "summary": [["kernels", "1"]],
}
X = np.arange(6, dtype=np.float32).reshape(2, 3)
MASK = np.array(True)


class FakeExecutable(Executable):
    """Multiplies the first input, and insists on what an executable is promised."""

    def __init__(self, manifest: Mapping[str, Any], sections: Mapping[str, memoryview], _: object, threads: int):
        self.scale, self.code, self.threads, self.closed = manifest["scale"], sections["code"], threads or 3, 0

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert all(array.flags.c_contiguous for array in inputs)
        return [inputs[0] * self.scale, inputs[1]]

    def close(self) -> None:
        self.closed += 1


class FakeTarget:
    load = staticmethod(FakeExecutable)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "find_target", {"fake:part": FakeTarget}.__getitem__)
    path = tmp_path / "net.tcm"
    write_artifact(path, MANIFEST, {"code": [b"machine code"]})
    return path


@pytest.fixture
def model(path: Path) -> Iterator[Model]:
    with load(path) as model:
        yield model


def test_run(model: Model) -> None:
    twice, flag = model.run(None, {"mask": MASK, "x": X})
    assert np.array_equal(twice, 2 * X)
    assert flag
    assert len(model.run([], {"mask": MASK, "x": X})) == 2
    (only,) = model.run(["flag"], {"mask": MASK, "x": X})
    assert only.shape == ()
    assert only.dtype == bool


def test_outputs_come_in_the_order_asked(model: Model) -> None:
    flag, twice = model.run(["flag", "twice"], {"mask": MASK, "x": X})
    assert flag.shape == ()
    assert twice.shape == (2, 3)


def test_inputs_that_are_not_contiguous_are_copied(model: Model) -> None:
    strided = np.asfortranarray(X)
    (twice,) = model.run(["twice"], {"mask": MASK, "x": strided})
    assert np.array_equal(twice, 2 * X)


def test_contiguous_inputs_are_not_copied(model: Model) -> None:
    assert model.bind({"x": X, "mask": MASK})[0] is X


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": X}, "input 'mask' is missing; inputs: x, mask"),
        ({"x": X, "mask": MASK, "y": X}, "no input is named 'y'; inputs: x, mask"),
        ({"x": X, "maks": MASK}, "no input is named 'maks'; inputs: x, mask"),
        ({}, "input 'x' is missing; inputs: x, mask"),
        ({"x": X.astype(np.float64), "mask": MASK}, "input 'x' has element type float64; it must be float32"),
        ({"x": X.astype(">f4"), "mask": MASK}, "input 'x' has element type float32 with bytes swapped; .* float32"),
        ({"x": X.T, "mask": MASK}, r"input 'x' has shape \[3, 2\]; it must be \[2, 3\]"),
        ({"x": X, "mask": MASK.reshape(1)}, r"input 'mask' has shape \[1\]; it must be \[\]"),
        ({"x": "text", "mask": MASK}, "input 'x' has element type <U4; it must be float32"),
        ({"x": X.astype(ml_dtypes.bfloat16), "mask": MASK}, "has element type bfloat16; it must be float32"),
    ],
)
def test_wrong_inputs(model: Model, feed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        model.run(None, feed)
    assert "\n" not in str(caught.value)


def test_unknown_output(model: Model) -> None:
    with pytest.raises(UserError, match="no output is named 'thrice'; outputs: twice, flag"):
        model.run(["thrice"], {"mask": MASK, "x": X})


def test_description(model: Model) -> None:
    assert [(i.name, i.shape, i.type) for i in model.get_inputs()] == [
        ("x", [2, 3], "tensor(float)"),
        ("mask", [], "tensor(bool)"),
    ]
    assert [o.name for o in model.get_outputs()] == ["twice", "flag"]
    assert model.summary == [("kernels", "1")]
    assert model.manifest["name"] == "net"


def test_threads(path: Path) -> None:
    assert load(path).threads == 3
    assert load(path, threads=2).threads == 2
    with pytest.raises(UserError, match="threads is -1"):
        load(path, threads=-1)


def test_close(path: Path) -> None:
    with load(path) as model:
        executable = model.executable
    model.close()
    assert isinstance(executable, FakeExecutable)
    assert executable.closed == 1
    with pytest.raises(UserError, match="model 'net' is closed"):
        model.run(None, {"x": X, "mask": MASK})


def test_save(model: Model, path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    model.save(tmp_path / "copy.tcm")
    assert (tmp_path / "copy.tcm").read_bytes() == content
    with pytest.raises(UserError, match="cannot write"):
        model.save(tmp_path / "nowhere" / "copy.tcm")


def test_save_over_the_file_it_came_from(model: Model, path: Path) -> None:
    content = path.read_bytes()
    model.save(path)
    assert path.read_bytes() == content
    assert bytes(Artifact.open(path).section("code")) == b"machine code"


def test_corrupt_code_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="corrupt"):
        load(path)


def test_importing_it_imports_no_compiler() -> None:
    """Whoever only runs models waits for numpy and little more."""
    heavy = ["networkx", "onnx", "onnxruntime", "rich", "sympy", "torch", "tvm", "tvm_ffi", "xgboost"]
    program = f"""
import sys, time, numpy
start = time.process_time()
import tensorc.runtime.model
print(time.process_time() - start, *[name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, *imported = done.stdout.split()
    assert imported == []
    # 0.06 s here when nothing else runs; the bound is for a busy machine, and still far below any compiler's import.
    assert float(seconds) < 0.3
