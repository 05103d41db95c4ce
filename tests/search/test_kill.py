"""`tensorc tune`, killed again and again: nothing measured is lost, nobody is left behind, and it ends well."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tensorc
from tensorc.search.database import Database

pytestmark = pytest.mark.compiler

KILLS = 20
TRIALS = 40
LAYERS, SHAPE = 16, (1, 16, 14, 14)
#: In the environment of a run and of all that it starts.
MARK = "TENSORC_TEST_KILL"


def network(path: Path) -> Path:
    """Convolutions, each with a width of its own: more than all runs together find time to tune."""
    rng = np.random.default_rng(0)
    widths = [8 * number for number in range(2, 2 + LAYERS + 1)]
    weights, nodes, value = [], [], "x"
    for layer, (before, after) in enumerate(pairwise(widths)):
        filters = rng.standard_normal((after, before, 3, 3)) / np.sqrt(9 * before)
        weights.append(numpy_helper.from_array(filters.astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("Conv", [value, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        value = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "killed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, widths[-1], *SHAPE[2:]])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def start(model: Path, database: Path, budget: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tensorc", "tune", model, "--database", database, "--budget", budget,
               "--threads", 1, "--json"]  # fmt: skip
    environment = os.environ | {MARK: str(database)}
    return subprocess.Popen([str(word) for word in command], env=environment, stdout=subprocess.PIPE)


def marked(database: Path) -> list[str]:
    """Processes that a run on `database` has started and that still live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{MARK}={database}".encode() in environment.split(b"\0"):
            found.append(f"{folder.name}: {command}")
    return found


def snapshot(database: Path) -> dict[tuple[str, str], tuple[float, ...]]:
    """Every record's times; the file is sound."""
    if not database.exists():
        return {}
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    with Database(database) as records:
        return {(record.key.workload, record.identity): record.seconds for record in records.records()}


def test_killed_twenty_times(tmp_path: Path) -> None:
    model, database = network(tmp_path / "killed.onnx"), tmp_path / "tuning.db"
    known: dict[tuple[str, str], tuple[float, ...]] = {}
    grown, reach = 0, 0.0
    for number in range(KILLS):
        begun = time.monotonic()
        process = start(model, database, 10_000)
        if number == 0:
            while not snapshot(database):
                assert process.poll() is None
                time.sleep(0.05)
            # From before the first import to well after the first batches; one is written every second or so.
            reach = 1.25 * (time.monotonic() - begun)
        else:
            time.sleep(reach * number / KILLS)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it must not have ended by itself"
        now = snapshot(database)
        assert now.keys() >= known.keys()
        assert all(now[candidate] == times for candidate, times in known.items())
        grown += len(now) > len(known)
        known = now
    assert grown >= 3, "nearly all runs were killed before they had measured anything: this tested nothing"

    deadline = time.monotonic() + 30
    while left := marked(database):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)

    out, _ = start(model, database, TRIALS).communicate(timeout=300)
    report = json.loads(out)
    with Database(database) as records:
        assert report["trials"] == records.count() - len(known) == TRIALS
        best = {task["workload"]: task["best_seconds"] for task in report["tasks"] if task["best_seconds"]}
        assert len(best) > LAYERS // 4
        for workload, seconds in best.items():
            assert seconds == min(record.median for record in records.records(workload=workload) if record.ok)
    # The model is built from what was found, and is right.
    x = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
    compiled = tensorc.compile(model, threads=1, database=database)
    (expected,) = onnxruntime.InferenceSession(model).run(None, {"x": x})
    np.testing.assert_allclose(compiled.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)
    origins = Counter(kernel["origin"] for kernel in compiled.manifest["program"]["kernels"].values())
    assert origins["record"] == len(best)
