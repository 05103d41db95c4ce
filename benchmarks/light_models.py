"""The light models of the onnx package, with weights that mean something.

The package ships nine image classifiers whose every weight is the constant 0.02. With those, softmax is uniform and the
output does not depend on the input: any compiler "agrees" with any other. Here the weights become seeded values of the
usual scale (He for filters and matrices, near the identity for normalisations), so that comparing outputs compares
something, and no weight is a splat that a compiler may fold or store as one number.

    python benchmarks/light_models.py light_resnet50.onnx filled.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

#: Inputs of BatchNormalization that lie around 1: scale and variance. Bias and mean lie around 0.
_AROUND_ONE = (1, 4)

#: Value -> the node that reads it (the last, of several) and at which of its inputs.
Readers = dict[str, tuple[onnx.NodeProto, int]]

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def light_models() -> list[Path]:
    return sorted(FOLDER.glob("*.onnx"))


def fill_weights(source: Path, target: Path, seed: int = 0) -> None:
    """Write `source` to `target` with its weights replaced; the same seed gives the same model."""
    model = onnx.load(source)
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {name: (node, index) for node in graph.node for index, name in enumerate(node.input)}
    # relu halves the mean square and He's 2 restores it; where branches are summed, the sums restore it already.
    gain = 1 if any(node.op_type == "Sum" for node in graph.node) else 2
    rng = np.random.default_rng(seed)
    kept = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in shapes:
            noise = rng.standard_normal(shapes[node.input[0]], np.float32)
            array = _scaled(noise, gain, node.output[0], readers)
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        else:
            kept.append(node)
    # The shortest vectors were left as they were trained: statistics of weights that are gone.
    for tensor in graph.initializer:
        reader, _ = readers.get(tensor.name, (None, 0))
        if tensor.name in shapes and reader is not None and reader.op_type in ("Conv", "BatchNormalization"):
            noise = rng.standard_normal(tuple(tensor.dims), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(_scaled(noise, gain, tensor.name, readers), tensor.name))
    del graph.node[:]
    graph.node.extend(kept)
    onnx.save(model, target)


def _scaled(noise: np.ndarray, gain: int, name: str, readers: Readers) -> np.ndarray:
    if noise.ndim > 1:
        return noise * np.float32(np.sqrt(gain / np.prod(noise.shape[1:])))
    reader, index = readers[name]
    while reader.op_type in ("Unsqueeze", "Reshape"):
        reader, index = readers[reader.output[0]]
    if reader.op_type == "Mul" or (reader.op_type == "BatchNormalization" and index in _AROUND_ONE):
        return np.exp(np.float32(0.1) * noise)
    return np.float32(0.02) * noise


if __name__ == "__main__":
    fill_weights(Path(sys.argv[1]), Path(sys.argv[2]))
