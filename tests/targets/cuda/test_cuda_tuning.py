"""Bundles: built here, timed by a child that runs on the emulator (whose times mean nothing), taken in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorc
from targets.cuda.gpu import NAMED
from targets.cuda.tuning.context import CudaTuning
from targets.cuda.tuning.features import FEATURES
from targets.cuda.tuning.jobs import build_job
from targets.cuda.tuning.measure import measure, measure_bundle
from tensorc.cli import main
from tensorc.driver import tuning_tasks
from tensorc.errors import UserError
from tensorc.options import CompileOptions
from tensorc.search.bundle import BundleTask
from tensorc.search.database import Database
from tensorc.search.measure import Outcome

pytestmark = pytest.mark.compiler

#: A child as `measure.py`'s own, but for the device: that of a GPU needs one. `TROUBLE` has a candidate misbehave.
_CHILD = """
import ctypes, os, sys, time
from pathlib import Path
import numpy as np
from targets.cuda.device import Call, KernelCode
from targets.cuda.emulator import Emulator, compile_for_host
from targets.cuda.tuning.measure import work

class Device:
    def __init__(self):
        self.emulator = Emulator()
        self.allocate = lambda nbytes: self.emulator.allocate(max(nbytes, 1))
    def fill(self, address, value, nbytes): ctypes.memset(address, value, nbytes)
    def write(self, address, data): self.emulator.write(address, data)
    def read(self, address, nbytes):
        out = np.zeros(nbytes, np.uint8)
        self.emulator.read(address, out)
        return out
    def chill(self): pass
    def touch(self, address, data): self.write(address, data)
    def load(self, job, row):
        self.name = row["source"]
        source = (job / row["source"]).read_text()
        return self.emulator.load(row["name"], KernelCode(b"", b"", source, row["shared_bytes"]))
    def launch(self, kernel, row, arguments):
        trouble = os.environ.get("TROUBLE", "").split()
        if trouble and row["source"] == trouble[0] + ".cu":
            if trouble[1] == "dies": os.abort()
            if trouble[1] == "hangs": time.sleep(600)
            if trouble[1] == "lies": return 1e-9
        call = Call("", kernel, row["blocks"], row["threads"], row["shared_bytes"], tuple(arguments))
        return self.emulator.time([call])[0]

job = Path(sys.argv[1])
for source in job.glob("*.cu"):  # which takes long, and is no part of a candidate's time
    compile_for_host("candidate", source.read_text())
work(job, [int(number) for number in sys.argv[2:]], Device())
"""
CHILD = (sys.executable, "-c", _CHILD)
BODY = ("relu(matmul_packed(x, w, columns=40))", {"x": "f16[5,64]", "w": "f16[5,64,8]"})


@pytest.fixture(scope="module")
def context():
    return CudaTuning(NAMED["sm_90"])


@pytest.fixture
def body(cuda):
    return cuda.body(BODY[0], **BODY[1])


def some(context, body, count):
    """The rules' schedule, and others that differ in kind."""
    space = context.space(body)
    values = {space.default_values(): None}
    rng = np.random.default_rng(0)
    while len(values) < count:
        values.setdefault(space.sample(rng))
    return [space.schedule(v) for v in values]


@pytest.fixture
def job(context, body, tmp_path):
    folder = tmp_path / "jobs" / "0000"
    assert build_job(body, some(context, body, 2), context.gpu, folder, tmp_path / "data" / "w") == [None] * 2
    return folder


@pytest.mark.parametrize(("trouble", "failure"), [("dies", "crash"), ("hangs", "timeout")])
def test_a_candidate_that_misbehaves_is_left_out(job, monkeypatch, trouble, failure):
    monkeypatch.setenv("TROUBLE", f"0 {trouble}")
    bad, good = measure(job, CHILD, limit=10 if trouble == "hangs" else 120)
    assert bad["failure"] == failure, bad
    assert len(good["seconds"]) >= 3
    assert good["seconds"][0] > 0


