"""Values between kernels in 16 bits: which are and which are not, what is computed, as text and as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from passes.fusion import FuseGroups
from passes.narrow_between import NarrowBetween
from tensorc.ir import evaluate, parse_graph
from tensorc.pipeline import run_passes

RNG = np.random.default_rng(0)


def narrowed(text, data=None, dtype="float16"):
    graph = parse_graph(text, data or {})
    run_passes(graph, [FuseGroups(), NarrowBetween(dtype)])
    return graph


def between(text, data=None, dtype="float16"):
    """The types of what lies between kernels, by name."""
    graph = narrowed(text, data, dtype)
    values = [value for node in graph.nodes for value in node.outputs if value not in graph.outputs]
    return {value.name.split(".")[0]: value.dtype for value in values}


def computes_the_same(text, feed, data=None, dtype="float16", error=2**-10):
    got = evaluate(narrowed(text, data, dtype), feed)
    for a, b in zip(got, evaluate(parse_graph(text, data or {}), feed), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=error * np.abs(b).max())


CHAIN = """graph @g(%x: f32[4,8], %y: f32[8,8]) {
  %a = matmul(%x, %y) : f32[4,8]
  %b = relu(%a) : f32[4,8]
  %v = reshape(%b) {shape=(2, 2, 8)} : f32[2,2,8]
  %t = transpose(%v) {perm=(1, 0, 2)} : f32[2,2,8]
  %r = reshape(%t) {shape=(4, 8)} : f32[4,8]
  %s = softmax(%r) {axis=1} : f32[4,8]
  %c = matmul(%s, %y) : f32[4,8]
  return %c
}"""


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-10), ("bfloat16", 2**-7)])
def test_products_and_views_between_them(dtype, error):
    graph = narrowed(CHAIN, dtype=dtype)
    inside = [value for node in graph.nodes for value in node.outputs if value not in graph.outputs]
    assert [value.dtype for value in inside] == [dtype] * len(inside) != []
    assert all(value.dtype == "float32" for value in (*graph.inputs, *graph.outputs))
    for node in (node for node in graph.nodes if node.body is not None):
        for step in node.body.nodes:  # nothing but conversions and moves is in 16 bits
            narrow = any(value.dtype == dtype for value in (*step.inputs, *step.outputs))
            assert not narrow or step.op in ("cast", "transpose", "reshape")
    feed = {"x": RNG.standard_normal((4, 8)), "y": RNG.standard_normal((8, 8))}
    computes_the_same(CHAIN, {n: a.astype(np.float32) for n, a in feed.items()}, dtype=dtype, error=error)


def test_what_is_only_moved_is_not_converted():
    (moving,) = [node for node in narrowed(MOVED).nodes if node.body and node.body.nodes[0].op == "gather"]
    assert [step.op for step in moving.body.nodes] == ["gather"]
    assert moving.output.dtype == "float16"


MOVED = """graph @g(%x: f32[4,8], %i: i64[3]) {
  %a = relu(%x) : f32[4,8]
  %m = gather(%a, %i) {axis=0} : f32[3,8]
  %s = matmul(%m, %a) {transpose_b=1} : f32[3,4]
  %t = matmul(%m, %m) {transpose_b=1} : f32[3,3]
  return %s, %t
}"""
MASKED = """graph @g(%q: f32[2,4,8], %k: f32[2,4,8], %m: f32[2,4,4]) {
  %one = constant splat 1.0 : f32[]
  %low = constant splat LOW : f32[]
  %rest = sub(%one, %m) : f32[2,4,4]
  %mask = mul(%rest, %low) : f32[2,4,4]
  %a = matmul(%q, %k) {transpose_b=1} : f32[2,4,4]
  %b = add(%a, %mask) : f32[2,4,4]
  %s = softmax(%b) {axis=2} : f32[2,4,4]
  %c = matmul(%s, %k) : f32[2,4,8]
  %d = matmul(%s, %c) : f32[2,4,8]
  return %d
}"""


@pytest.mark.parametrize(("dtype", "low", "narrow"), [
    ("float16", "-1e9", {"s", "c"}), ("float16", "-10000.0", {"mask", "b", "s", "c"}),
    ("float16", "-3.4e38", {"s", "c"}), ("bfloat16", "-3.4e38", {"mask", "b", "s", "c"}),
])  # fmt: skip
def test_masks_beyond_float16_and_what_they_are_added_to(dtype, low, narrow):
    types = between(MASKED.replace("LOW", low), dtype=dtype)
    assert {name for name, held in types.items() if held == dtype} == narrow & types.keys()
    assert {"b", "s", "c"} <= types.keys()


def test_large_constants_with_data():
    text = """graph @g(%x: f32[4,8]) {
      %m = constant @"m" : f32[4,8]
      %a = softmax(%x) {axis=1} : f32[4,8]
      %b = add(%a, %m) : f32[4,8]
      %r = reshape(%b) {shape=(8, 4)} : f32[8,4]
      %c = softmax(%r) {axis=1} : f32[8,4]
      %d = matmul(%c, %r) {transpose_b=1} : f32[8,8]
      return %d
    }"""
    small = RNG.standard_normal((4, 8)).astype(np.float32)
    assert set(between(text, {"m": small}).values()) == {"float16"}
    large = small.copy()
    large[2, 3] = -1e9
    types = between(text, {"m": large})
    assert types["b"] == types["r"] == "float32"
    assert types["c"] == "float16"
    infinite = small.copy()
    infinite[2, 3] = -np.inf  # which float16 has
    assert set(between(text, {"m": infinite}).values()) == {"float16"}


def test_what_must_be_exact():
    text = """graph @g(%x: f32[6,8], %i: i64[6,1]) {
      %n = relu(%x) : f32[6,8]
      %mean = reduce_mean(%n) {axes=(1,)} : f32[6,1]
      %p = cast(%i) {to='float32'} : f32[6,1]
      %w = matmul(%p, %mean) {transpose_b=1} : f32[6,6]
      %s = sin(%w) : f32[6,6]
      %u = matmul(%w, %n) : f32[6,8]
      %top = arg_max(%u) {axis=1, keepdims=1, last=0} : i64[6,1]
      return %s, %top
    }"""
    types = between(text)
    assert types["n"] == "float16"  # which is averaged, and multiplied
    assert types["mean"] == "float16"  # which only a product reads
    assert types["p"] == types["w"] == types["u"] == "float32"
    text = text.replace("%top = ", "%e = sub(%n, %mean) : f32[6,8] %top = ")
    assert between(text.replace("arg_max(%u)", "arg_max(%e)"))["mean"] == "float32"


def test_squares_and_powers_may_be_beyond_float16():
    text = """graph @g(%x: f32[4,8]) {
      %a = softmax(%x) {axis=1} : f32[4,8]
      %b = OP : f32[4,8]
      %c = matmul(%b, %x) {transpose_b=1} : f32[4,4]
      %d = matmul(%b, %a) {transpose_b=1} : f32[4,4]
      return %c, %d
    }"""
    assert "float32" in between(text.replace("OP", "mul(%a, %a)")).values()
    assert "float32" in between(text.replace("OP", "exp(%x)")).values()
    assert set(between(text.replace("OP", "tanh(%x)")).values()) == {"float16"}


def test_joins_of_computed_parts_and_constants():
    text = """graph @g(%x: f32[1,4,8]) {
      %k = constant @"k" : f32[1,1,8]
      %a = relu(%x) : f32[1,4,8]
      %j = concat(%k, %a) {axis=1} : f32[1,5,8]
      %s = softmax(%j) {axis=2} : f32[1,5,8]
      %t = matmul(%s, %j) {transpose_b=1} : f32[1,5,5]
      return %t
    }"""
    data = {"k": RNG.standard_normal((1, 1, 8)).astype(np.float32)}
    assert set(between(text, data).values()) == {"float16"}
    computes_the_same(text, {"x": RNG.standard_normal((1, 4, 8)).astype(np.float32)}, data)
    data["k"][0, 0, 0] = 1e6
    types = between(text, data)
    assert types["j"] == types["a"] == "float32"


def test_what_regions_see_stays():
    text = """graph @g(%x: f32[4,8], %p: bool[]) {
      %a = softmax(%x) {axis=1} : f32[4,8]
      %r = if(%p, %a) {
        graph @yes(%b: f32[4,8]) {
          %c = relu(%b) : f32[4,8]
          %d = softmax(%c) {axis=1} : f32[4,8]
          %e = matmul(%d, %c) {transpose_b=1} : f32[4,4]
          return %e
        }
        graph @no(%f: f32[4,8]) {
          %g = matmul(%f, %f) {transpose_b=1} : f32[4,4]
          return %g
        }
      } : f32[4,4]
      return %r
    }"""
    graph = narrowed(text)
    (node,) = [node for node in graph.nodes if node.regions]
    assert node.inputs[1].dtype == node.output.dtype == "float32"
    yes = node.regions[0]
    assert {value.dtype for inner in yes.nodes for value in inner.outputs} == {"float16", "float32"}
