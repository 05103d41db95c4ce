"""Quantized products: each rule before and after, with the same meaning."""

from __future__ import annotations

import numpy as np
import pytest

from passes.fold import FoldConstants
from passes.integers import ComputeInIntegers
from tensorc.ir import evaluate, parse_graph
from tensorc.pipeline import run_passes

CONV = "{strides=(1, 1), pads=(%s), dilations=(1, 1), groups=1}"


@pytest.fixture
def in_integers():
    """The text and the graph of what the pass makes of a graph, whose meaning is kept to a rounding."""

    def run(text, data=None, products=True):
        before, after = parse_graph(text, data), parse_graph(text, data)
        run_passes(after, [FoldConstants(), ComputeInIntegers(products), FoldConstants()])
        rng = np.random.default_rng(3)
        feed = {}
        for value in before.inputs:
            if value.dtype == "float32":
                feed[value.name] = rng.standard_normal(value.shape).astype(np.float32)
            else:
                info = np.iinfo(value.dtype)
                feed[value.name] = rng.integers(info.min, info.max + 1, value.shape).astype(value.dtype)
        for want, got in zip(evaluate(before, feed), evaluate(after, feed), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-4)
        return after

    return run


def ops(graph):
    return [node.op for node in graph.nodes]


def weights(*shape, dtype=np.int8):
    info = np.iinfo(dtype)
    return np.random.default_rng(5).integers(info.min, info.max + 1, shape).astype(dtype)


def test_a_product_of_quantized_matrices(in_integers):
    graph = in_integers(
        """graph @g(%x: u8[2,8], %s: f32[], %z: u8[]) {
          %w = constant @"w" : i8[8,3]
          %t = constant @"t" : f32[3]
          %a = dequantize(%x, %s, %z) : f32[2,8]
          %b = dequantize(%w, %t) : f32[8,3]
          %y = matmul(%a, %b) : f32[2,3]
          return %y
        }""",
        {"w": weights(8, 3), "t": np.array([0.5, 0.25, 2], np.float32)},
    )
    product = next(node for node in graph.nodes if node.op == "matmul")
    assert [value.dtype for value in product.inputs] == ["uint8", "int8"]
    assert product.output.dtype == "int32"
    # The zero point is known at run time only, and so is what is added for it.
    assert [node.op for node in product.output.users] == ["add"]


def test_a_convolution_pads_with_the_zero_point(in_integers):
    text = """graph @g(%x: u8[1,4,5,5]) {{
          %w = constant @"w" : i8[2,4,3,3]
          %s = constant @"s" : f32[]
          %z = constant @"z" : u8[]
          %t = constant @"t" : f32[2,1,1,1]
          %a = dequantize(%x, %s, %z) : f32[1,4,5,5]
          %b = dequantize(%w, %t) : f32[2,4,3,3]
          %y = conv(%a, %b) {conv} : f32[1,2,{size},{size}]
          return %y
        }}"""
    data = {"w": weights(2, 4, 3, 3), "s": np.float32(0.1), "z": np.uint8(7),
            "t": np.array([0.5, 0.25], np.float32).reshape(2, 1, 1, 1)}  # fmt: skip
    padded = in_integers(text.format(conv=CONV % "1, 1, 1, 1", size=5), data)
    (pad,) = [node for node in padded.nodes if node.op == "pad"]
    assert pad.attrs["value"] == 7
    bare = in_integers(text.format(conv=CONV % "0, 0, 0, 0", size=3), data)
    assert "pad" not in ops(bare)
    zero = in_integers(text.format(conv=CONV % "1, 1, 1, 1", size=5), data | {"z": np.uint8(0)})
    assert not {"pad", "add"} & set(ops(zero))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_signed_inputs_and_unsigned_weights_are_moved(in_integers, dtype):
    name = {np.int8: "i8", np.uint8: "u8"}[dtype]
    graph = in_integers(
        f"""graph @g(%x: i8[2,8]) {{
          %w = constant @"w" : {name}[3,8]
          %s = constant @"s" : f32[]
          %z = constant @"z" : {name}[]
          %a = dequantize(%x, %s) : f32[2,8]
          %b = dequantize(%w, %s, %z) : f32[3,8]
          %y = matmul(%a, %b) {{transpose_b=1}} : f32[2,3]
          return %y
        }}""",
        {"w": weights(3, 8, dtype=dtype), "s": np.float32(0.5), "z": dtype(128 if dtype is np.uint8 else 0)},
    )
    product = next(node for node in graph.nodes if node.op == "matmul")
    assert [value.dtype for value in product.inputs] == ["uint8", "int8"]
    assert {"bit_xor", "bitcast", "add"} <= set(ops(graph))


