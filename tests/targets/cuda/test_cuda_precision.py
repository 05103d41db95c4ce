"""Models in lower precision on the CUDA target, emulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import tensorc

pytestmark = pytest.mark.compiler

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


def test_tf32_keeps_float32_between_kernels(monkeypatch):
    monkeypatch.setenv("TENSORC_CUDA_EMULATE", "1")
    image = np.ones((1, 1, 8, 8), np.float32)
    memory = {}
    for precision in ("tf32", "float16"):
        with tensorc.compile(DIGITS / "digits.onnx", "cuda:sm_90", precision=precision) as model:
            memory[precision] = model.manifest["program"]["memory"]["peak"]
            if precision == "tf32":
                (got,) = model.run(None, {"image": image})
                assert dict(model.manifest["summary"])["precision"] == "tf32 in products, weights in float32"
    (want,) = onnxruntime.InferenceSession(DIGITS / "digits.onnx").run(None, {"image": image})
    assert np.abs(got - want).max() < 2**-9 * np.abs(want).max()
    assert memory["float16"] == memory["tf32"] / 2
