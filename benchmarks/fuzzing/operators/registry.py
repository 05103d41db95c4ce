"""Which operators can be placed in a random graph, and what of their specification all need."""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx

from benchmarks.fuzzing.graphs import TYPES, Graph

Place = Callable[[Graph, str], None]
PLACES: dict[str, Place] = {}

_ONNX_NAMES = {"float32": "float", "float64": "double"}


def place(*names: str) -> Callable[[Place], Place]:
    def add(function: Place) -> Place:
        PLACES.update(dict.fromkeys(names, function))
        return function

    return add


@functools.cache
def schema(name: str, opset: int) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(name, opset, "")


def exists(name: str, opset: int) -> bool:
    """Whether the operator is in the opset, and not as one that should be used no more."""
    try:
        return not schema(name, opset).deprecated
    except onnx.defs.SchemaError:
        return False


def types(g: Graph, name: str, index: int = 0) -> list[str]:
    """The element types that the operator's input `index` may have."""
    allowed = schema(name, g.opset).inputs[index].types
    return [t for t in TYPES if f"tensor({_ONNX_NAMES.get(t, t)})" in allowed]
