"""Artifacts of models with free shapes and of several stages: compiled, stored, loaded, run."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

import tensorc
from targets.cpu.machine import available_cores
from tensorc.dynamic.executable import DynamicExecutable
from tensorc.errors import UserError
from tensorc.runtime.constants import ConstantStore

pytestmark = pytest.mark.compiler

W = np.random.default_rng(0).standard_normal((16, 48)).astype(np.float32)
#: A product whose weights are packed, so that there is something to share.
FREE = """
g (float[n,16] x, float[n,k] z) => (float[n,m] y) {
    p = MatMul(x, w)  r = Relu(p)  y = Concat<axis = 1>(r, z)
}"""
#: The number of rows that are kept is decided by data, twice.
STAGED = """
g (float[6,16] x, bool flip) => (float[a,b] y) <int64[1] zero = {0}> {
    s = ReduceSum<keepdims = 0>(x, one)  i = NonZero(s)  t = Transpose(i)  q = GatherND(x, t)
    y = If(flip) <then_branch = yes () => (float[a,b] u) { u = Transpose(q) },
                  else_branch = no () => (float[a,b] v) { v = MatMul(q, w) }>
}"""


def model(text: str) -> onnx.ModelProto:
    found = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    found.graph.initializer.append(numpy_helper.from_array(W, "w"))
    found.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    return found


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "free.onnx"
    onnx.save(model(FREE), path)
    return path


def feed(n: int, k: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([n, k, seed])
    return {"x": rng.standard_normal((n, 16), np.float32), "z": rng.standard_normal((n, k), np.float32)}


def expected(path: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    (result,) = onnxruntime.InferenceSession(path).run(None, given)
    return result


def agrees(compiled: tensorc.runtime.model.Model, path: Path, given: dict[str, np.ndarray]) -> None:
    (got,) = compiled.run(None, given)
    np.testing.assert_allclose(got, expected(path, given), rtol=1e-5, atol=1e-5)


def test_any_shape_from_one_artifact(free: Path, tmp_path: Path) -> None:
    tensorc.compile(free, out=tmp_path / "free.tcm").close()
    with tensorc.load(tmp_path / "free.tcm") as compiled:
        assert compiled.threads == available_cores()
    with tensorc.load(tmp_path / "free.tcm", threads=1) as compiled:
        assert compiled.threads == 1
        assert [info.shape for info in compiled.get_inputs()] == [["n", 16], ["n", "k"]]
        for n, k in ((3, 2), (1, 1), (3, 2), (8, 5), (1, 1)):
            agrees(compiled, free, feed(n, k))
        assert isinstance(compiled.executable, DynamicExecutable)
        assert compiled.executable.programs == 3
        with pytest.raises(UserError, match=r"input 'x' has shape \[3, 15\]; it must be \['n', 16\]"):
            compiled.run(None, {"x": np.ones((3, 15), np.float32), "z": np.ones((3, 2), np.float32)})
        with pytest.raises(UserError, match=r"\(Concat\): cannot concatenate"):
            compiled.run(None, {"x": np.ones((3, 16), np.float32), "z": np.ones((4, 2), np.float32)})
        agrees(compiled, free, feed(3))


def test_programs_share_their_weights(free: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores: list[ConstantStore] = []

    class Watched(ConstantStore):
        def __init__(self) -> None:
            super().__init__()
            stores.append(self)

    monkeypatch.setattr("tensorc.dynamic.artifact.ConstantStore", Watched)
    with tensorc.compile(free, threads=1) as compiled:
        for n in (4, 8, 12):
            agrees(compiled, free, feed(n))
        # Schedules of three products may want two packings, not three.
        assert stores[0].nbytes <= 2 * W.nbytes


def test_new_shapes_from_several_threads(free: Path) -> None:
    shapes = [1, 2, 3, 1, 2, 3, 4, 4]
    with tensorc.compile(free, threads=1) as compiled, ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: compiled.run(None, feed(n))[0], shapes))
        assert compiled.executable.programs == 4
    for n, got in zip(shapes, results, strict=True):
        np.testing.assert_allclose(got, expected(free, feed(n)), rtol=1e-5, atol=1e-5)


def test_stages_that_data_decide(tmp_path: Path) -> None:
    path = tmp_path / "staged.onnx"
    onnx.save(model(STAGED), path)
    compiled = tensorc.compile(path, threads=1)
    rng = np.random.default_rng(0)
    for rows in (1, 4, 6, 4):
        for flip in (True, False):
            x = rng.standard_normal((6, 16), np.float32)
            x[rows:] = 0
            agrees(compiled, path, {"x": x, "flip": np.array(flip)})
    compiled.close()
    with pytest.raises(UserError, match="closed"):
        compiled.run(None, {"x": x, "flip": np.array(True)})


def test_ranges_need_no_compiler(free: Path, tmp_path: Path) -> None:
    shapes = {"x": (range(1, 4), 16), "z": (range(1, 4), range(1, 3))}
    tensorc.compile(free, shapes=shapes, out=tmp_path / "ahead.tcm", threads=1).close()
    program = f"""