def test_signed_results_become_unsigned_where_they_are_made(in_integers):
    graph = in_integers(
        """graph @g(%x: f32[2,8]) {
          %w = constant @"w" : i8[8,3]
          %s = constant @"s" : f32[]
          %z = constant @"z" : i8[]
          %q = quantize(%x, %s, %z) {to='int8'} : i8[2,8]
          %a = dequantize(%q, %s, %z) : f32[2,8]
          %b = dequantize(%w, %s) : f32[8,3]
          %y = matmul(%a, %b) : f32[2,3]
          return %y
        }""",
        {"w": weights(8, 3), "s": np.float32(0.05), "z": np.int8(-3)},
    )
    assert "bit_xor" not in ops(graph)
    assert [node.attrs["to"] for node in graph.nodes if node.op == "cast"][:2] == ["int32", "uint8"]


def test_int32_products_of_bytes(in_integers):
    """As ConvInteger and its like spell them."""
    graph = in_integers(
        """graph @g(%x: u8[2,8], %z: u8[]) {
          %w = constant @"w" : i32[8,3]
          %a = cast(%x) {to='int32'} : i32[2,8]
          %p = cast(%z) {to='int32'} : i32[]
          %b = sub(%a, %p) : i32[2,8]
          %y = matmul(%b, %w) : i32[2,3]
          return %y
        }""",
        {"w": weights(8, 3).astype(np.int32)},
    )
    product = next(node for node in graph.nodes if node.op == "matmul")
    assert [value.dtype for value in product.inputs] == ["uint8", "int8"]


@pytest.mark.parametrize("why", ["depth", "wide weights", "no such instructions"])
def test_what_stays_as_it_is(in_integers, why):
    depth = 6 if why == "depth" else 8
    w = weights(depth, 3).astype(np.int32) * (2 if why == "wide weights" else 1)
    graph = in_integers(
        f"""graph @g(%x: u8[2,{depth}]) {{
          %w = constant @"w" : i32[{depth},3]
          %a = cast(%x) {{to='int32'}} : i32[2,{depth}]
          %y = matmul(%a, %w) : i32[2,3]
          return %y
        }}""",
        {"w": w},
        products=why != "no such instructions",
    )
    assert ops(graph) == ["cast", "matmul"]


def test_elements_are_moved_as_bytes(in_integers):
    graph = in_integers(
        """graph @g(%x: u8[1,4,6,6], %i: i64[3]) {
          %s = constant @"s" : f32[]
          %z = constant @"z" : u8[]
          %a = dequantize(%x, %s, %z) : f32[1,4,6,6]
          %p = max_pool(%a) {kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1)} : f32[1,4,3,3]
          %t = transpose(%p) {perm=(0, 2, 3, 1)} : f32[1,3,3,4]
          %c = concat(%t, %t) {axis=3} : f32[1,3,3,8]
          %r = reshape(%c) {shape=(9, 8)} : f32[9,8]
          %y = quantize(%r, %s, %z) {to='uint8'} : u8[9,8]
          return %y
        }""".replace(", %i: i64[3]", ""),
        {"s": np.float32(0.5), "z": np.uint8(3)},
    )
    # What is dequantized and quantized again, alike, was never touched.
    assert ops(graph) == ["max_pool", "transpose", "concat", "reshape"]


@pytest.mark.parametrize("why", ["", "it is read as bytes, too", "it may be no number"])
def test_what_is_quantized_for_floats_alone_stays_one(in_integers, why):
    source = "%x: i32[2,8]" if why != "it may be no number" else "%x: f32[2,8]"
    floats = "cast(%x) {to='float32'}" if why != "it may be no number" else "relu(%x)"
    graph = in_integers(
        f"""graph @g({source}) {{
          %s = constant @"s" : f32[]
          %t = constant @"t" : f32[]
          %z = constant @"z" : u8[]
          %a = constant @"a" : u8[]
          %f = {floats} : f32[2,8]
          %q = quantize(%f, %s, %z) {{to='uint8'}} : u8[2,8]
          %y = dequantize(%q, %t, %a) : f32[2,8]
          return %y{", %q" if "bytes" in why else ""}
        }}""",
        {"s": np.float32(2.0**25), "t": np.float32(0.5), "z": np.uint8(100), "a": np.uint8(90)},
    )
    assert ("uint8" in {value.dtype for node in graph.nodes for value in node.outputs}) == bool(why)


def test_limits_that_the_type_has_itself(in_integers):
    text = """graph @g(%x: f32[2,8]) {{
          %s = constant @"s" : f32[]
          %r = {limit} : f32[2,8]
          %y = quantize(%r, %s) {{to='uint8'}} : u8[2,8]
          return %y
        }}"""
    data = {"s": np.float32(0.01)}
    assert "relu" not in ops(in_integers(text.format(limit="relu(%x)"), data))
    assert ops(in_integers(text.format(limit="clip(%x) {min=-1.0, max=6.0}"), data)).count("clip") == 1
    assert ops(in_integers(text.format(limit="clip(%x) {min=0.0, max=2.0}"), data)).count("clip") == 2
