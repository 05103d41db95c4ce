"""Bias correction: what the rounding of weights does to a product on average is taken off it.

Rounding errors of weights do not average out where inputs are positive, as behind relu: each output channel is off by
the sum of its weights' errors times the inputs' means. After Nagel, van Baalen, Blankevoort and Welling, "Data-Free
Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section 4.2; the means are those of the
calibration's samples.
"""

from __future__ import annotations

import numpy as np

from tensorc.ir.graph import Node


def correction(node: Node, exact: np.ndarray, rounded: np.ndarray, means: np.ndarray) -> np.ndarray:
    """What is to be added to the product of the `rounded` weights, float32 in a shape that broadcasts to it; `means`
    of the channels of its input. At the padded borders of an image it is a little too much."""
    error = exact.astype(np.float64) - rounded
    if node.op == "matmul":
        return np.asarray((error @ means if node.attrs["transpose_b"] else means @ error).astype(np.float32))
    groups = node.attrs["groups"]
    by_channel = error.reshape(groups, error.shape[0] // groups, error.shape[1], -1).sum(-1)
    total = np.einsum("goi,gi->go", by_channel, means.reshape(groups, -1))
    return np.asarray(total.reshape(-1, *[1] * (error.ndim - 2)).astype(np.float32))