import sys
import numpy as np
import tensorc
model = tensorc.load({str(tmp_path / "ahead.tcm")!r})
for n, k in ((1, 1), (3, 2), (2, 1)):
    (y,) = model.run(None, {{"x": np.ones((n, 16), np.float32), "z": np.ones((n, k), np.float32)}})
    assert y.shape == (n, 48 + k)
print([name for name in ("onnx", "onnxruntime", "tvm", "tvm_ffi", "xgboost") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with tensorc.load(tmp_path / "ahead.tcm") as compiled:
        assert len(compiled.manifest["programs"]) == 6
        assert [info.shape for info in compiled.get_inputs()] == [["1..3", 16], ["1..3", "1..2"]]
        for n, k in ((1, 1), (3, 2), (2, 1)):
            agrees(compiled, free, feed(n, k))
        with pytest.raises(UserError, match=r"input 'x' has shape \[4, 16\]; it must be \['1..3', 16\]"):
            compiled.run(None, feed(4))
        with pytest.raises(UserError, match="the model was not compiled for"):
            compiled.run(None, {"x": feed(1)["x"], "z": feed(2)["z"]})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (range(1, 101), 16), "z": (range(1, 101), 2)}, "make 100 combinations; 64 are possible"),
        ({"x": (range(1, 4), 16)}, "'k' .axis 1. of input 'z'"),
        ({"x": (range(1, 4), 16), "z": (2, 2)}, r"axis 0 of input 'z' \[n,k\] is 1..3, but --shape z=2x2 makes it 2"),
        ({"x": (2, range(1, 4)), "z": (2, 2)}, r"axis 1 of input 'x' \[n,16\] is 16, but .* makes it 1..3"),
    ],
)
def test_ranges_that_cannot_be(free: Path, shapes: dict[str, tuple[int | range, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tensorc.compile(free, shapes=shapes)


def test_the_command_line(free: Path, tmp_path: Path) -> None:
    def run(*words: object) -> dict[str, object]:
        command = [sys.executable, "-m", "tensorc", *map(str, words), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    compiled = run("compile", free, "-o", "free.tcm", "--threads", 1)
    assert compiled["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": ["n", 16]}, {"name": "z", "dtype": "float32", "shape": ["n", "k"]},
    ]  # fmt: skip
    assert compiled["summary"] == {"specialised": "where it runs, because input 'x' has no fixed shape"}
    shapes = ("--shape", "x=3x16", "--shape", "z=3x2")
    assert run("run", "free.tcm", "--random", 1, *shapes)["outputs"][0]["shape"] == [3, 50]
    assert run("verify", "free.tcm", "--model", free, *shapes)["ok"] is True
    assert run("profile", "free.tcm", "--seconds", 0.1, *shapes)["kernels"]
    ahead = run("compile", free, "-o", "ahead.tcm", "--shape", "x=1..2x16", "--shape", "z=1..2x2", "--threads", 1)
    assert ahead["summary"] == {"specialised": "ahead, for 2 choices of shapes"}
    assert run("verify", "ahead.tcm", "--model", free, "--shape", "x=2x16", "--shape", "z=2x2")["ok"] is True


def test_tuned_records_are_used_for_shapes_that_come_later(free: Path, tmp_path: Path) -> None:
    shapes = {"x": (32, 16), "z": (32, 2)}
    database = tmp_path / "tuning.db"
    tensorc.tune(free, shapes=shapes, threads=1, budget=4, database=database)
    with tensorc.compile(free, threads=1, database=database) as compiled:
        found = compiled.executable.profile(compiled.bind(feed(32)), 0.1, False, lambda *_: None)
    assert "record" in {row.facts.origin for row in found.rows()}
