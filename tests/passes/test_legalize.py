"""Arithmetic only in types that machines compute in."""

from __future__ import annotations

import numpy as np

from passes.legalize import Legalize


def test_bfloat16_is_computed_in_float32_and_rounded_after_each_operator(becomes):
    becomes(
        [Legalize()],
        """graph @main(%x: bf16[4], %y: bf16[4]) {
          %0 = add(%x, %y) : bf16[4]
          %1 = exp(%0) : bf16[4]
          %2 = reshape(%1) {shape=(2, 2)} : bf16[2,2]
          return %2
        }""",
        """graph @main(%x: bf16[4], %y: bf16[4]) {
          %a = cast(%x) {to='float32'} : f32[4]
          %b = cast(%y) {to='float32'} : f32[4]
          %0 = add(%a, %b) : f32[4]
          %c = cast(%0) {to='bfloat16'} : bf16[4]
          %d = cast(%c) {to='float32'} : f32[4]
          %1 = exp(%d) : f32[4]
          %e = cast(%1) {to='bfloat16'} : bf16[4]
          %2 = reshape(%e) {shape=(2, 2)} : bf16[2,2]
          return %2
        }""",
    )


def test_comparisons_reductions_and_ranges(transforms):
    graph = transforms(
        [Legalize()],
        """graph @main(%x: bf16[2,3], %i: u4[3]) {
          %0 = range() {start=1, step=2, size=3, dtype='bfloat16'} : bf16[3]
          %1 = less(%x, %0) : bool[2,3]
          %2 = reduce_max(%x) {axes=(1,), keepdims=0} : bf16[2]
          %3 = equal(%i, %i) : bool[3]
          return %1, %2, %3
        }""",
    )
    for node in graph.nodes:
        assert node.op == "cast" or not {v.dtype for v in (*node.inputs, *node.outputs)} & {"bfloat16", "uint4"}


def test_moves_and_conversions_stay_as_they_are(keeps):
    keeps(
        [Legalize()],
        """graph @main(%x: f8e5m2[2,3], %c: bool[3], %i: i4[2,3]) {
          %0 = transpose(%x) {perm=(1, 0)} : f8e5m2[3,2]
          %1 = where(%c, %x, %x) : f8e5m2[2,3]
          %2 = cast(%i) {to='float32'} : f32[2,3]
          %3 = concat(%i, %i) {axis=0} : i4[4,3]
          return %0, %1, %2, %3
        }""",
    )


def test_constants_are_widened_too(transforms):
    weight = np.arange(6).reshape(2, 3).astype("float32")
    graph = transforms(
        [Legalize()],
        """graph @main(%x: bf16[4,2], %f: f32[2,3]) {
          %w = cast(%f) {to='bfloat16'} : bf16[2,3]
          %0 = matmul(%x, %w) {transpose_b=0} : bf16[4,3]
          return %0
        }""",
        {"f": weight},
    )
    (product,) = (node for node in graph.nodes if node.op == "matmul")
    assert {v.dtype for v in (*product.inputs, product.output)} == {"float32"}
