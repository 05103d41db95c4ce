"""Quantized tensors."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzzing.graphs import Graph
from benchmarks.fuzzing.operators.registry import place


@place("QuantizeLinear")
def _quantize(g: Graph, name: str) -> None:
    x = g.new("float32", g.dims(1, 4), -9, 9)
    dtype = g.pick(("uint8", "int8"))
    per = g.axis(x.rank) if g.chance(0.4) else None
    shape = () if per is None else (x.shape[per],)
    scale = g.given(np.asarray(g.data("float32", shape, 0.05, 0.2)))
    g.node(name, [x, scale, g.new(dtype, shape, 0, 9)], axis=per, loose=1.0)


@place("DequantizeLinear")
def _dequantize(g: Graph, name: str) -> None:
    x = g.any(("uint8", "int8"), low=1, exact=True)
    per = g.axis(x.rank) if g.chance(0.4) else None
    shape = () if per is None else (x.shape[per],)
    scale = g.given(np.asarray(g.data("float32", shape, 0.05, 0.2)))
    g.node(name, [x, scale, g.new(x.dtype, shape, 0, 9)], axis=per)


@place("DynamicQuantizeLinear")
def _dynamic_quantize(g: Graph, name: str) -> None:
    g.node(name, [g.new("float32", g.dims(1, 3), -9, 9)], 3, loose=1.0)


@place("MatMulInteger")
def _matmul_integer(g: Graph, name: str) -> None:
    a = g.new(g.pick(("uint8", "int8")), (g.number(1, 9), g.number(1, 20)), 0, 99)
    b = g.new(g.pick(("uint8", "int8")), (a.shape[1], g.number(1, 17)), 0, 99)
    zeros = [g.new(v.dtype, (), 0, 9) if g.chance(0.5) else None for v in (a, b)]
    g.node(name, [a, b, *zeros], exact=True)
