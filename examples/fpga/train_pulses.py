"""Trains a 1-D convolutional autoencoder, like those for the HL-LHC, to clean synthetic detector pulses (`pulses.py`).

64 samples become a code of 16 numbers by convolutions of stride 2, and pulses again by repetition and convolutions.
Writes `pulses.onnx`, `pulses_calibration.npz` and `pulses_heldout.npz` (with the clean pulses) beside this file.
Seeded: the same numpy gives the same weights. Plain numpy, about a minute.

    python examples/fpga/train_pulses.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

# The scripts of this folder are run by path, and are a package to the tests.
sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.export import Nodes
from examples.fpga.files import write
from examples.fpga.pulses import SAMPLES, pulses
from examples.layers import Chain, Pass, he, relu, upsample
from examples.training import SEED, Array, Parameters, squared_error, to_onnx, train

EPOCHS = 30
TRAINED, HELDOUT = 12000, 256
#: Name, channels in and out, kernel, stride, and whether its input is repeated first.
LAYERS = (
    ("encode0", 1, 8, 5, 2, False),
    ("encode1", 8, 16, 5, 2, False),
    ("code", 16, 2, 3, 2, False),
    ("decode0", 2, 16, 3, 1, True),
    ("decode1", 16, 8, 3, 1, True),
    ("decode2", 8, 1, 5, 1, True),
)


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """Weights as [out, in, kernel]."""
    parameters: Parameters = {}
    for name, inputs, outputs, kernel, _, _ in LAYERS:
        parameters[f"{name}.weight"] = he(rng, outputs, inputs, kernel)
        parameters[f"{name}.bias"] = np.zeros(outputs, np.float32)
    return parameters


def network(parameters: Parameters, x: Array):
    """Clean pulses of recorded ones [n, 1, 64], and the function that gives the gradient of every parameter."""
    forward, chain = Pass(parameters), Chain()
    for name, _, _, _, stride, repeated in LAYERS:
        if repeated:
            x = chain(upsample(x))
        x = chain(forward.conv(name, x, stride))
        if name != LAYERS[-1][0]:
            x = chain(relu(x))
    return x, forward.back_through(chain)


def nodes() -> Nodes:
    nodes, value = Nodes(), "recorded"
    twice = nodes.constant("twice", (1, 1, 2), np.float32)
    for name, _, _, kernel, stride, repeated in LAYERS:
        if repeated:
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            value = nodes.add("Resize", value, "", twice, name=f"{name}.input", **how)
        last = name == LAYERS[-1][0]
        value = nodes.conv(name, value, (kernel,), stride, "cleaned" if last else "")
        if not last:
            value = nodes.add("Relu", value, name=f"{name}.relu")
    return nodes


def error(found: Array, clean: Array) -> float:
    """Squared error as a share of the clean pulses' squares."""
    return float(((found - clean) ** 2).sum() / (clean**2).sum())


def main() -> None:
    rng = np.random.default_rng(SEED)
    trained, clean = pulses(TRAINED, rng)
    heldout, heldout_clean = pulses(HELDOUT, rng)
    parameters = initial_parameters(rng)
    train(network, parameters, trained, clean, rng, EPOCHS, squared_error)
    found, _ = network(parameters, heldout)
    before, after = error(heldout, heldout_clean), error(found, heldout_clean)
    print(f"squared error of held-out pulses: {before:.2%} of their squares as recorded, {after:.2%} cleaned")
    made = nodes()
    shape = (1, 1, SAMPLES)
    constants = parameters | made.constants
    model = to_onnx("pulses", made.nodes, constants, {"recorded": shape}, {"cleaned": shape}, opset=17, ir=8)
    write(model, trained, heldout, found, clean=heldout_clean[:, None])


if __name__ == "__main__":
    main()
