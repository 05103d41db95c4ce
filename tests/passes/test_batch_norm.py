"""Batch normalisation folds into what stands in front of it, or becomes a multiply and an add."""

from __future__ import annotations

import numpy as np
import pytest

from passes.batch_norm import FoldBatchNorm
from passes.canonical import canonical_passes
from passes.simplify import Simplify

#: scale / sqrt(variance + epsilon) is [2, 3], bias - mean * that is [-1, 5].
PARAMETERS = """
  %s = constant [4.0, 3.0] : f32[2]
  %b = constant [1.0, 2.0] : f32[2]
  %m = constant [1.0, -1.0] : f32[2]
  %v = constant [3.0, 0.0] : f32[2]
"""
IMAGE = "graph @main(%x: f32[1,2,3,3]) {" + PARAMETERS + "%w = constant [1.0, 2.0, 3.0, 4.0] : f32[2,2,1,1]"
CONV = "%0 = conv(%x, %w) {strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)} : f32[1,2,3,3]"
NORM = "batch_norm(%{}, %s, %b, %m, %v) {{epsilon=1.0}} : f32[1,2,3,3]"
FOLDED = """graph @main(%x: f32[1,2,3,3]) {{
  %w = constant [2.0, 4.0, 9.0, 12.0] : f32[2,2,1,1]
  %c = constant {} : f32[2,1,1]
  %0 = conv(%x, %w) {{strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)}} : f32[1,2,3,3]
  %1 = add(%0, %c) : f32[1,2,3,3]
  return %1
}}"""


def test_behind_a_convolution(becomes):
    becomes([FoldBatchNorm()], f"{IMAGE} {CONV} %1 = {NORM.format(0)} return %1 }}", FOLDED.format("[-1.0, 5.0]"))


@pytest.mark.parametrize("shape", ["[2,1,1]", "[1,2,1,1]"])
def test_behind_a_convolution_with_a_bias(shape, becomes):
    text = f"%c = constant [10.0, 20.0] : f32{shape} {CONV} %1 = add(%0, %c) : f32[1,2,3,3] %2 = {NORM.format(1)}"
    becomes([FoldBatchNorm()], f"{IMAGE} {text} return %2 }}", FOLDED.format("[19.0, 65.0]"))


def test_behind_a_matrix_product(becomes):
    becomes(
        [FoldBatchNorm()],
        "graph @main(%x: f32[3,2]) {" + PARAMETERS + "%w = constant [1.0, 2.0, 3.0, 4.0] : f32[2,2] "
        "%0 = matmul(%x, %w) : f32[3,2] %1 = batch_norm(%0, %s, %b, %m, %v) {epsilon=1.0} : f32[3,2] return %1 }",
        "graph @main(%x: f32[3,2]) { %w = constant [2.0, 6.0, 6.0, 12.0] : f32[2,2] "
        "%c = constant [-1.0, 5.0] : f32[2] %0 = matmul(%x, %w) : f32[3,2] %1 = add(%0, %c) : f32[3,2] return %1 }",
    )


MULTIPLY_AND_ADD = """
  %f = constant [2.0, 3.0] : f32[2,1,1]
  %c = constant [-1.0, 5.0] : f32[2,1,1]
"""


def test_standing_alone(becomes):
    becomes(
        [FoldBatchNorm()],
        f"{IMAGE} %0 = relu(%x) : f32[1,2,3,3] %1 = {NORM.format(0)} %2 = relu(%1) : f32[1,2,3,3] return %2 }}",
        f"graph @main(%x: f32[1,2,3,3]) {{ {MULTIPLY_AND_ADD} %0 = relu(%x) : f32[1,2,3,3] "
        "%1 = mul(%0, %f) : f32[1,2,3,3] %2 = add(%1, %c) : f32[1,2,3,3] %3 = relu(%2) : f32[1,2,3,3] return %3 }",
    )


