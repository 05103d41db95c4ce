"""`tensorc bench`, and the comparison underneath: real engines, in processes of their own."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tensorc.benchmark import Failure, OtherLoad, Timing, compare, speedups
from tensorc.benchmark.compare import EngineError, Worker


def test_the_report_is_the_contract(tensorc_, mlp):
    words = ("--target", "interpreter", "--against", "onnxruntime", "--threads", 1, "--seconds", 0.1, "--json")
    done = tensorc_("bench", mlp, *words)
    report = json.loads(done.out)
    assert report.keys() == {"model", "target", "threads", "precision", "engines", "speedup", "other_load"}
    assert report["engines"].keys() == {"tensorc", "onnxruntime"}
    for timing in report["engines"].values():
        assert timing.keys() == {"median_ms", "p10_ms", "p90_ms", "runs"}
        assert 0 < timing["p10_ms"] <= timing["median_ms"] <= timing["p90_ms"]
    medians = {name: timing["median_ms"] for name, timing in report["engines"].items()}
    assert report["speedup"] == {"onnxruntime": pytest.approx(medians["onnxruntime"] / medians["tensorc"])}


def test_an_artifact_alone_is_timed_alone(tensorc_, artifact):
    done = tensorc_("bench", artifact, "--seconds", 0.05)
    assert done.code == 0
    assert "onnxruntime" not in done.out
    assert "--model MODEL.onnx" in tensorc_("bench", artifact, "--against", "onnxruntime").complaint()


def test_an_engine_that_is_not_installed_is_refused_with_its_package(tensorc_, mlp, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    assert "pip install 'tensorc[bench]'" in tensorc_("bench", mlp, "--against", "onnxruntime,openvino").complaint()


def test_an_engine_that_fails_is_reported_and_the_others_go_on(mlp, tmp_path):
    broken = tmp_path / "broken.tcm"
    broken.write_bytes(b"no artifact" * 10)
    inputs = {"in/x": np.zeros((2, 8), np.float32)}
    results = compare({"tensorc": broken, "onnxruntime": mlp}, inputs, threads=1, seconds=0.05)
    assert isinstance(results["onnxruntime"], Timing)
    assert isinstance(results["tensorc"], Failure)
    assert "not a tensorc artifact" in results["tensorc"].error
    assert speedups(results) == {}


def test_work_of_others_is_told_from_ours():
    spin = "import time; end = time.time() + 0.6\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", spin])  # not waited for until after: another's, as far as we know
    with OtherLoad() as others:
        time.sleep(0.4)
    assert others.cores > 0.3
    with OtherLoad() as ours:
        other.wait()
        subprocess.run([sys.executable, "-c", spin], check=True)
    assert ours.cores < others.cores


def test_a_dead_process_is_an_error_with_its_signal():
    with Worker() as worker:
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL"):
            worker.ask({"engine": "onnxruntime"})


def test_a_process_is_stopped_outside_its_turn(mlp, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 8), np.float32))
    job = {"engine": "onnxruntime", "model": str(mlp), "inputs": {"in/x": str(tmp_path / "x.npy")}, "threads": 2}
    with Worker() as worker:
        worker.ask(job)
        _, status = os.waitpid(worker.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert worker.ask({"seconds": 0.01})["ms"]


def test_an_interrupt_ends_the_engines_too(mlp):
    command = [sys.executable, "-m", "tensorc", "bench", str(mlp), "--target", "interpreter", "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=_heed_interrupts) as process:  # fmt: skip
        while len(workers := _children(process.pid)) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "tensorc: error: interrupted"
    # One that was being started just then is not stopped yet, and ends by itself when it sees the end of its input.
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _heed_interrupts():
    """A shell has what it starts in the background ignore them, and with that its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
