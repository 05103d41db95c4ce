"""Which operators can be placed in a random graph, and what of their specification all need."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx

from benchmarks.fuzzing.compare import EPSILONS
from benchmarks.fuzzing.graphs import DOMAINS, Graph, UnfitError

Place = Callable[[Graph, str], None]
PLACES: dict[str, Place] = {}
#: The domains of those that are not ONNX's own.
_DOMAINS: dict[str, str] = {}

_ONNX_NAMES = {"float32": "float", "float64": "double"}


def place(*names: str, domain: str = "") -> Callable[[Place], Place]:
    def add(function: Place) -> Place:
        PLACES.update(dict.fromkeys(names, function))
        _DOMAINS.update(dict.fromkeys(names, domain))
        return function

    return add


@functools.cache
def schema(name: str, opset: int) -> onnx.defs.OpSchema:
    domain = _DOMAINS[name]
    return onnx.defs.get_schema(name, DOMAINS.get(domain, opset), domain)


def exists(name: str, opset: int) -> bool:
    """Whether the operator is in the opset, and not as one that should be used no more."""
    try:
        return not schema(name, opset).deprecated
    except onnx.defs.SchemaError:
        return False


def types(g: Graph, name: str, index: int = 0) -> list[str]:
    """The element types that the operator's input `index` may have, of those of the graph."""
    allowed = schema(name, g.opset).inputs[index].types
    return [t for t in g.types if f"tensor({_ONNX_NAMES.get(t, t)})" in allowed]


def as_float32(g: Graph, count: int = 1) -> None:
    """The newest values: what an engine computes in float32, whatever the type."""
    for index in range(-count, 0):
        value = g.values[index]
        g.values[index] = replace(value, loose=max(value.loose, EPSILONS["float32"]))


def fill(g: Graph, names: Sequence[str], wanted: int) -> None:
    """Add `wanted` nodes of the operators `names`, or somewhat more or less."""
    usable = [name for name in names if name in PLACES and exists(name, g.opset)]
    tries = 0
    while len(g.nodes) < wanted and tries < 20 * wanted and usable:
        tries += 1
        # Half the nodes read what is there, by an operator that takes it; whether one does shows when it is tried.
        name = str(g.rng.choice(usable))
        kept = list(g.values), dict(g.inputs), dict(g.constants), list(g.nodes), list(g.declared), list(g.ends)
        try:
            PLACES[name](g, name)
        except UnfitError:
            g.values, g.inputs, g.constants, g.nodes, g.declared, g.ends = kept