def test_no_gpu_is_no_candidates_fault(job):
    with pytest.raises(RuntimeError, match=r"RuntimeError|ImportError|CUDA_ERROR"):
        measure(job, (sys.executable, "-c", "raise RuntimeError('no GPU')"))


def test_what_cannot_be_built_is_said(context, body, tmp_path):
    wrong = {**some(context, body, 1)[0], "kind": "unknown"}
    (failure,) = build_job(body, [wrong], context.gpu, tmp_path / "job", tmp_path / "data")
    assert failure.failure == "build"
    assert "unknown" in failure.detail


def test_a_bundle_is_measured_and_taken_in(context, body, tmp_path, monkeypatch):
    monkeypatch.setenv("TROUBLE", "1 lies")
    folder, schedules, seen = tmp_path / "bundle", some(context, body, 2), []
    task = BundleTask(context.key(body), body, schedules)
    context.export_bundle(folder, [task], lambda *row: seen.append(row))
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(UserError, match="was not measured"):
        context.import_bundle(folder)
    assert measure_bundle(folder, CHILD) == 0
    assert measure_bundle(folder, (sys.executable, "-c", "raise SystemExit(1)")) == 0, "nothing is left to do"
    results = context.import_bundle(folder)
    assert results.unmeasured == 0
    assert [record.schedule for record in results.records] == schedules
    assert [record.ok for record in results.records] == [True, False]
    assert {record.key for record in results.records} == {task.key}


def test_a_bundle_needs_nothing_of_ours_to_be_measured(context, body, tmp_path):
    """Without a GPU it says so, and imports only numpy and cuda-bindings on the way."""
    folder = tmp_path / "bundle"
    context.export_bundle(folder, [BundleTask(context.key(body), body, some(context, body, 1))])
    program = "import sys, runpy; sys.modules.update(dict.fromkeys(['tensorc', 'targets', 'tvm', 'ml_dtypes'])); "
    program += f"sys.argv[1:] = []; runpy.run_path({str(folder / 'measure.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path,
                          env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""})  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert re.search(r"1 of 1: .*(libcuda|NVIDIA driver|NO_DEVICE)", done.stdout), done.stdout
    assert not (folder / "results.jsonl").exists()


def test_features_are_finite_and_tell_candidates_apart(context, body):
    schedules = some(context, body, 6)
    rows = context.features(body, schedules)
    assert rows.shape == (6, len(FEATURES))
    assert np.isfinite(rows).all()
    assert len({tuple(row) for row in rows.tolist()}) == 6


DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits.onnx"


def test_what_was_measured_decides_what_is_compiled(tmp_path):
    path = tmp_path / "tuning.db"
    tasks, _ = tuning_tasks(DIGITS, CompileOptions(target="cuda:sm_90", database=path), lambda *_: None)
    chosen = []
    with Database(path) as database:
        for task in tasks:
            values = next(v for v in task.space.enumerate() if v != task.space.default_values())
            chosen.append(task.space.schedule(values))
            database.add([Outcome(chosen[-1], (1e-6,)).record(task.key)])
    with tensorc.compile(DIGITS, target="cuda:sm_90", database=path) as model:
        kernels = model.manifest["program"]["kernels"].values()
    assert {row["origin"] for row in kernels} == {"record", "only"}
    assert [row["schedule"] for row in kernels if row["origin"] == "record"] == chosen


def test_the_command_line_exports(tmp_path, capsys):
    source, database = DIGITS, tmp_path / "tuning.db"
    words = ["tune", str(source), "--target", "cuda:sm_90", "--database", str(database), "--budget", "2", "--json"]
    assert main([*words, "--export-bundle", str(tmp_path / "bundle")]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"] == 2
    assert Path(tmp_path / "bundle" / "measure.py").exists()
    assert len(list(tmp_path.glob("bundle/jobs/*/*.cubin"))) == 2
