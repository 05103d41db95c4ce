"""What the command line says of samples that are no use: one line, and the exit code of a user's mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorc
from tensorc.errors import UserError

MODEL = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
IMAGES = np.random.default_rng(0).random((3, 1, 1, 8, 8), np.float32)


def damaged(path):
    """One byte of the array's data, which the archive's checksum tells."""
    np.savez(path, image=IMAGES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def with_a_nan(path):
    images = IMAGES.copy()
    images[2, 0, 0, 3, 3] = np.nan
    np.savez(path, image=images)


CASES = {
    "damaged": (damaged, "'image' cannot be read: Bad CRC-32"),
    "pickled": (lambda path: np.savez(path, image=np.array([None])), "'image' cannot be read: Object arrays"),
    "not a number": (with_a_nan, "sample 2: input 'image' has values that are not finite"),
    "too large": (lambda path: np.savez(path, image=IMAGES * 3e38), "in %.* there are values that are not finite"),
}


def compiled(cwd, *words):
    command = [sys.executable, "-m", "tensorc", "compile", MODEL, "--quantize", "int8", "-o", "out.tcm", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.compiler
@pytest.mark.parametrize("case", CASES)
def test_samples_that_are_no_use(tmp_path, case):
    write, message = CASES[case]
    write(tmp_path / "samples.npz")
    with pytest.raises(UserError, match=message) as raised:
        tensorc.compile(MODEL, threads=1, quantize="int8", calibration=tmp_path / "samples.npz")
    assert "\n" not in str(raised.value)


@pytest.mark.compiler
def test_one_line_and_no_artifact(tmp_path):
    damaged(tmp_path / "samples.npz")
    done = compiled(tmp_path, "--calibration", "samples.npz")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("tensorc: error: samples.npz: 'image' cannot be read: ")
    assert not (tmp_path / "out.tcm").exists()


@pytest.mark.compiler
def test_samples_that_are_all_zero_are_warned_of(tmp_path):
    np.savez(tmp_path / "zero.npz", image=np.zeros_like(IMAGES))
    done = compiled(tmp_path, "--calibration", "zero.npz")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    expected = "tensorc: warning: calibration: %image is 0 in all samples; what multiplies it stays in float32"
    assert line == expected
