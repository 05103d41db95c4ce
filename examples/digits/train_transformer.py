"""Trains the example's transformer: scikit-learn's 8x8 digits, the rows of an image as tokens, plain numpy.

Writes `digits_transformer.onnx` (batch of one, opset 20) beside this file; `train.py` writes the images that neither
network was trained with. Seeded: the same numpy gives the same weights.

    pip install 'tensorc[examples]' && python examples/digits/train_transformer.py
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from scipy.special import erf
from training import HERE, SEED, Array, Parameters, accuracy, digits, to_onnx, train

EPOCHS = 40
TOKENS, PIXELS = 8, 8
WIDTH, HEADS, HIDDEN, BLOCKS = 64, 4, 128, 2
EPSILON = 1e-5


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


class Pass:
    """One forward pass: its layers keep what they need to take a gradient back, and leave those of their parameters
    in `gradients`. Each returns its result and the function from its gradient to the input's."""

    def __init__(self, parameters: Parameters):
        self.parameters = parameters
        self.gradients: Parameters = {}

    def linear(self, name: str, x: Array):
        weight = self.parameters[f"{name}.weight"]

        def backward(dy: Array) -> Array:
            rows = dy.reshape(-1, dy.shape[-1])
            self.gradients[f"{name}.weight"] = x.reshape(-1, x.shape[-1]).T @ rows
            self.gradients[f"{name}.bias"] = rows.sum(0)
            return dy @ weight.T

        return x @ weight + self.parameters[f"{name}.bias"], backward

    def norm(self, name: str, x: Array):
        gain = self.parameters[f"{name}.weight"]
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
        normal = centred / deviation

        def backward(dy: Array) -> Array:
            self.gradients[f"{name}.weight"] = (dy * normal).sum((0, 1))
            self.gradients[f"{name}.bias"] = dy.sum((0, 1))
            d = dy * gain
            return (d - d.mean(-1, keepdims=True) - normal * (d * normal).mean(-1, keepdims=True)) / deviation

        return normal * gain + self.parameters[f"{name}.bias"], backward

    def attention(self, block: str, x: Array):
        (q, q_back), (k, k_back), (v, v_back) = (self.linear(f"{block}.{n}", x) for n in ("query", "key", "value"))
        q, k, v = _heads(q), _heads(k), _heads(v)
        scale = np.float32((WIDTH // HEADS) ** -0.5)
        scores = np.exp(_softmax_shift(q @ k.swapaxes(-1, -2) * scale))
        weights = scores / scores.sum(-1, keepdims=True)
        y, out_back = self.linear(f"{block}.out", _merged(weights @ v))

        def backward(dy: Array) -> Array:
            d = _heads(out_back(dy))
            dweights = d @ v.swapaxes(-1, -2)
            dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True)) * scale
            dq, dk, dv = dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ d
            return q_back(_merged(dq)) + k_back(_merged(dk)) + v_back(_merged(dv))

        return y, backward

    def mlp(self, block: str, x: Array):
        h, up_back = self.linear(f"{block}.up", x)
        below = (0.5 * (1 + erf(h / np.sqrt(2)))).astype(np.float32)
        y, down_back = self.linear(f"{block}.down", h * below)

        def backward(dy: Array) -> Array:
            density = (np.exp(-0.5 * h * h) / np.sqrt(2 * np.pi)).astype(np.float32)
            return up_back(down_back(dy) * (below + h * density))

        return y, backward


def _softmax_shift(scores: Array) -> Array:
    return scores - scores.max(-1, keepdims=True)


def _heads(x: Array) -> Array:
    return x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)


def _merged(x: Array) -> Array:
    return x.transpose(0, 2, 1, 3).reshape(len(x), x.shape[2], -1)


