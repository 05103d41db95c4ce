"""The networks of the GPU benchmark: real graphs with weights that travel well.

A GPU machine has no compiler of ours, and little may be sent there. So artifacts are made here, weights and all, and
sent compressed: a matrix or filter is one random block of 32 by 32 channels, laid side by side, whatever order a kernel
packs it in. Vectors (biases, scales) are random throughout, so that no two channels are alike after the first layer.
"""

from __future__ import annotations

import lzma
import shutil
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAMES = ("resnet50", "mobilenetv2_100", "bert_base_128", "vit_b16")
#: Of the block that is laid side by side.
_TILE = 32
_SCALES = ("norm.weight", "layernorm_before.weight", "layernorm_after.weight")


def filled(path: Path, seed: int = 0) -> onnx.ModelProto:
    """The model at `path`, every float initializer of which gets other values."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
            values = _values(tensor.name, tuple(tensor.dims), rng)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if len(shape) < 2 or (min(shape[:2]) == 1 and len(shape) == 3):  # vectors, and embeddings of positions
        is_scale = name.lower().endswith(_SCALES)
        return (float(is_scale) + 0.02 * rng.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[-2]
    gain = 2.0 if len(shape) == 4 else 1.0
    if "embeddings" in name and len(shape) == 2:
        fan_in = 2500  # as BERT's: a deviation of 0.02
    # Channels that are alike add up, instead of cancelling each other as others do.
    fan_in *= max(shape[1] if len(shape) == 4 else shape[0], _TILE) / _TILE
    tile = rng.standard_normal((min(shape[0], _TILE), min(shape[1], _TILE), *shape[2:])).astype(np.float32)
    tile *= np.float32(np.sqrt(gain / fan_in))
    repeats = (-(-shape[0] // tile.shape[0]), -(-shape[1] // tile.shape[1]), *(1 for _ in shape[2:]))
    return np.ascontiguousarray(np.tile(tile, repeats)[: shape[0], : shape[1]])


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same network for `batch` samples at once, of a model of one."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]
    shapes = {node.input[1] for node in graph.node if node.op_type in ("Reshape", "Expand")}
    shapes |= {name for node in graph.node if node.op_type in ("Equal", "Where") for name in node.input}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in shapes:
            for attribute in node.attribute:
                array = numpy_helper.to_array(attribute.t) if attribute.name == "value" else np.zeros(0)
                if array.dtype == np.int64 and array.ndim == 1 and array.size > 2 and array[0] == 1:
                    changed = array.copy()
                    changed[0] = batch
                    attribute.t.CopyFrom(numpy_helper.from_array(changed))
    return made


def matmul(size: int) -> onnx.ModelProto:
    """A product of float16 matrices, the second of them constant."""
    rng = np.random.default_rng(0)
    weights = _values("w", (size, size), rng).astype(np.float16)
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [size, size]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], f"matmul{size}", rows[:1], rows[1:], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def sample(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs: numbers, or token ids."""
    rng = np.random.default_rng(seed)
    feed = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        if kind.elem_type == TensorProto.INT64:
            feed[value.name] = rng.integers(0, 30000, shape)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feed[value.name] = rng.standard_normal(shape, np.float32).astype(dtype)
    return feed


def pack(source: Path, target: Path) -> None:
    """What repeats within 64 MiB is kept once."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 26}]
    with source.open("rb") as file, lzma.open(target, "wb", filters=filters) as out:
        shutil.copyfileobj(file, out, 1 << 20)


def unpack(source: Path, target: Path) -> None:
    if not target.exists():
        with lzma.open(source) as file, target.with_suffix(".part").open("wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
        target.with_suffix(".part").rename(target)
