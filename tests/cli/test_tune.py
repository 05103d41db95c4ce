"""`tensorc tune` in all its forms, and `tensorc records`, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

import tensorc
from tensorc.driver import tuning_tasks
from tensorc.errors import TensorcWarning
from tensorc.options import CompileOptions
from tensorc.search.database import Database
from tensorc.search.measure import Outcome

pytestmark = pytest.mark.compiler

TRIALS = 12


@pytest.fixture
def database(tmp_path):
    return tmp_path / "tuning.db"


@pytest.fixture
def tune(tensorc_, mlp, database):
    """`tensorc tune mlp.onnx --json`, on one thread; the report."""

    def call(*words, source=mlp, code=0):
        finished = tensorc_("tune", source, "--database", database, "--json", *words)
        assert finished.code == code, finished
        return json.loads(finished.out)

    return lambda *words, **more: call("--threads", 1, *words, **more)


def origins(artifact):
    return {kernel["origin"] for kernel in tensorc.load(artifact).manifest["program"]["kernels"].values()}


def test_compile_finds_what_tune_found_and_a_second_run_costs_no_trial(tune, tensorc_, mlp, database):
    first = tune("--budget", 10_000)
    assert first["stopped"] == "nothing left to gain"
    assert first["trials"] == sum(task["trials"] for task in first["tasks"]) > 0
    again = tune("--budget", 10_000)
    assert (again["trials"], again["stopped"]) == (0, "nothing left to gain")
    assert [task["best_seconds"] for task in again["tasks"]] == [task["best_seconds"] for task in first["tasks"]]

    assert tensorc_("compile", mlp, "--threads", 1, "--database", database, "-o", "a.tcm").code == 0
    assert origins("a.tcm") == {"record"}
    assert tensorc_("compile", mlp, "--threads", 1, "--database", database.with_name("no.db"), "-o", "b.tcm").code == 0
    assert origins("b.tcm") == {"prediction"}
    x = np.ones((2, 8), np.float32)
    (expected,) = onnxruntime.InferenceSession(mlp).run(None, {"in/x": x})
    np.testing.assert_allclose(tensorc.load("a.tcm").run(None, {"in/x": x})[0], expected, rtol=1e-5)


def test_tune_and_compile_from_python(mlp, database):
    told = []
    result = tensorc.tune(mlp, threads=1, budget=4, database=database, watch=told.append)
    assert [progress.trials for progress in told] == [result.trials] == [4]
    model = tensorc.compile(mlp, threads=1, tune=4, database=str(database))
    assert {kernel["origin"] for kernel in model.manifest["program"]["kernels"].values()} == {"record"}
    with Database(database) as records:
        assert 4 <= records.count() <= 8


def test_records_of_another_compiler_are_told_once_and_not_used(tensorc_, mlp, database):
    options = CompileOptions(threads=1, database=database)
    (task,), _ = tuning_tasks(mlp, options)
    old = replace(task.key, compiler="tensorc 0.0")
    with Database(database) as records:
        records.add([Outcome(task.space.default, (1e-9,)).record(old)])
    finished = tensorc_("compile", mlp, "--threads", 1, "--database", database, "-o", "a.tcm")
    assert finished.code == 0
    assert finished.err == (
        f"tensorc: warning: {database}: 1 tuning records are not used here: 1 by tensorc 0.0; "
        "tune again to replace them\n"
    )
    assert origins("a.tcm") == {"prediction"}
    with pytest.warns(TensorcWarning, match=r"1 by tensorc 0\.0"):
        tensorc.tune(mlp, threads=1, budget=1, database=database)
    tensorc.compile(mlp, threads=1, database=database)  # there is a record that counts: no warning


def test_a_batch_ends_with_a_row_for_each_job_and_one_failure_is_no_end(tensorc_, mlp, database):
    (mlp.parent / "junk.onnx").write_bytes(b"junk")
    jobs = mlp.with_name("jobs.toml")
    jobs.write_text(
        '[defaults]\nthreads = 1\nbudget = 6\n[[job]]\nmodel = ["junk.onnx", "mlp.onnx"]\n'
        '[[job]]\nmodel = "mlp.onnx"\ntarget = "cpu:x86-64-v3"\nbudget = 3\n'
    )
    picture = mlp.with_name("jobs.svg")
    finished = tensorc_("tune", jobs, "--database", database, "--json", "--plot", picture)
    assert finished.code == 1
    rows = json.loads(finished.out)["jobs"]
    assert [row["trials"] for row in rows] == [0, 6, 3]
    assert "junk.onnx is truncated or not an ONNX model" in rows[0]["error"]
    assert [row["stopped"] for row in rows[1:]] == ["budget", "budget"]
    assert all(row["best_seconds"] > 0 for row in rows[1:])
    assert len(finished.err.splitlines()) == 3
    assert finished.err.startswith("job 1 of 3: junk, 1 thread: ")
    assert "mlp, cpu:x86-64-v3, 1 thread" in picture.read_text()

    jobs.write_text('[[job]]\nmodel = "mlp.onnx"\nthreads = 1\nbudget = 1\n')
    finished = tensorc_("tune", jobs, "--database", database)
    assert finished.code == 0
    assert finished.out.startswith("1 jobs")


def test_a_bundle_is_built_measured_without_the_compiler_and_taken_in(tune, tensorc_, mlp, database):
    folder = mlp.with_name("bundle")
    report = tune("--export-bundle", folder, "--budget", TRIALS)
    assert report["candidates"] == TRIALS
    assert not database.exists()
    subprocess.run([sys.executable, folder / "measure.py"], check=True, capture_output=True, timeout=300)
    taken = tensorc_("tune", "--import-results", folder, "--database", database, "--json")
    assert taken.code == 0, taken
    report = json.loads(taken.out)
    assert (report["records"], report["added"], report["failures"], report["unmeasured_jobs"]) == (TRIALS, TRIALS, 0, 0)
    # They count here: what is in the database is not measured again, and the compiler uses it.
    assert tune("--budget", 1)["tasks"][0]["trials"] - TRIALS in (0, 1)
    assert tensorc_("compile", mlp, "--threads", 1, "--database", database, "-o", "a.tcm").code == 0
    assert origins("a.tcm") == {"record"}
    assert tensorc_("tune", "--import-results", folder, "--database", database).out.count("0 of them new") == 1


def test_records_travel_as_lines(tune, tensorc_, database, tmp_path):
    tune("--budget", 5)
    lines, other = tmp_path / "records.jsonl", tmp_path / "other.db"
    assert tensorc_("records", "export", lines, "--database", database).code == 0
    assert len(lines.read_text().splitlines()) == 5
    assert tensorc_("records", "export", "-", "--database", database).out == lines.read_text()
    with lines.open("a") as file:
        file.write("nonsense\n")
    finished = tensorc_("records", "import", lines, "--database", other)
    assert finished.code == 1
    assert finished.out == f"{lines}: 5 records added, 0 known, 1 lines skipped\n"
    assert "line 6: not a tuning record: not JSON" in finished.err
    shown = json.loads(tensorc_("records", "show", "--database", other, "--json").out)
    assert [(key["threads"], key["workloads"], key["records"], key["failures"]) for key in shown["keys"]] == [
        (1, 1, 5, 0)
    ]
    assert "5 records" in tensorc_("records", "show", "--database", other).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing argument 'MODEL.onnx|JOBS.toml'"),
        (("MODEL", "--budget", "soon"), "'soon' is not a budget"),
        (("MODEL", "--plot", "a.xyz"), "cannot plot to a.xyz: its suffix must be one of"),
        (("MODEL", "--plot", "no/a.svg"), "cannot write no/a.svg: no is not a folder"),
        (("MODEL", "--export-bundle", "b", "--budget", "60s"), "a bundle holds a number of candidates"),
        (("MODEL", "--export-bundle", "b", "--cluster", "ray"), "--cluster does not go with --export-bundle"),
        (("MODEL", "--import-results", "."), "does not go with --import-results"),
        (("--import-results", "."), "manifest.json is not the manifest of a bundle"),
        (("--import-results", "gone"), "'gone' does not exist"),
        (("JOBS", "--threads", "2"), "--threads does not go with "),
        (("MODEL", "--cluster", "abacus"), "'abacus' is not 'ray'"),
    ],
)
def test_what_is_wrong_is_one_line(tensorc_, mlp, words, message):
    jobs = mlp.with_name("jobs.toml")
    jobs.write_text('[[job]]\nmodel = "mlp.onnx"\n')
    names = {"MODEL": mlp, "JOBS": jobs}
    complaint = tensorc_("tune", *(names.get(word, word) for word in words)).complaint()
    assert message in complaint


@pytest.mark.parametrize(
    ("words", "module", "message"),
    [
        (("--cluster", "ray"), "ray", "--cluster ray needs Ray: pip install 'tensorc[ray]'"),
        (("--plot", "a.svg"), "matplotlib.backends.backend_agg", "needs matplotlib: pip install 'tensorc[plot]'"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(tensorc_, mlp, monkeypatch, words, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    assert message in tensorc_("tune", mlp, *words).complaint()
