"""The whole way of one small model: compile, check, run, measure.

A convolutional net that reads handwritten digits of 8x8 pixels (`train.py` made it) is compiled for this machine and
checked against ONNX Runtime, on random inputs and on the 360 images that its training never saw; then both are timed.

    python examples/digits/digits.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

import tensorc
from tensorc.benchmark import Timing, compare
from tensorc.verification import check_outputs, reference_outputs

HERE = Path(__file__).parent
MODEL = HERE / "digits.onnx"


def classify(session, images: np.ndarray) -> np.ndarray:
    """Logits of every image, one at a time; tensorc's models and ONNX Runtime's sessions are called alike."""
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def main() -> int:
    heldout = np.load(HERE / "heldout.npz")
    images = (heldout["images"] / 16).astype(np.float32)
    labels = heldout["labels"]

    start = time.perf_counter()
    model = tensorc.compile(MODEL, target="cpu", threads=1)
    print(f"compiled {MODEL.name} in {time.perf_counter() - start:.2f} s")

    feed = {"image": np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)}
    ours = {info.name: array for info, array in zip(model.get_outputs(), model.run(None, feed), strict=True)}
    (expected,) = reference_outputs(MODEL, feed)
    verdict = check_outputs(ours, expected)
    print(f"verified on a random image: {'ok' if verdict.ok else 'WRONG'}, cosine {verdict.cosine:.9f}")

    logits = classify(model, images)
    theirs = classify(onnxruntime.InferenceSession(MODEL), images)
    accuracy, reference = (float((rows.argmax(1) == labels).mean()) for rows in (logits, theirs))
    print(f"accuracy on {len(images)} held-out images: {accuracy:.2%} (ONNX Runtime: {reference:.2%})")
    error = float(np.abs(logits - theirs).max())
    print(f"largest difference from ONNX Runtime: {error:.2e}, of logits up to {np.abs(theirs).max():.1f}")

    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "digits.tcm"
        model.save(artifact)
        engines = {"tensorc": artifact, "onnxruntime": MODEL}
        results = compare(engines, {"image": images[:1]}, threads=1, seconds=1.0)
    print("time of one image, one thread, the engines taking turns:")
    for name, result in results.items():
        text = f"{result.median_ms * 1e3:7.1f} us" if isinstance(result, Timing) else f"failed: {result.error}"
        print(f"  {name:12} {text}")
    right = verdict.ok and accuracy == reference and all(isinstance(result, Timing) for result in results.values())
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
