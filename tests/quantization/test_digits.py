"""Trained networks on images that they never saw: what quantization costs where it counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tensorc

pytestmark = pytest.mark.compiler

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
CALIBRATION = DIGITS / "calibration.npz"
HELDOUT = np.load(DIGITS / "heldout.npz")
IMAGES, LABELS = (HELDOUT["images"] / 16).astype(np.float32), HELDOUT["labels"]


def logits(path, **options):
    with tensorc.compile(path, threads=1, **options) as model:
        return np.concatenate([model.run(None, {"image": image[None]})[0] for image in IMAGES])


def points(found):
    return 100 * float((found.argmax(1) == LABELS).mean())


def decibels(reference, found):
    return 10 * np.log10((reference**2).sum() / ((reference - found) ** 2).sum())


@pytest.mark.parametrize(("name", "right"), [("digits", 98.6), ("digits_transformer", 97.5)])
def test_bytes_cost_less_than_half_a_point(name, right):
    path = DIGITS / f"{name}.onnx"
    reference = logits(path)
    assert points(reference) == pytest.approx(right, abs=0.05)
    for options in ({"quantize": "int8", "calibration": CALIBRATION}, {"quantize": "int8-dynamic"}):
        found = logits(path, **options)
        assert points(found) > points(reference) - 0.5
        assert 33 < decibels(reference, found) < 60  # quantized, and well
