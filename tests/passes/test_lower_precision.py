"""Lower precision: what becomes 16 bits and what does not, as text; how it is fused."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import pytest

from passes.cse import EliminateCommonSubexpressions
from passes.fusion import FuseGroups
from passes.legalize import Legalize
from passes.lower_precision import LowerPrecision, WidenApart
from tensorc.errors import TensorcWarning
from tensorc.ir import evaluate, parse_graph, print_graph
from tensorc.pipeline import run_passes

CONV = "{strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), groups=1}"
IMAGES = f"""graph @g(%x: f32[1,16,4,4]) {{
  %w = constant @"w" : f32[16,16,3,3]
  %v = constant @"v" : f32[16,16,3,3]
  %a = conv(%x, %w) {CONV} : f32[1,16,4,4]
  %b = relu(%a) : f32[1,16,4,4]
  %c = conv(%b, %v) {CONV} : f32[1,16,4,4]
  %d = add(%c, %b) : f32[1,16,4,4]
  return %d
}}"""
RNG = np.random.default_rng(0)


def lowered(text, data, dtype="bfloat16", inputs=False, more=()):
    graph = parse_graph(text, data)
    run_passes(graph, [LowerPrecision(dtype, inputs), EliminateCommonSubexpressions(), *more])
    return graph


def types_of(graph, op):
    return [tuple(str(value.type) for value in (*node.inputs, *node.outputs)) for node in graph.nodes if node.op == op]


def distance(text, data, graph, feed):
    """The largest difference of the results relative to the largest number."""
    (want,), (got,) = evaluate(parse_graph(text, data), feed), evaluate(graph, feed)
    assert got.dtype == want.dtype
    return np.abs(got - want).max() / np.abs(want).max()


@pytest.fixture
def images():
    names = {"w": (16, 16, 3, 3), "v": (16, 16, 3, 3)}
    data = {name: RNG.standard_normal(shape).astype(np.float32) / 12 for name, shape in names.items()}
    return data, {"x": RNG.standard_normal((1, 16, 4, 4)).astype(np.float32)}


@pytest.mark.parametrize(("dtype", "short", "error"), [("bfloat16", "bf16", 2**-7), ("float16", "f16", 2**-10)])
def test_weights_are_kept_in_16_bits_and_all_else_in_float32(images, dtype, short, error):
    data, feed = images
    graph = lowered(IMAGES, data, dtype)
    image, filters = "f32[1,16,4,4]", f"{short}[16,16,3,3]"
    assert types_of(graph, "conv") == [(image, filters, image)] * 2
    assert [node.op for node in graph.nodes] == ["conv", "relu", "conv", "add"]
    assert 0 < distance(IMAGES, data, graph, feed) < error


def test_what_is_multiplied_is_rounded_once_for_all_its_readers(images):
    data, feed = images
    graph = lowered(IMAGES, data, inputs=True)
    assert [node.op for node in graph.nodes] == ["cast", "cast", "conv", "relu", "cast", "cast", "conv", "add"]
    (relu,) = (node for node in graph.nodes if node.op == "relu")
    (narrow,) = relu.output.users
    (wide,) = narrow.output.users
    assert narrow.output.dtype == "bfloat16"
    assert sorted(user.op for user in wide.output.users) == ["add", "conv"]
    assert graph.outputs[0].dtype == "float32"
    assert distance(IMAGES, data, graph, feed) < 2**-6


TABLE = """graph @g(%i: i64[3]) {
  %t = constant @"t" : f32[40,32]
  %b = constant @"b" : f32[32]
  %x = gather(%t, %i) {axis=0} : f32[3,32]
  %y = add(%x, %b) : f32[3,32]
  %z = matmul(%y, %t) {transpose_b=1} : f32[3,40]
  return %z
}"""


def test_a_table_that_is_multiplied_by_too_is_one_constant():
    data = {"t": RNG.standard_normal((40, 32)).astype(np.float32), "b": np.ones(32, np.float32)}
    graph = lowered(TABLE, data)
    assert types_of(graph, "gather") == [("bf16[40,32]", "i64[3]", "bf16[3,32]")]
    assert types_of(graph, "matmul") == [("f32[3,32]", "bf16[40,32]", "f32[3,40]")]
    assert graph.nodes[0].inputs[0] is graph.nodes[-1].inputs[1]
    assert distance(TABLE, data, graph, {"i": np.array([1, 39, 7])}) < 2**-7


UNTOUCHED = """graph @g(%x: f32[2,3,8], %m: f32[8,64]) {
  %few = constant @"few" : f32[8,8]
  %many = constant @"many" : f32[2,8,64]
  %a = matmul(%x, %few) {transpose_b=0} : f32[2,3,8]
  %b = matmul(%a, %many) {transpose_b=0} : f32[2,3,64]
  %c = matmul(%a, %m) {transpose_b=0} : f32[2,3,64]
  %d = add(%b, %c) : f32[2,3,64]
  return %d
}"""


def test_few_weights_many_matrices_and_computed_ones_stay():
    data = {"few": np.ones((8, 8), np.float32), "many": np.ones((2, 8, 64), np.float32)}
    graph = parse_graph(UNTOUCHED, data)
    assert not LowerPrecision("bfloat16", True).run(graph)
    assert print_graph(graph) == print_graph(parse_graph(UNTOUCHED, data))


def test_weights_beyond_float16_stay_and_are_named(images):
    data, _ = images
    data["w"][3, 0, 0, 0] = -7e4
    with pytest.warns(TensorcWarning, match=r"%w stays in float32: 1 of its elements are beyond float16.*65504"):
        graph = lowered(IMAGES, data, "float16")
    assert [types[1] for types in types_of(graph, "conv")] == ["f32[16,16,3,3]", "f16[16,16,3,3]"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lowered(IMAGES, data, "bfloat16")


MOVED = """graph @g(%x: f32[1,6,4,8], %y: f32[1,4,6,8]) {
  %w = constant @"w" : f32[32,16]
  %a = transpose(%x) {perm=(0, 2, 1, 3)} : f32[1,4,6,8]
  %b = mul(%a, %y) : f32[1,4,6,8]
  %c = transpose(%b) {perm=(0, 2, 1, 3)} : f32[1,6,4,8]
  %d = reshape(%c) {shape=(6, 32)} : f32[6,32]
  %e = matmul(%d, %w) {transpose_b=0} : f32[6,16]
  return %e
}"""


def test_what_is_moved_on_its_way_is_rounded_before():
    data = {"w": np.ones((32, 16), np.float32)}
    graph = lowered(MOVED, data, inputs=True)
    assert [node.op for node in graph.nodes] == ["transpose", "mul", "cast", "transpose", "reshape", "cast", "matmul"]
    assert graph.nodes[4].output.dtype == "bfloat16"


def test_a_model_in_bfloat16_keeps_its_weights():
    text = """graph @g(%x: bf16[3,8]) {
      %w = constant @"w" : bf16[8,64]
      %y = matmul(%x, %w) {transpose_b=0} : bf16[3,64]
      return %y
    }"""
    graph = parse_graph(text, {"w": np.ones((8, 64), ml_dtypes.bfloat16)})
    run_passes(graph, [Legalize()])
    assert types_of(graph, "matmul") == [("f32[3,8]", "bf16[8,64]", "f32[3,64]")]
    assert [node.op for node in graph.nodes] == ["cast", "matmul", "cast"]


BLOCKED = """graph @g(%x: bf16[1,1,4,4,16], %w: bf16[1,16,3,3,16]) {
  %a = cast(%x) {to="float32"} : f32[1,1,4,4,16]
  %b = conv_blocked(%a, %w) CONV : f32[1,1,4,4,16]
  %c = relu(%b) : f32[1,1,4,4,16]
  %d = cast(%c) {to="bfloat16"} : bf16[1,1,4,4,16]
  %e = cast(%d) {to="float32"} : f32[1,1,4,4,16]
  %f = conv_blocked(%e, %w) CONV : f32[1,1,4,4,16]
  %g = add(%f, %e) : f32[1,1,4,4,16]
  return %g
}""".replace("CONV", CONV.replace("}", ", depthwise=0}"))


def test_kernels_widen_what_they_read_and_narrow_what_they_write():
    graph = parse_graph(BLOCKED)
    run_passes(graph, [WidenApart(), FuseGroups()])
    bodies = [sorted(node.op for node in group.body.nodes) for group in graph.nodes]
    assert bodies == [["cast", "cast", "conv_blocked", "relu"], ["add", "cast", "cast", "conv_blocked"]]
    assert [group.output.dtype for group in graph.nodes] == ["bfloat16", "float32"]