def test_a_convolution_that_others_read_keeps_its_weights(becomes):
    becomes(
        [FoldBatchNorm()],
        f"{IMAGE} {CONV} %1 = {NORM.format(0)} return %0, %1 }}",
        "graph @main(%x: f32[1,2,3,3]) { %w = constant [1.0, 2.0, 3.0, 4.0] : f32[2,2,1,1]"
        f"{MULTIPLY_AND_ADD} {CONV} %1 = mul(%0, %f) : f32[1,2,3,3] %2 = add(%1, %c) : f32[1,2,3,3] return %0, %2 }}",
    )


def test_a_bias_for_each_pixel_is_no_bias(transforms):
    text = f"%c = constant splat 2.0 : f32[2,3,3] {CONV} %1 = add(%0, %c) : f32[1,2,3,3] %2 = {NORM.format(1)}"
    graph = transforms([FoldBatchNorm()], f"{IMAGE} {text} return %2 }}")
    assert [node.op for node in graph.nodes] == ["conv", "add", "mul", "add"]


def test_parameters_known_at_run_time(transforms):
    graph = transforms(
        [FoldBatchNorm()],
        "graph @main(%x: f32[1,2,3,3], %s: f32[2], %b: f32[2], %m: f32[2], %v: f32[2]) {"
        f"%0 = {NORM.format('x')} return %0 }}",
        positive=True,
    )
    assert "batch_norm" not in {node.op for node in graph.nodes}


def test_the_multiply_and_add_of_old_exports_fold_too(becomes):
    """Caffe2: Conv, BatchNormalization, then Mul and Add by unsqueezed vectors."""
    text = f"""{IMAGE} {CONV} %1 = {NORM.format(0)}
      %p = constant [2.0, 0.5] : f32[2] %q = constant [1.0, 1.0] : f32[2]
      %p1 = reshape(%p) {{shape=(2, 1, 1)}} : f32[2,1,1] %q1 = reshape(%q) {{shape=(2, 1, 1)}} : f32[2,1,1]
      %2 = mul(%1, %p1) : f32[1,2,3,3] %3 = add(%2, %q1) : f32[1,2,3,3] return %3 }}"""
    after = FOLDED.format("[-1.0, 3.5]").replace("[2.0, 4.0, 9.0, 12.0]", "[4.0, 8.0, 4.5, 6.0]")
    becomes(canonical_passes(), text, after)


def test_standing_alone_the_pairs_merge(becomes):
    text = f"""{IMAGE} %0 = relu(%x) : f32[1,2,3,3] %1 = {NORM.format(0)}
      %p = constant [2.0, 0.5] : f32[2,1,1] %q = constant [1.0, 1.0] : f32[2,1,1]
      %2 = mul(%1, %p) : f32[1,2,3,3] %3 = add(%2, %q) : f32[1,2,3,3] return %3 }}"""
    after = """graph @main(%x: f32[1,2,3,3]) { %p = constant [4.0, 1.5] : f32[2,1,1]
      %q = constant [-1.0, 3.5] : f32[2,1,1] %0 = relu(%x) : f32[1,2,3,3]
      %1 = mul(%0, %p) : f32[1,2,3,3] %2 = add(%1, %q) : f32[1,2,3,3] return %2 }"""
    becomes([FoldBatchNorm(), Simplify()], text, after)


def test_grouped_convolution_with_random_weights(transforms):
    rng = np.random.default_rng(5)
    names = ("s", "b", "m", "v")
    data = {name: rng.uniform(0.5, 2, 6).astype(np.float32) for name in names}
    data["w"] = rng.standard_normal((6, 2, 3, 3)).astype(np.float32)
    constants = " ".join(f'%{name} = constant @"{name}" : f32[6]' for name in names)
    graph = transforms(
        canonical_passes(),
        f'graph @main(%x: f32[2,4,5,5]) {{ {constants} %w = constant @"w" : f32[6,2,3,3] '
        "%0 = conv(%x, %w) {strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), groups=2} : f32[2,6,5,5] "
        "%1 = batch_norm(%0, %s, %b, %m, %v) : f32[2,6,5,5] %2 = relu(%1) : f32[2,6,5,5] return %2 }",
        data,
    )
    assert [node.op for node in graph.nodes] == ["conv", "add", "relu"]
