"""Operators that make tensors of nothing but attributes and sizes."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from benchmarks.fuzzing.graphs import FLOATS, TYPES, Graph
from benchmarks.fuzzing.operators.registry import place, types


@place("Constant")
def _constant(g: Graph, name: str) -> None:
    array = g.data(g.dtype([t for t in TYPES if t != "bfloat16" or g.opset >= 13]), g.dims(0, 3, 100))
    g.node(name, [], exact=True, value=numpy_helper.from_array(array, "value"))


@place("ConstantOfShape")
def _constant_of_shape(g: Graph, name: str) -> None:
    value = g.data(g.dtype([t for t in TYPES if t != "bfloat16"]), (1,))
    shape = g.given(list(g.dims(1, 3)))
    g.node(name, [shape], exact=True, value=numpy_helper.from_array(value, "value") if g.chance(0.8) else None)


@place("Range")
def _range(g: Graph, name: str) -> None:
    dtype = g.dtype(types(g, name))
    step = g.pick((1, 2, -1, -3, 0.5)) if dtype in FLOATS else g.pick((1, 2, 3))
    count = g.number(0 if g.empty else 1, 40)
    numbers = (1, 1 + step * count, step)
    g.node(name, [g.given(np.asarray(n, dtype)) for n in numbers])


@place("Dropout")
def _dropout(g: Graph, name: str) -> None:
    g.node(name, [g.any(types(g, name))], g.number(1, 2), exact=True)
