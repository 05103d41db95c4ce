"""What is missing here is said in one line: a driver, a GPU, cuda-bindings, NVRTC, an architecture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.compiler

#: A machine with a driver and one without say different things.
NO_GPU = ("no NVIDIA driver was found here", "the NVIDIA driver finds no GPU: CUDA_VISIBLE_DEVICES is ''")


def complaint(*words, without=()):
    """Of a command in a process that sees no GPU and cannot import `without`."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({list(without)!r})); "
        "from tensorc.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TENSORC_CUDA_EMULATE": "0"}
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True,
                          env=environment, check=False)  # fmt: skip
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def model(two_layer_artifact: Path) -> Path:
    return two_layer_artifact.with_suffix(".onnx")


def test_no_gpu_to_run_on(two_layer_artifact):
    assert any(text in complaint("run", two_layer_artifact, "--random", 0) for text in NO_GPU)


def test_nothing_to_reach_a_gpu_with(two_layer_artifact):
    said = complaint("run", two_layer_artifact, "--random", 0, without=["cuda.bindings"])
    assert "running on a GPU needs cuda-bindings" in said
    assert "pip install 'tensorc[cuda]'" in said


def test_no_architecture_and_no_gpu_to_ask(model, tmp_path):
    said = complaint("compile", model, "--target", "cuda", "-o", tmp_path / "out.tcm")
    assert "name the architecture to compile for, as in cuda:sm_90; known: sm_75, sm_80" in said


def test_no_architecture_of_that_name(model, tmp_path):
    said = complaint("compile", model, "--target", "cuda:sm_91", "-o", tmp_path / "out.tcm")
    assert "unknown architecture 'sm_91' for cuda; known: sm_75" in said


@pytest.mark.parametrize("module", ["cuda.bindings", "cuda.bindings.nvrtc"])
def test_no_compiler(model, tmp_path, module):
    said = complaint("compile", model, "--target", "cuda:sm_90", "-o", tmp_path / "out.tcm", without=[module])
    assert "compiling for cuda needs NVRTC" in said
    assert "pip install 'tensorc[cuda]'" in said
    assert list(tmp_path.iterdir()) == []


def test_no_gpu_to_tune_on(tmp_path):
    digits = Path(__file__).parents[3] / "examples" / "digits" / "digits.onnx"
    said = complaint("tune", digits, "--target", "cuda:sm_90", "--database", tmp_path / "tuning.db", "--budget", 1)
    assert "there is no NVIDIA GPU to measure on: export a bundle and measure it where one is" in said
