"""A case in double precision: says who is right where engines round at different places.

Engines keep sums of narrow floats in wider ones or round each term, so that the same sum of a thousand bfloat16 is 768
or 540. What agrees with the result of float64 is right, whoever says otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from benchmarks.fuzzing.case import Arrays, Case

_NARROW = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NARROW_NAMES = ("float32", "float16", "bfloat16")
#: Attributes that name a type of element.
_TYPES = {("Cast", "to"), ("EyeLike", "dtype")}


def widened(case: Case) -> Case | None:
    """The case with float64 for all narrower floats; None if it has none of them."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    kept = factors_of_sizes(graph)
    changed = _widen_graph(graph, kept)
    inputs = {name: array if name in kept else _wide(array) for name, array in case.inputs.items()}
    return replace(case, model=model, inputs=inputs) if changed else None


def narrowed(case: Case, outputs: Arrays) -> dict[str, np.ndarray]:
    """Results of a widened case in the types that the outputs of the case itself have."""
    types = {value.name: value.type.tensor_type.elem_type for value in case.model.graph.output}
    with np.errstate(all="ignore"):
        return {
            name: array.astype(onnx.helper.tensor_dtype_to_np_dtype(types[name])) if types[name] in _NARROW else array
            for name, array in outputs.items()
        }


def _widen_graph(graph: onnx.GraphProto, kept: set[str]) -> bool:
    changed = False
    for value in (*graph.input, *graph.output, *graph.value_info):
        type = value.type.tensor_type
        if type.elem_type in _NARROW and value.name not in kept:
            type.elem_type, changed = TensorProto.DOUBLE, True
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            if attribute.HasField("g"):
                _widen_graph(attribute.g, kept)
            if (node.op_type, attribute.name) in _TYPES and attribute.i in _NARROW:
                attribute.i = TensorProto.DOUBLE
    return changed


def factors_of_sizes(graph: onnx.GraphProto) -> set[str]:
    """The names of what nodes take in float32 alone, and what a rounding more would make other shapes of."""
    return {name for node in graph.node if node.op_type in ("Resize", "Upsample") for name in node.input[1:]}


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.name in _NARROW_NAMES else array


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(_wide(numpy_helper.to_array(tensor)), tensor.name))
