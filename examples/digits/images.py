"""scikit-learn's 8x8 digits, as the example's networks take them."""

from __future__ import annotations

import numpy as np

from examples.training import SEED, Array

#: Input and output of a network that reads one image.
IMAGE = {"image": (1, 1, 8, 8)}
LOGITS = {"logits": (1, 10)}


def digits() -> list[Array]:
    """Images [n, 1, 8, 8] in 0..1 and labels: those to train with, those held out, and the labels of either."""
    # Here, since who only runs or tests the trained networks needs no scikit-learn.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    return train_test_split(images, data.target, test_size=0.2, random_state=SEED, stratify=data.target)


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Every image moved by up to one pixel each way: the only augmentation that these sizes need."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = rng.integers(0, 3, (2, len(images)))
    return np.stack([p[:, r : r + 8, c : c + 8] for p, r, c in zip(padded, rows, columns, strict=True)])
