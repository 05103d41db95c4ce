"""Compiling a model takes memory for a few of its weights at a time, not for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.large_model import compile_sampled, write_chain

MIB = 1 << 20


def test_the_chain_is_a_model_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = write_chain(tmp_path, 4 * MIB, 512)
    assert (tmp_path / "weights.bin").stat().st_size == 4 * MIB
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x0": np.ones((1, 512), np.float32)})
    assert np.isfinite(y).all()
    assert np.abs(y).max() > 0


@pytest.mark.compiler
def test_memory_does_not_grow_with_the_number_of_weights(tmp_path: Path) -> None:
    taken = {}
    for count in (1, 10):
        folder = tmp_path / str(count)
        folder.mkdir()
        sample = compile_sampled(write_chain(folder, 16 * MIB * count, 2048))
        assert sample.code == 0, sample.said
        taken[count] = sample.anonymous
    # Nine weights more are 144 MiB; each copy that was kept would count.
    assert taken[10] - taken[1] < 72 * MIB