def network(parameters: Parameters, images: Array):
    """Logits of images [n, 1, 8, 8], and the function that gives the gradient of every parameter for theirs."""
    forward = Pass(parameters)
    x, embed_back = forward.linear("embed", images.reshape(-1, TOKENS, PIXELS))
    x = x + parameters["position"]
    undo = []
    for block in (f"block{number}" for number in range(BLOCKS)):
        for norm, layer in (("norm1", forward.attention), ("norm2", forward.mlp)):
            normal, norm_back = forward.norm(f"{block}.{norm}", x)
            change, layer_back = layer(block, normal)
            x = x + change
            undo.append((norm_back, layer_back))
    x, norm_back = forward.norm("norm", x)
    logits, classifier_back = forward.linear("classifier", x.mean(1))

    def backward(gradient: Array) -> Parameters:
        mean = classifier_back(gradient)[:, None] / TOKENS
        d = norm_back(np.repeat(mean, TOKENS, 1))
        for through_norm, through_layer in reversed(undo):
            d = d + through_norm(through_layer(d))
        forward.gradients["position"] = d.sum(0)
        embed_back(d)
        return forward.gradients

    return logits, backward


def nodes() -> tuple[list[onnx.NodeProto], Parameters]:
    """The same network in ONNX's operators, and the constants that it has beside its parameters."""
    nodes: list[onnx.NodeProto] = []
    shapes = {"rows": (1, TOKENS, PIXELS), "heads": (1, TOKENS, HEADS, WIDTH // HEADS), "tokens": (1, TOKENS, WIDTH)}
    constants = {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    constants["scale"] = np.array((WIDTH // HEADS) ** -0.5, np.float32)
    constants["over_tokens"] = np.array([1], np.int64)

    def add(op: str, *inputs: str, name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def linear(name: str, x: str, result: str = "") -> str:
        product = add("MatMul", x, f"{name}.weight", name=f"{name}.product")
        return add("Add", product, f"{name}.bias", name=result or name)

    def norm(name: str, x: str) -> str:
        inputs = x, f"{name}.weight", f"{name}.bias"
        return add("LayerNormalization", *inputs, name=name, axis=-1, epsilon=EPSILON)

    def heads(name: str, x: str, order: tuple[int, ...]) -> str:
        split = add("Reshape", linear(name, x), "heads", name=f"{name}.split")
        return add("Transpose", split, name=f"{name}.heads", perm=order)

    def attention(block: str, x: str) -> str:
        query = heads(f"{block}.query", x, (0, 2, 1, 3))
        key = heads(f"{block}.key", x, (0, 2, 3, 1))
        value = heads(f"{block}.value", x, (0, 2, 1, 3))
        product = add("MatMul", query, key, name=f"{block}.product")
        weights = add("Softmax", add("Mul", product, "scale", name=f"{block}.scores"), name=f"{block}.weights", axis=-1)
        mixed = add("MatMul", weights, value, name=f"{block}.mixed")
        merged = add("Transpose", mixed, name=f"{block}.merged", perm=(0, 2, 1, 3))
        return linear(f"{block}.out", add("Reshape", merged, "tokens", name=f"{block}.tokens"))

    def mlp(block: str, x: str) -> str:
        return linear(f"{block}.down", add("Gelu", linear(f"{block}.up", x), name=f"{block}.gelu"))

    x = add("Add", linear("embed", add("Reshape", "image", "rows", name="tokenised")), "position", name="placed")
    for block in (f"block{number}" for number in range(BLOCKS)):
        x = add("Add", x, attention(block, norm(f"{block}.norm1", x)), name=f"{block}.attended")
        x = add("Add", x, mlp(block, norm(f"{block}.norm2", x)), name=f"{block}.done")
    pooled = add("ReduceMean", norm("norm", x), "over_tokens", name="pooled", keepdims=0)
    linear("classifier", pooled, "logits")
    return nodes, constants


def main() -> None:
    train_images, heldout_images, train_labels, heldout_labels = digits()
    rng = np.random.default_rng(SEED)
    parameters = initial_parameters(rng)
    train(network, parameters, train_images, train_labels, rng, EPOCHS)
    print(f"accuracy on held-out images: {accuracy(network, parameters, heldout_images, heldout_labels):.2%}")
    in_onnx, constants = nodes()
    model = to_onnx("digits_transformer", in_onnx, parameters | constants, opset=20, ir=9)
    onnx.save(model, HERE / "digits_transformer.onnx")
    print(f"wrote digits_transformer.onnx to {HERE}")


if __name__ == "__main__":
    main()
