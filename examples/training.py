"""What the examples' networks are trained with: losses, Adam, and the way into ONNX. Plain numpy.

A network is a function from parameters and inputs to its result and the function that takes the gradient back: it gives
that of every parameter by name. `examples.layers` has what networks are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SEED = 7
BATCH = 64
CALIBRATION = 128

Array = np.ndarray
Parameters = dict[str, Array]
Network = Callable[[Parameters, Array], tuple[Array, Callable[[Array], Parameters]]]
Loss = Callable[[Array, Array], tuple[float, Array]]
Shapes = Mapping[str, tuple[int, ...]]


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Its mean over a batch, and the gradient for the logits."""
    logits = logits - logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(1))
    loss = float((log_sum - logits[np.arange(len(labels)), labels]).mean())
    gradient = np.exp(logits - log_sum[:, None])
    gradient[np.arange(len(labels)), labels] -= 1
    return loss, gradient / len(labels)


def squared_error(found: Array, wanted: Array) -> tuple[float, Array]:
    """Its mean over all elements of a batch, and the gradient for `found`."""
    difference = found - wanted
    return float((difference**2).mean()), 2 * difference / difference.size


def train(network: Network, parameters: Parameters, inputs: Array, targets: Array, rng: np.random.Generator,
          epochs: int, loss: Loss = cross_entropy,
          augment: Callable[[Array, np.random.Generator], Array] | None = None) -> None:  # fmt: skip
    """Adam with a cosine learning rate; the parameters are changed in place."""
    mean = {name: np.zeros_like(value) for name, value in parameters.items()}
    square = {name: np.zeros_like(value) for name, value in parameters.items()}
    steps = epochs * (len(inputs) // BATCH)
    step = 0
    for epoch in range(epochs):
        order = rng.permutation(len(inputs))
        for start in range(0, len(inputs) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            found, backward = network(parameters, augment(inputs[chosen], rng) if augment else inputs[chosen])
            value, upstream = loss(found, targets[chosen])
            step += 1
            rate = 1e-3 * (1 + np.cos(np.pi * step / steps))
            for name, gradient in backward(upstream).items():
                mean[name] = 0.9 * mean[name] + 0.1 * gradient
                square[name] = 0.999 * square[name] + 0.001 * gradient**2
                corrected = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
                parameters[name] -= (rate * mean[name] / (1 - 0.9**step) / corrected).astype(np.float32)
        print(f"epoch {epoch + 1}/{epochs}: loss {value:.4f}")


def accuracy(network: Network, parameters: Parameters, inputs: Array, labels: Array) -> float:
    logits, _ = network(parameters, inputs)
    return float((logits.argmax(1) == labels).mean())


def to_onnx(name: str, nodes: list[onnx.NodeProto], constants: Parameters, inputs: Shapes, outputs: Shapes, opset: int,
            ir: int) -> onnx.ModelProto:  # fmt: skip
    """A model of float32 inputs and outputs. The version of ONNX's IR is the opset's: old runtimes refuse what the
    installed onnx would write by itself."""

    def infos(shapes: Shapes) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    arrays = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs), arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_onnxruntime(model: onnx.ModelProto, samples: Array) -> Array:
    """The result for every sample, each of the shape of the model's only input, one at a time; joined."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample})[0] for sample in samples])
