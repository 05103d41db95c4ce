"""Weights in few bits: which products take them, and that they mean what the format says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from passes.encode import EncodeWeights
from tensorc.errors import TensorcWarning, UserError
from tensorc.formats import find_format
from tensorc.ir import evaluate, parse_graph
from tensorc.pipeline import run_passes

RNG = np.random.default_rng(0)
TEXT = """
graph @g(%x: f32[3,64]) {
  %w = constant @"w" : f32[64,40]
  %y = matmul(%x, %w) : f32[3,40]
  return %y
}
"""


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def encoded(text, format, **data):
    """The graph after the pass, and what is said of it."""
    graph = parse_graph(text, data)
    (record,) = run_passes(graph, [EncodeWeights(format)])
    return graph, record.note


@pytest.mark.parametrize("format", ["int4", "int3-g32-asym", "ternary-g32", "mxfp4", "nvfp4", "bipolar2",
                                    "bfp4-b16-rearranged"])  # fmt: skip
def test_a_product_is_that_by_the_rounded_weights(format):
    w, x = weights(64, 40), weights(3, 64)
    w[5] *= 20
    graph, note = encoded(TEXT, format, w=w)
    assert "matmul_coded" in [node.op for node in graph.nodes]
    assert note.startswith(f"1 matrix in {format}, ")
    rounded = find_format(format).quantize(w, axis=0).dequantize()
    (got,) = evaluate(graph, {"x": x})
    np.testing.assert_allclose(got, x @ rounded, rtol=1e-4, atol=1e-4)


def test_the_text_of_an_encoded_product():
    graph, note = encoded(TEXT, "int4-g32", w=weights(64, 40))
    (node,) = graph.nodes
    assert [str(value.type) for value in node.inputs] == ["f32[3,64]", "u8[40,32]", "bf16[40,2]"]
    assert node.attrs == {"width": 4, "group": 32, "element": "integer", "zero": 8.0}
    assert re.fullmatch(r"1 matrix in int4-g32, 4.50 bits a weight, 2\d.\d dB over the error of rounding", note)


def test_weights_that_two_products_share_are_encoded_once():
    text = TEXT.replace("return %y", "%z = matmul(%x, %w) : f32[3,40]\n  return %y, %z")
    graph, note = encoded(text, "int4", w=weights(64, 40))
    assert [node.op for node in graph.nodes] == ["matmul_coded"] * 2
    assert note.startswith("1 matrix in int4")


def test_weights_on_the_other_side():
    text = TEXT.replace("f32[64,40]", "f32[40,64]").replace("%w)", "%w) {transpose_b=1}")
    w, x = weights(40, 64), weights(3, 64)
    graph, _ = encoded(text, "int8-g32", w=w)
    (got,) = evaluate(graph, {"x": x})
    np.testing.assert_allclose(got, x @ find_format("int8-g32").quantize(w).dequantize().T, rtol=1e-4, atol=1e-4)


def test_what_saves_nothing_stays():
    text = TEXT.replace("64", "2")
    graph, note = encoded(text, "int8-asym", w=weights(2, 40))
    assert [node.op for node in graph.nodes] == ["matmul"]
    assert note == "none: 1 small ones in float32"


def test_computed_matrices_and_convolutions_stay():
    graph, note = encoded("""
graph @g(%x: f32[1,8,5,5], %y: f32[4,4]) {
  %w = constant @"w" : f32[8,8,1,1]
  %a = conv(%x, %w) {strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)} : f32[1,8,5,5]
  %b = matmul(%y, %y) : f32[4,4]
  return %a, %b
}
""", "int4", w=weights(8, 8, 1, 1))  # fmt: skip
    assert [node.op for node in graph.nodes] == ["conv", "matmul"]
    assert note == "none: 1 convolution in float32"


def test_a_format_of_pairs_is_rounded_to():
    w, x = weights(64, 40), weights(3, 64)
    with pytest.warns(TensorcWarning, match="no kernel takes weights in olive4"):
        graph, note = encoded(TEXT, "olive4", w=w)
    (got,) = evaluate(graph, {"x": x})
    np.testing.assert_allclose(got, x @ find_format("olive4").quantize(w, axis=0).dequantize(), rtol=1e-4, atol=1e-4)
    assert note.startswith("1 matrix rounded to olive4, 32.00 bits a weight")


def test_weights_that_are_no_numbers():
    with pytest.raises(UserError, match="the weights %w: only finite numbers are quantized"):
        encoded(TEXT, "int4", w=np.full((64, 40), np.nan, np.float32))
