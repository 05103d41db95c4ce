"""Trains the jet tagger of the hls4ml literature, 16-64-32-32-5 with ReLU and softmax, on synthetic jets (`jets.py`).

Writes `jets.onnx`, `jets_calibration.npz` and `jets_heldout.npz` beside this file. Seeded: the same numpy gives the
same weights. Plain numpy, less than a minute.

    python examples/fpga/train_jets.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

# The scripts of this folder are run by path, and are a package to the tests.
sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.export import Nodes
from examples.fpga.files import write
from examples.fpga.jets import CLASSES, FEATURES, jets, standardised
from examples.layers import Chain, Pass, he, relu
from examples.training import SEED, Array, Parameters, accuracy, to_onnx, train

EPOCHS = 30
TRAINED, HELDOUT = 20000, 1000
WIDTHS = (len(FEATURES), 64, 32, 32, len(CLASSES))
LAYERS = len(WIDTHS) - 1


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """Weights as [out, in]."""
    parameters: Parameters = {}
    for layer in range(LAYERS):
        parameters[f"dense{layer}.weight"] = he(rng, WIDTHS[layer + 1], WIDTHS[layer])
        parameters[f"dense{layer}.bias"] = np.zeros(WIDTHS[layer + 1], np.float32)
    return parameters


def network(parameters: Parameters, x: Array):
    """Logits of jets [n, 16], and the function that gives the gradient of every parameter for theirs."""
    forward, chain = Pass(parameters), Chain()
    for layer in range(LAYERS):
        x = chain(forward.dense(f"dense{layer}", x))
        if layer < LAYERS - 1:
            x = chain(relu(x))
    return x, forward.back_through(chain)


def nodes() -> Nodes:
    nodes, value = Nodes(), "features"
    for layer in range(LAYERS):
        value = nodes.dense(f"dense{layer}", value, "" if layer < LAYERS - 1 else "logits")
        if layer < LAYERS - 1:
            value = nodes.add("Relu", value, name=f"relu{layer}")
    nodes.add("Softmax", value, name="probabilities", axis=-1)
    return nodes


def main() -> None:
    rng = np.random.default_rng(SEED)
    values, labels = jets(TRAINED, rng)
    mean, deviation = values.mean(0), values.std(0)
    trained = standardised(values, mean, deviation)
    values, heldout_labels = jets(HELDOUT, rng)
    heldout = standardised(values, mean, deviation)
    parameters = initial_parameters(rng)
    train(network, parameters, trained, labels, rng, EPOCHS)
    print(f"accuracy on held-out jets: {accuracy(network, parameters, heldout, heldout_labels):.2%}")

    logits, _ = network(parameters, heldout)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    inputs, outputs = {"features": (1, len(FEATURES))}, {"probabilities": (1, len(CLASSES))}
    model = to_onnx("jets", nodes().nodes, parameters, inputs, outputs, opset=17, ir=8)
    probabilities = odds / odds.sum(1, keepdims=True)
    write(model, trained, heldout, probabilities, labels=heldout_labels.astype(np.uint8))


if __name__ == "__main__":
    main()
