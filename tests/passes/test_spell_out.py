"""Composite operators spelled out: the same meaning without them, and only where the target asks for it."""

from __future__ import annotations

from collections import Counter

import pytest

from passes.spell_out import SpellOut

EVERYTHING = [SpellOut(lambda _: True)]
X = "%x: f32[2,3,4], %s: f32[3,4], %b: f32[3,4]"
COMPOSITE = {
    "softmax": "%r = softmax(%x) {axis=1}",
    "log_softmax": "%r = log_softmax(%x) {axis=0}",
    "layer_norm": "%r = layer_norm(%x, %s, %b) {axis=1, epsilon=0.01}",
    "layer_norm without bias": "%r = layer_norm(%x, %s) {axis=1, epsilon=0.01}",
    "rms_norm": "%r = rms_norm(%x, %s) {axis=1, epsilon=0.01}",
}
ELEMENTARY = {"add", "cast", "div", "exp", "log", "mul", "reduce_max", "reduce_mean", "reduce_sum", "rsqrt", "sub"}


@pytest.mark.parametrize("name", COMPOSITE)
def test_rows(name, transforms):
    graph = transforms(EVERYTHING, f"graph @main({X}) {{ {COMPOSITE[name]} : f32[2,3,4] return %r }}")
    assert {node.op for node in graph.nodes} <= ELEMENTARY
    assert len(graph.nodes) > 3


def test_short_floats_are_widened(transforms):
    graph = transforms(EVERYTHING, "graph @main(%x: f16[2,3]) { %r = softmax(%x) {axis=0} : f16[2,3] return %r }")
    assert {node.output.dtype for node in graph.nodes[:-1]} == {"float32"}
    assert graph.outputs[0].dtype == "float16"


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("mask", [None, "f32[3,5]", "f32[2,4,3,5]", "f32[]", "f32[4,1,5]"])
def test_attention(heads, mask, transforms):
    inputs = f"%q: f32[2,3,4,6], %k: f32[2,5,{heads},6], %v: f32[2,5,{heads},7]" + (f", %m: {mask}" if mask else "")
    attention = f"attention(%q, %k, %v{', %m' if mask else ''}) {{scale=0.25}} : f32[2,3,4,7]"
    graph = transforms(EVERYTHING, f"graph @main({inputs}) {{ %r = {attention} return %r }}")
    counts = Counter(node.op for node in graph.nodes)
    assert counts["matmul"] == 2
    assert counts["attention"] == counts["softmax"] == 0


def test_what_has_a_kernel_stays(keeps):
    keeps(
        [SpellOut(lambda node: node.output.dtype == "float64")],
        "graph @main(%x: f32[2,3]) { %r = softmax(%x) {axis=0} : f32[2,3] return %r }",
    )
