"""Trains the example's transformer: scikit-learn's 8x8 digits, the rows of an image as tokens, plain numpy.

Writes `digits_transformer.onnx` (batch of one, opset 20) beside this file; `train.py` writes the images that neither
network was trained with. Seeded: the same numpy gives the same weights.

    pip install 'tensorc[examples]' && python examples/digits/train_transformer.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

# The scripts of this folder are run by path, and are a package to the tests.
sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.digits.images import IMAGE, LOGITS, digits, shifted
from examples.export import Nodes
from examples.layers import Chain, Pass, Result, gelu, mean_of_tokens, reshape, residual
from examples.training import SEED, Array, Parameters, accuracy, to_onnx, train

HERE = Path(__file__).parent
EPOCHS = 40
TOKENS, PIXELS = 8, 8
WIDTH, HEADS, HIDDEN, BLOCKS = 64, 4, 128, 2


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """Matrices as [in, out], normal with variance 1 / in."""
    parameters: Parameters = {"position": rng.normal(0, 0.1, (TOKENS, WIDTH)).astype(np.float32)}

    def linear(name: str, inputs: int, outputs: int) -> None:
        weight = rng.normal(0, np.sqrt(1 / inputs), (inputs, outputs))
        parameters[f"{name}.weight"] = weight.astype(np.float32)
        parameters[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        parameters[f"{name}.weight"] = np.ones(WIDTH, np.float32)
        parameters[f"{name}.bias"] = np.zeros(WIDTH, np.float32)

    linear("embed", PIXELS, WIDTH)
    for block in (f"block{number}" for number in range(BLOCKS)):
        norm(f"{block}.norm1")
        for name in ("query", "key", "value", "out"):
            linear(f"{block}.{name}", WIDTH, WIDTH)
        norm(f"{block}.norm2")
        linear(f"{block}.up", WIDTH, HIDDEN)
        linear(f"{block}.down", HIDDEN, WIDTH)
    norm("norm")
    linear("classifier", WIDTH, 10)
    return parameters


def network(parameters: Parameters, images: Array):
    """Logits of images [n, 1, 8, 8], and the function that gives the gradient of every parameter for theirs."""
    forward, chain = Pass(parameters), Chain()

    def attention(block: str, x: Array) -> Result:
        inner = Chain()
        return inner(forward.attention(block, inner(forward.norm(f"{block}.norm1", x)), HEADS)), inner.backward

    def mlp(block: str, x: Array) -> Result:
        inner = Chain()
        x = inner(gelu(inner(forward.linear(f"{block}.up", inner(forward.norm(f"{block}.norm2", x))))))
        return inner(forward.linear(f"{block}.down", x)), inner.backward

    x = chain(forward.linear("embed", chain(reshape(images, -1, TOKENS, PIXELS))))
    x = chain(forward.offset("position", x))
    for block in (f"block{number}" for number in range(BLOCKS)):
        x = chain(residual(x, attention(block, x)))
        x = chain(residual(x, mlp(block, x)))
    x = chain(mean_of_tokens(chain(forward.norm("norm", x))))
    logits = chain(forward.linear("classifier", x))
    return logits, forward.back_through(chain)


def nodes() -> Nodes:
    """The same network in ONNX's operators."""
    nodes = Nodes()

    def mlp(block: str, x: str) -> str:
        return nodes.linear(f"{block}.down", nodes.add("Gelu", nodes.linear(f"{block}.up", x), name=f"{block}.gelu"))

    rows = nodes.constant("rows", (1, TOKENS, PIXELS))
    x = nodes.linear("embed", nodes.add("Reshape", "image", rows, name="tokenised"))
    x = nodes.add("Add", x, "position", name="placed")
    for block in (f"block{number}" for number in range(BLOCKS)):
        change = nodes.attention(block, nodes.norm(f"{block}.norm1", x), TOKENS, WIDTH, HEADS)
        x = nodes.add("Add", x, change, name=f"{block}.attended")
        x = nodes.add("Add", x, mlp(block, nodes.norm(f"{block}.norm2", x)), name=f"{block}.done")
    axes = nodes.constant("over_tokens", (1,))
    pooled = nodes.add("ReduceMean", nodes.norm("norm", x), axes, name="pooled", keepdims=0)
    nodes.linear("classifier", pooled, "logits")
    return nodes


def main() -> None:
    train_images, heldout_images, train_labels, heldout_labels = digits()
    rng = np.random.default_rng(SEED)
    parameters = initial_parameters(rng)
    train(network, parameters, train_images, train_labels, rng, EPOCHS, augment=shifted)
    print(f"accuracy on held-out images: {accuracy(network, parameters, heldout_images, heldout_labels):.2%}")
    made = nodes()
    model = to_onnx("digits_transformer", made.nodes, parameters | made.constants, IMAGE, LOGITS, opset=20, ir=9)
    onnx.save(model, HERE / "digits_transformer.onnx")
    print(f"wrote digits_transformer.onnx to {HERE}")


if __name__ == "__main__":
    main()
