"""What the example's networks are trained with: scikit-learn's 8x8 digits, a loss, Adam. Plain numpy.

A layer is a function that returns its result and the function that takes the gradient back. A network is a function
from parameters and images to its logits and such a function, which gives the gradient of every parameter by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
SEED = 7
BATCH = 64
CALIBRATION = 128

Array = np.ndarray
Parameters = dict[str, Array]
Network = Callable[[Parameters, Array], tuple[Array, Callable[[Array], Parameters]]]


def digits() -> list[Array]:
    """Images [n, 1, 8, 8] in 0..1 and labels: those to train with, those held out, and the labels of either."""
    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    return train_test_split(images, data.target, test_size=0.2, random_state=SEED, stratify=data.target)


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Every image moved by up to one pixel each way: the only augmentation that these sizes need."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = rng.integers(0, 3, (2, len(images)))
    return np.stack([p[:, r : r + 8, c : c + 8] for p, r, c in zip(padded, rows, columns, strict=True)])


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Its mean over a batch, and the gradient for the logits."""
    logits = logits - logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(1))
    loss = float((log_sum - logits[np.arange(len(labels)), labels]).mean())
    gradient = np.exp(logits - log_sum[:, None])
    gradient[np.arange(len(labels)), labels] -= 1
    return loss, gradient / len(labels)


def train(network: Network, parameters: Parameters, images: Array, labels: Array, rng: np.random.Generator,
          epochs: int) -> None:  # fmt: skip
    """Adam with a cosine learning rate; the parameters are changed in place."""
    mean = {name: np.zeros_like(value) for name, value in parameters.items()}
    square = {name: np.zeros_like(value) for name, value in parameters.items()}
    steps = epochs * (len(images) // BATCH)
    step = 0
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            logits, backward = network(parameters, shifted(images[chosen], rng))
            loss, upstream = cross_entropy(logits, labels[chosen])
            step += 1
            rate = 1e-3 * (1 + np.cos(np.pi * step / steps))
            for name, gradient in backward(upstream).items():
                mean[name] = 0.9 * mean[name] + 0.1 * gradient
                square[name] = 0.999 * square[name] + 0.001 * gradient**2
                corrected = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
                parameters[name] -= (rate * mean[name] / (1 - 0.9**step) / corrected).astype(np.float32)
        print(f"epoch {epoch + 1}/{epochs}: loss {loss:.4f}")


def accuracy(network: Network, parameters: Parameters, images: Array, labels: Array) -> float:
    logits, _ = network(parameters, images)
    return float((logits.argmax(1) == labels).mean())


def to_onnx(name: str, nodes: list[onnx.NodeProto], constants: Parameters, opset: int, ir: int) -> onnx.ModelProto:
    """A model from `image` [1, 1, 8, 8] to `logits` [1, 10]. The version of ONNX's IR is the opset's: old runtimes
    refuse what the installed onnx would write by itself."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model, full_check=True)
    return model
