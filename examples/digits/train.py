"""Trains the example's convolutional network: scikit-learn's 8x8 digits, plain numpy.

Writes beside this file `digits.onnx` (batch of one, opset 17), `heldout.npz` (the images and labels that training never
saw) and `calibration.npz` (some that it did, as `tensorc compile --calibration` takes them). All are committed, so the
example needs neither this script nor scikit-learn. Seeded: the same numpy gives the same weights.

    pip install 'tensorc[examples]' && python examples/digits/train.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

# The scripts of this folder are run by path, and are a package to the tests.
sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.digits.images import IMAGE, LOGITS, digits, shifted
from examples.export import Nodes
from examples.layers import Chain, Pass, he, maxpool2x2, relu, reshape
from examples.training import CALIBRATION, SEED, Array, Parameters, to_onnx, train

HERE = Path(__file__).parent
EPOCHS = 30
CHANNELS = (1, 16, 32, 32)


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """He initialisation; convolutions as [out, in, 3, 3], the classifier as [10, features]."""
    parameters: Parameters = {}
    for layer in range(3):
        parameters[f"conv{layer}.weight"] = he(rng, CHANNELS[layer + 1], CHANNELS[layer], 3, 3)
        parameters[f"conv{layer}.bias"] = np.zeros(CHANNELS[layer + 1], np.float32)
    features = CHANNELS[3] * 2 * 2
    parameters["classifier.weight"] = rng.normal(0, np.sqrt(1 / features), (10, features)).astype(np.float32)
    parameters["classifier.bias"] = np.zeros(10, np.float32)
    return parameters


def network(parameters: Parameters, x: Array):
    """Logits of images [n, 1, 8, 8], and the function that gives the gradient of every parameter for theirs."""
    forward = Pass(parameters)
    chain = Chain()
    for layer in range(3):
        x = chain(relu(chain(forward.conv(f"conv{layer}", x))))
        if layer > 0:
            x = chain(maxpool2x2(x))
    logits = chain(forward.dense("classifier", chain(reshape(x, len(x), -1))))
    return logits, forward.back_through(chain)


def nodes() -> Nodes:
    """conv-relu-conv-relu-pool-conv-relu-pool-flatten-gemm."""
    nodes, value = Nodes(), "image"
    for layer in range(3):
        value = nodes.add("Relu", nodes.conv(f"conv{layer}", value, (3, 3)), name=f"relu{layer}")
        if layer > 0:
            value = nodes.add("MaxPool", value, name=f"pool{layer}", kernel_shape=[2, 2], strides=[2, 2])
    nodes.nodes.append(helper.make_node("Flatten", [value], ["features"], "flatten"))
    nodes.dense("classifier", "features", "logits")
    return nodes


def main() -> None:
    train_images, heldout_images, train_labels, heldout_labels = digits()
    rng = np.random.default_rng(SEED)
    parameters = initial_parameters(rng)
    train(network, parameters, train_images, train_labels, rng, EPOCHS, augment=shifted)
    onnx.save(to_onnx("digits", nodes().nodes, parameters, IMAGE, LOGITS, opset=17, ir=8), HERE / "digits.onnx")
    # Pixels are sixteenths, so uint8 holds them exactly and a quarter of the size.
    pixels = np.round(heldout_images * 16).astype(np.uint8)
    np.savez_compressed(HERE / "heldout.npz", images=pixels, labels=heldout_labels.astype(np.uint8))
    np.savez_compressed(HERE / "calibration.npz", image=train_images[:CALIBRATION, None])
    print(f"wrote digits.onnx, heldout.npz ({len(pixels)} held-out images) and calibration.npz to {HERE}")


if __name__ == "__main__":
    main()
