"""What keeps projects of large networks quick to make and to simulate."""

from __future__ import annotations

import numpy as np

from targets.hls import build
from targets.hls.printing import cpp
from targets.hls.simulation import pragmas
from tensorc.ir import Graph, TensorType


def product(rows: int, size: int) -> Graph:
    graph = Graph("product")
    x = graph.add_input("x", TensorType("float64", (rows, size)))
    weights = graph.constant(np.broadcast_to(np.float64(1), (size, size)), name="weights")
    graph.outputs = [graph.add("matmul", [x, weights], {"transpose_b": 0}, name="y")]
    return graph


def test_the_larger_a_network_the_fewer_golden_vectors():
    counts = [build._count(product(rows, 1000)) for rows in (1, 100, 10_000)]
    assert counts[0] == build.VECTORS
    assert build.VECTORS > counts[1] > 1
    assert counts[2] == 1


def test_weights_in_headers_are_plain_integers_in_simulation_and_ap_int_where_they_are_loaded(digits):
    texts = dict(cpp.files(digits.program("digits")))
    header = next(text for name, text in texts.items() if name.endswith("_weights.h"))
    assert "static const known<ap_int<8>, int8_t> " in header
    assert "ap_int<8>(weights[" in texts["digits.cpp"]
    assert not pragmas.lint(texts)
