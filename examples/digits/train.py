"""Trains the example's convolutional network: scikit-learn's 8x8 digits, plain numpy.

Writes beside this file `digits.onnx` (batch of one, opset 17), `heldout.npz` (the images and labels that training never
saw) and `calibration.npz` (some that it did, as `tensorc compile --calibration` takes them). All are committed, so the
example needs neither this script nor scikit-learn. Seeded: the same numpy gives the same weights.

    pip install 'tensorc[examples]' && python examples/digits/train.py
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from training import CALIBRATION, HERE, SEED, Array, Parameters, digits, to_onnx, train

EPOCHS = 30
CHANNELS = (1, 16, 32, 32)


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


def network(parameters: Parameters, x: Array):
    """Logits of images [n, 1, 8, 8], and the function that gives the gradient of every parameter for theirs."""
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

    def backward(gradient: Array) -> Parameters:
        gradients = {"classifier.weight": gradient.T @ flat, "classifier.bias": gradient.sum(0)}
        upstream = (gradient @ parameters["classifier.weight"]).reshape(pooled_shape)
        for layer, conv_backward, positive, pool_backward in reversed(undo):
            if pool_backward is not None:
                upstream = pool_backward(upstream)
            name = f"conv{layer}"
            upstream, gradients[f"{name}.weight"], gradients[f"{name}.bias"] = conv_backward(upstream * positive)
        return gradients

    return logits, backward


def nodes() -> list[onnx.NodeProto]:
    """conv-relu-conv-relu-pool-conv-relu-pool-flatten-gemm."""
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
    return nodes


def main() -> None:
    train_images, heldout_images, train_labels, heldout_labels = digits()
    rng = np.random.default_rng(SEED)
    parameters = initial_parameters(rng)
    train(network, parameters, train_images, train_labels, rng, EPOCHS)
    onnx.save(to_onnx("digits", nodes(), parameters, opset=17, ir=8), HERE / "digits.onnx")
    # Pixels are sixteenths, so uint8 holds them exactly and a quarter of the size.
    pixels = np.round(heldout_images * 16).astype(np.uint8)
    np.savez_compressed(HERE / "heldout.npz", images=pixels, labels=heldout_labels.astype(np.uint8))
    np.savez_compressed(HERE / "calibration.npz", image=train_images[:CALIBRATION, None])
    print(f"wrote digits.onnx, heldout.npz ({len(pixels)} held-out images) and calibration.npz to {HERE}")


if __name__ == "__main__":
    main()
