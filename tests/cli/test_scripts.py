"""The example and the benchmark, as their users run them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def script(path, *words, cwd):
    command = [sys.executable, str(ROOT / path), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.compiler
def test_the_digits_example_gets_the_accuracy_of_onnx_runtime(tmp_path):
    done = script("examples/digits/digits.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy on 360 held-out images: 98." in done.stdout
    assert "tensorc" in done.stdout


def test_the_model_benchmark_measures_what_it_is_given(mlp, tmp_path):
    options = ("--target", "interpreter", "--threads", "1", "--seconds", 0.05, "--json", tmp_path / "out.json")
    done = script("benchmarks/models.py", mlp, *options, "--shape", "mlp:in/x=2x8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    (row,) = result["models"]
    assert "error" not in row
    assert row["verify"]["ok"] is True
    assert row["compile_peak_bytes"] > 10_000_000
    mean = result["geometric_mean_speedup"]["1"]["onnxruntime"]
    assert row["bench"]["1"]["speedup"]["onnxruntime"] == pytest.approx(mean)
    assert "| mlp | " in done.stdout


def test_the_model_benchmark_reports_a_failure_and_goes_on(mlp, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"broken")
    options = ("--target", "interpreter", "--threads", "1", "--seconds", 0.05)
    done = script("benchmarks/models.py", broken, mlp, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "broken failed: compile: tensorc: error: " in done.stdout
    assert "| mlp | " in done.stdout
