"""Trains the example's network: scikit-learn's 8x8 digits, a small convolutional net, plain numpy.

Writes `digits.onnx` (batch of one, opset 17) and `heldout.npz` (the images and labels that training never saw) beside
this file. Both are committed, so the example needs neither this script nor scikit-learn. Seeded: the same numpy gives
the same weights.

    pip install 'tensorc[examples]' && python examples/digits/train.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
SEED = 7
EPOCHS = 30
BATCH = 64
CHANNELS = (1, 16, 32, 32)

Array = np.ndarray
Parameters = dict[str, Array]


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """He initialisation; convolutions as [out, in, 3, 3], the classifier as [10, features]."""
    parameters: Parameters = {}
    for layer in range(3):
        fan_in = CHANNELS[layer] * 9
        shape = (CHANNELS[layer + 1], CHANNELS[layer], 3, 3)
        parameters[f"conv{layer}.weight"] = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        parameters[f"conv{layer}.bias"] = np.zeros(CHANNELS[layer + 1], np.float32)
    features = CHANNELS[3] * 2 * 2
    parameters["classifier.weight"] = rng.normal(0, np.sqrt(1 / features), (10, features)).astype(np.float32)
    parameters["classifier.bias"] = np.zeros(10, np.float32)
    return parameters


# Layers: each forward returns its result and the function that takes the gradient back. ------------------


def conv3x3(x: Array, weight: Array, bias: Array):
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)
    flat = weight.reshape(weight.shape[0], -1)
    y = (columns @ flat.T + bias).reshape(n, h, w, -1).transpose(0, 3, 1, 2)

    def backward(dy: Array) -> tuple[Array, Array, Array]:
        rows = dy.transpose(0, 2, 3, 1).reshape(n * h * w, -1)
        spread = (rows @ flat).reshape(n, h, w, c, 3, 3).transpose(0, 3, 4, 5, 1, 2)
        dx = np.zeros_like(padded)
        for i in range(3):
            for j in range(3):
                dx[:, :, i : i + h, j : j + w] += spread[:, :, i, j]
        return dx[:, :, 1:-1, 1:-1], (rows.T @ columns).reshape(weight.shape), rows.sum(0)

    return y, backward


def maxpool2x2(x: Array):
    n, c, h, w = x.shape
    tiles = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    winner = tiles.argmax(-1)[..., None]

    def backward(dy: Array) -> Array:
        dtiles = np.zeros_like(tiles)
        np.put_along_axis(dtiles, winner, dy[..., None], -1)
        return dtiles.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)

    return np.take_along_axis(tiles, winner, -1)[..., 0], backward


def loss_and_gradients(parameters: Parameters, x: Array, labels: Array) -> tuple[float, Parameters]:
    """Mean cross-entropy of a batch, and its gradient for every parameter."""
    undo = []
    for layer in range(3):
        x, conv_backward = conv3x3(x, parameters[f"conv{layer}.weight"], parameters[f"conv{layer}.bias"])
        positive = x > 0
        x = x * positive
        pool_backward = None
        if layer > 0:
            x, pool_backward = maxpool2x2(x)
        undo.append((layer, conv_backward, positive, pool_backward))
    pooled_shape, flat = x.shape, x.reshape(len(x), -1)
    logits = flat @ parameters["classifier.weight"].T + parameters["classifier.bias"]
    logits -= logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(1))
    loss = float((log_sum - logits[np.arange(len(labels)), labels]).mean())

    gradient = np.exp(logits - log_sum[:, None])
    gradient[np.arange(len(labels)), labels] -= 1
    gradient /= len(labels)
    gradients = {"classifier.weight": gradient.T @ flat, "classifier.bias": gradient.sum(0)}
    upstream = (gradient @ parameters["classifier.weight"]).reshape(pooled_shape)
    for layer, conv_backward, positive, pool_backward in reversed(undo):
        if pool_backward is not None:
            upstream = pool_backward(upstream)
        upstream, gradients[f"conv{layer}.weight"], gradients[f"conv{layer}.bias"] = conv_backward(upstream * positive)
    return loss, gradients


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Every image moved by up to one pixel each way: the only augmentation that these sizes need."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = rng.integers(0, 3, (2, len(images)))
    return np.stack([p[:, r : r + 8, c : c + 8] for p, r, c in zip(padded, rows, columns, strict=True)])


def train(images: Array, labels: Array) -> Parameters:
    """Adam with a cosine learning rate."""
    rng = np.random.default_rng(SEED)
    parameters = initial_parameters(rng)
    mean = {name: np.zeros_like(value) for name, value in parameters.items()}
    square = {name: np.zeros_like(value) for name, value in parameters.items()}
    steps = EPOCHS * (len(images) // BATCH)
    step = 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            loss, gradients = loss_and_gradients(parameters, shifted(images[chosen], rng), labels[chosen])
            step += 1
            rate = 1e-3 * (1 + np.cos(np.pi * step / steps))
            for name, gradient in gradients.items():
                mean[name] = 0.9 * mean[name] + 0.1 * gradient
                square[name] = 0.999 * square[name] + 0.001 * gradient**2
                corrected = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
                parameters[name] -= (rate * mean[name] / (1 - 0.9**step) / corrected).astype(np.float32)
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {loss:.4f}")
    return parameters


def to_onnx(parameters: Parameters) -> onnx.ModelProto:
    """conv-relu-conv-relu-pool-conv-relu-pool-flatten-gemm, for one image of shape [1, 1, 8, 8] in 0..1."""
    nodes, value = [], "image"
    for layer in range(3):
        weight, bias = f"conv{layer}.weight", f"conv{layer}.bias"
        conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        nodes.append(helper.make_node("Conv", [value, weight, bias], [f"conv{layer}"], f"conv{layer}", **conv))
        nodes.append(helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"], f"relu{layer}"))
        value = f"relu{layer}"
        if layer > 0:
            pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(helper.make_node("MaxPool", [value], [f"pool{layer}"], f"pool{layer}", **pool))
            value = f"pool{layer}"
    nodes.append(helper.make_node("Flatten", [value], ["features"], "flatten"))
    gemm_inputs = ["features", "classifier.weight", "classifier.bias"]
    nodes.append(helper.make_node("Gemm", gemm_inputs, ["logits"], "classifier", transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in parameters.items()],
    )
    # IR version 8 goes with opset 17: old runtimes refuse what the installed onnx would write by itself.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    split = train_test_split(images, digits.target, test_size=0.2, random_state=SEED, stratify=digits.target)
    train_images, heldout_images, train_labels, heldout_labels = split
    parameters = train(train_images, train_labels)
    onnx.save(to_onnx(parameters), HERE / "digits.onnx")
    # Pixels are sixteenths, so uint8 holds them exactly and a quarter of the size.
    pixels = np.round(heldout_images * 16).astype(np.uint8)
    np.savez_compressed(HERE / "heldout.npz", images=pixels, labels=heldout_labels.astype(np.uint8))
    print(f"wrote digits.onnx and heldout.npz ({len(pixels)} held-out images) to {HERE}")


if __name__ == "__main__":
    main()
