"""Constant folding: results now, later and as one repeated number."""

from __future__ import annotations

import numpy as np

from passes.fold import FoldConstants, RemoveDead
from tensorc.ir import parse_graph
from tensorc.pipeline import run_passes


def test_chain_of_constants(becomes):
    becomes(
        [FoldConstants()],
        """graph @main(%x: f32[4]) {
          %a = constant [1.0, 2.0, 3.0, 4.0] : f32[4]
          %b = constant 2.0 : f32[]
          %0 = mul(%a, %b) : f32[4]
          %1 = slice(%0) {starts=(3,), sizes=(4,), steps=(-1,)} : f32[4]
          %2 = add(%x, %1) : f32[4]
          return %2
        }""",
        """graph @main(%x: f32[4]) {
          %a = constant [8.0, 6.0, 4.0, 2.0] : f32[4]
          %2 = add(%x, %a) : f32[4]
          return %2
        }""",
    )


def test_range_needs_no_inputs(becomes):
    becomes(
        [FoldConstants()],
        """graph @main(%x: i64[3]) {
          %0 = range() {start=1, step=2, size=3, dtype='int64'} : i64[3]
          %1 = add(%x, %0) : i64[3]
          return %1
        }""",
        "graph @main(%x: i64[3]) { %0 = constant [1, 3, 5] : i64[3] %1 = add(%x, %0) : i64[3] return %1 }",
    )


def test_what_grows_beyond_measure_is_left_to_run_time():
    graph = parse_graph(
        """graph @main() {
          %a = constant [1.0,2.0] : f32[2,1]
          %0 = expand(%a) {shape=(2, 9000000)} : f32[2,9000000]
          return %0
        }"""
    )
    run_passes(graph, [FoldConstants()])
    assert [node.op for node in graph.nodes] == ["expand"]


def test_repeated_number_stays_one_number():
    graph = parse_graph(
        """graph @main() {
          %a = constant splat 3.0 : f32[1000,1]
          %b = constant splat 2.0 : f32[1000]
          %0 = mul(%a, %b) : f32[1000,1000]
          %1 = reshape(%0) {shape=(1000000,)} : f32[1000000]
          %2 = cast(%1) {to='float16'} : f16[1000000]
          return %2
        }"""
    )
    run_passes(graph, [FoldConstants()])
    constant = graph.outputs[0].constant
    assert not graph.nodes
    assert constant is not None
    assert constant.splat == 6
    assert not any(constant.numpy().strides)


def test_mask_that_turns_out_to_be_zero_is_one_number():
    graph = parse_graph(
        """graph @main() {
          %a = range() {start=0, step=1, size=8, dtype='int64'} : i64[8]
          %b = constant 100 : i64[]
          %zero = constant 0.0 : f32[]
          %low = constant -1e30 : f32[]
          %0 = less(%a, %b) : bool[8]
          %1 = where(%0, %zero, %low) : f32[8]
          return %1
        }"""
    )
    run_passes(graph, [FoldConstants()])
    constant = graph.outputs[0].constant
    assert constant is not None
    assert constant.splat == 0


def test_negative_zero_is_not_zero():
    graph = parse_graph("graph @main() { %a = constant [0.0, 1.0] : f32[2] %0 = neg(%a) : f32[2] return %0 }")
    run_passes(graph, [FoldConstants()])
    constant = graph.outputs[0].constant
    assert constant is not None
    assert np.signbit(constant.numpy()[0])


def test_large_results_wait_until_they_are_loaded():
    text = """graph @main(%x: f32[2,3]) {
      %w = constant @"w" : f32[4,3]
      %0 = transpose(%w) {perm=(1, 0)} : f32[3,4]
      %1 = matmul(%x, %0) : f32[2,4]
      return %1
    }"""
    graph = parse_graph(text)  # without the data: to load the weights would fail
    run_passes(graph, [FoldConstants(limit=10)])
    assert [node.op for node in graph.nodes] == ["matmul"]

    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = parse_graph(text, {"w": weights})
    run_passes(graph, [FoldConstants(limit=10)])
    constant = graph.nodes[0].inputs[1].constant
    assert constant is not None
    np.testing.assert_array_equal(constant.numpy(), weights.T)


def test_what_depends_on_an_input_stays(keeps):
    keeps([FoldConstants()], "graph @main(%x: f32[4]) { %0 = tanh(%x) : f32[4] return %0 }")


def test_remove_dead(becomes):
    becomes(
        [RemoveDead()],
        "graph @main(%x: f32[4]) { %0 = tanh(%x) : f32[4] %1 = exp(%0) : f32[4] %2 = neg(%x) : f32[4] return %2 }",
        "graph @main(%x: f32[4]) { %2 = neg(%x) : f32[4] return %2 }",
    )
