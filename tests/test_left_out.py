"""Tests that need a GPU are left out where there is none, and counted: by one process, and by several."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = """
import pytest

@pytest.mark.gpu
def test_on_a_gpu(): raise AssertionError("there is none")

@pytest.mark.parametrize("place", ["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_on_both(place): assert place == "host"
"""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("chosen", "summary"), [("test_on", "2 tests left out: they need"), ("on_both", "1 test left out: it needs")]
)
def test_the_summary_counts_them(tmp_path, workers, chosen, summary):
    root = Path(__file__).parents[1]
    shutil.copy(root / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), f"--rootdir={tmp_path}",
               "-k", chosen, "-n", str(workers), "-p", "no:cacheprovider", "."]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root)})  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{summary} a GPU" in done.stdout.splitlines()
    assert "1 passed" in done.stdout
