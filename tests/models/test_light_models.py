"""The nine light models of the onnx package, compiled: against ONNX Runtime, and against the outputs stored with them.

Their weights are each one repeated number, with which many a mistake cannot be seen: with ONNX Runtime they get random
weights. Three small ones are compared with the stored outputs as they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import tensorc
from benchmarks.light_models import FOLDER, fill_weights

pytestmark = pytest.mark.compiler

NAMES = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
    "zfnet512",
)  # fmt: skip


def path_of(name: str) -> Path:
    return FOLDER / f"light_{name}.onnx"


def with_random_weights(name: str, folder: Path) -> bytes:
    """The model with seeded weights, and no softmax at the end, which would name one class."""
    filled = folder / f"{name}.onnx"
    fill_weights(path_of(name), filled)
    model = onnx.load(filled)
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.op_type = "Identity"
            node.ClearField("attribute")
    return model.SerializeToString()


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_agree_with_onnx_runtime(name, tmp_path):
    data = with_random_weights(name, tmp_path)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    with tensorc.compile(data) as model:
        (info,) = model.get_inputs()
        results = []
        for _ in range(2):
            feed = {info.name: rng.standard_normal(info.shape, np.float32)}
            (want,) = session.run(None, feed)
            (got,) = model.run(None, feed)
            close(got, want)
            results.append(want)
    # Only outputs that depend on the input, by far more than may differ, say anything.
    assert np.abs(results[0] - results[1]).max() > 2e-3 * np.abs(results[0]).max()


@pytest.mark.parametrize("name", ["shufflenet", "squeezenet", "zfnet512"])
def test_stored_outputs(name):
    """The inputs are those of onnx.backend.test.runner: `generate_dummy_data`, numbers that rise from 0 to 1."""
    with tensorc.compile(path_of(name)) as model:
        (info,) = model.get_inputs()
        count = np.prod(info.shape)
        (got,) = model.run(None, {info.name: (np.arange(count).reshape(info.shape) / count).astype(np.float32)})
    stored = onnx.TensorProto.FromString((FOLDER / f"light_{name}_output_0.pb").read_bytes())
    np.testing.assert_allclose(got, numpy_helper.to_array(stored), rtol=1e-3, atol=1e-7)


def test_threads_and_levels_of_x86_agree(tmp_path):
    """One thread, two, and machines with narrower vectors (and so other blocks, tiles and kernels)."""
    source = with_random_weights("squeezenet", tmp_path)
    feed = None
    results = []
    for target, threads in (("cpu", 1), ("cpu", 2), ("cpu:x86-64-v3", 2), ("cpu:x86-64-v2", 1)):
        with tensorc.compile(source, target=target, threads=threads) as model:
            assert model.threads == threads
            (info,) = model.get_inputs()
            feed = feed or {info.name: np.random.default_rng(1).standard_normal(info.shape, np.float32)}
            results += model.run(None, feed)
    np.testing.assert_array_equal(results[0], results[1])
    for other in results[2:]:
        close(other, results[0])
