"""Trains a small residual network with attention on scikit-learn's 8x8 digits: what a convolution sees around a pixel
goes past two others, and the 16 places that pooling leaves attend to each other.

Writes `residual.onnx`, `residual_calibration.npz` and `residual_heldout.npz` beside this file. Seeded: the same numpy
gives the same weights. Plain numpy, about a minute.

    pip install 'tensorc[examples]' && python examples/fpga/train_residual.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

# The scripts of this folder are run by path, and are a package to the tests.
sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.digits.images import IMAGE, LOGITS, digits, shifted
from examples.export import Nodes
from examples.fpga.files import write
from examples.layers import Chain, Pass, he, maxpool2x2, mean_of_tokens, relu, residual, tokens
from examples.training import SEED, Array, Parameters, accuracy, to_onnx, train

EPOCHS = 120
CHANNELS, HEADS, TOKENS = 16, 2, 16


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """Convolutions as [out, in, 3, 3], the attention's matrices as [in, out], the classifier's as [10, 16]."""
    parameters: Parameters = {"position": rng.normal(0, 0.5, (TOKENS, CHANNELS)).astype(np.float32)}
    for name, inputs in (("stem", 1), ("first", CHANNELS), ("second", CHANNELS)):
        parameters[f"{name}.weight"] = he(rng, CHANNELS, inputs, 3, 3)
        parameters[f"{name}.bias"] = np.zeros(CHANNELS, np.float32)
    for name, shape in [(f"attention.{n}", (CHANNELS, CHANNELS)) for n in ("query", "key", "value", "out")] + [
        ("classifier", (10, CHANNELS))
    ]:
        parameters[f"{name}.weight"] = rng.normal(0, np.sqrt(1 / CHANNELS), shape).astype(np.float32)
        parameters[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return parameters


def network(parameters: Parameters, x: Array):
    """Logits of images [n, 1, 8, 8], and the function that gives the gradient of every parameter for theirs."""
    forward, chain, block = Pass(parameters), Chain(), Chain()
    x = chain(relu(chain(forward.conv("stem", x))))
    change = block(forward.conv("second", block(relu(block(forward.conv("first", x))))))
    x = chain(relu(chain(residual(x, (change, block.backward)))))
    x = chain(forward.offset("position", chain(tokens(chain(maxpool2x2(x))))))
    x = chain(residual(x, forward.attention("attention", x, HEADS)))
    logits = chain(forward.dense("classifier", chain(mean_of_tokens(x))))
    return logits, forward.back_through(chain)


def nodes() -> Nodes:
    nodes = Nodes()
    stem = nodes.add("Relu", nodes.conv("stem", "image", (3, 3)), name="stem.relu")
    first = nodes.add("Relu", nodes.conv("first", stem, (3, 3)), name="first.relu")
    added = nodes.add("Add", nodes.conv("second", first, (3, 3)), stem, name="block.sum")
    x = nodes.add("Relu", added, name="block")
    x = nodes.add("MaxPool", x, name="pool", kernel_shape=[2, 2], strides=[2, 2])
    flat = nodes.add("Reshape", x, nodes.constant("places", (1, CHANNELS, TOKENS)), name="flat")
    x = nodes.add("Add", nodes.add("Transpose", flat, name="rows", perm=(0, 2, 1)), "position", name="placed")
    x = nodes.add("Add", x, nodes.attention("attention", x, TOKENS, CHANNELS, HEADS), name="attended")
    nodes.dense("classifier", nodes.add("ReduceMean", x, name="pooled", axes=[1], keepdims=0), "logits")
    return nodes


def main() -> None:
    trained, heldout, labels, heldout_labels = digits()
    rng = np.random.default_rng(SEED)
    parameters = initial_parameters(rng)
    train(network, parameters, trained, labels, rng, EPOCHS, augment=shifted)
    print(f"accuracy on held-out images: {accuracy(network, parameters, heldout, heldout_labels):.2%}")
    made = nodes()
    model = to_onnx("residual", made.nodes, parameters | made.constants, IMAGE, LOGITS, opset=17, ir=8)
    write(model, trained, heldout, network(parameters, heldout)[0], labels=heldout_labels.astype(np.uint8))


if __name__ == "__main__":
    main()
