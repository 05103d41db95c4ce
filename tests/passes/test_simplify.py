"""Simplify: each rule before and after; what must stay; and a property over random graphs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.cse import EliminateCommonSubexpressions
from passes.fold import FoldConstants
from passes.simplify import Simplify
from tensorc.ir import Constant, Graph, TensorType, Value, clone, evaluate, parse_graph
from tensorc.pipeline import run_passes

X = "graph @main(%x: f32[2,3,4]) {"
XY = "graph @main(%x: f32[2,3,4], %y: f32[2,3,4]) {"
T = "f32[2,3,4]"

#: name -> (before, after), the inner lines of a graph over %x.
CASES = {
    "add zero": (f"%c = constant 0.0 : f32[] %r = add(%x, %c) : {T} return %r", "return %x"),
    "zero on the left": (f"%c = constant splat 0.0 : f32[4] %r = add(%c, %x) : {T} return %r", "return %x"),
    "times one": (f"%c = constant splat 1.0 : {T} %r = mul(%x, %c) : {T} return %r", "return %x"),
    "minus zero": (f"%c = constant 0.0 : f32[] %r = sub(%x, %c) : {T} return %r", "return %x"),
    "divided by one": (f"%c = constant 1.0 : f32[] %r = div(%x, %c) : {T} return %r", "return %x"),
    "divided by a constant": (
        f"%c = constant [2.0, 4.0, 8.0, 0.5] : f32[4] %r = div(%x, %c) : {T} return %r",
        f"%c = constant [0.5, 0.25, 0.125, 2.0] : f32[4] %r = mul(%x, %c) : {T} return %r",
    ),
    "minus a constant": (
        f"%c = constant 2.0 : f32[] %r = sub(%x, %c) : {T} return %r",
        f"%c = constant -2.0 : f32[] %r = add(%x, %c) : {T} return %r",
    ),
    "constants merge": (
        f"%a = constant 2.0 : f32[] %b = constant [1.0, 2.0, 3.0, 4.0] : f32[4] "
        f"%1 = mul(%x, %a) : {T} %2 = mul(%1, %b) : {T} %3 = add(%2, %a) : {T} %4 = add(%3, %b) : {T} return %4",
        f"%a = constant [2.0, 4.0, 6.0, 8.0] : f32[4] %b = constant [3.0, 4.0, 5.0, 6.0] : f32[4] "
        f"%1 = mul(%x, %a) : {T} %2 = add(%1, %b) : {T} return %2",
    ),
    "affine of affine": (
        f"%a = constant 2.0 : f32[] %b = constant 3.0 : f32[] %1 = mul(%x, %a) : {T} %2 = add(%1, %b) : {T} "
        f"%3 = mul(%2, %a) : {T} %4 = add(%3, %b) : {T} return %4",
        f"%a = constant 4.0 : f32[] %b = constant 9.0 : f32[] %1 = mul(%x, %a) : {T} %2 = add(%1, %b) : {T} return %2",
    ),
    "double negation": (f"%1 = neg(%x) : {T} %2 = neg(%1) : {T} return %2", "return %x"),
    "plus a negative": (
        f"%0 = tanh(%x) : {T} %1 = neg(%0) : {T} %2 = add(%x, %1) : {T} return %2",
        f"%0 = tanh(%x) : {T} %2 = sub(%x, %0) : {T} return %2",
    ),
    "cast to its own type": (f"%1 = cast(%x) {{to='float32'}} : {T} return %1", "return %x"),
    "cast and back": (
        f"%1 = cast(%x) {{to='float64'}} : f64[2,3,4] %2 = cast(%1) {{to='float32'}} : {T} return %2", "return %x",
    ),
    "transposes compose": (
        "%1 = transpose(%x) {perm=(1, 2, 0)} : f32[3,4,2] %2 = transpose(%1) {perm=(0, 2, 1)} : f32[3,2,4] return %2",
        "%2 = transpose(%x) {perm=(1, 0, 2)} : f32[3,2,4] return %2",
    ),
    "transpose and back": (
        f"%1 = transpose(%x) {{perm=(2, 0, 1)}} : f32[4,2,3] %2 = transpose(%1) {{perm=(1, 2, 0)}} : {T} return %2",
        "return %x",
    ),
    "transpose of units is a view": (
        "%1 = reshape(%x) {shape=(6, 1, 4)} : f32[6,1,4] %2 = transpose(%1) {perm=(1, 0, 2)} : f32[1,6,4] return %2",
        "%2 = reshape(%x) {shape=(1, 6, 4)} : f32[1,6,4] return %2",
    ),
    "transposes around arithmetic": (
        "%c = constant [1.0, 2.0, 3.0, 4.0] : f32[4,1,1] %1 = transpose(%x) {perm=(2, 1, 0)} : f32[4,3,2] "
        "%2 = mul(%1, %c) : f32[4,3,2] %3 = slice(%1) {starts=(1, 0, 0), sizes=(3, 3, 2), steps=(1, 1, 1)} : f32[3,3,2]"
        "%4 = slice(%1) {starts=(0, 0, 0), sizes=(1, 3, 2), steps=(1, 1, 1)} : f32[1,3,2] %5 = neg(%3) : f32[3,3,2] "
        f"%6 = concat(%5, %4) {{axis=0}} : f32[4,3,2] %7 = add(%2, %6) : f32[4,3,2] "
        f"%8 = transpose(%7) {{perm=(2, 1, 0)}} : {T} return %8",
        f"%c = constant [1.0, 2.0, 3.0, 4.0] : f32[1,1,4] %2 = mul(%x, %c) : {T} "
        "%3 = slice(%x) {starts=(0, 0, 1), sizes=(2, 3, 3), steps=(1, 1, 1)} : f32[2,3,3] %5 = neg(%3) : f32[2,3,3] "
        "%4 = slice(%x) {starts=(0, 0, 0), sizes=(2, 3, 1), steps=(1, 1, 1)} : f32[2,3,1] "
        f"%6 = concat(%5, %4) {{axis=2}} : {T} %7 = add(%2, %6) : {T} return %7",
    ),
    "reshapes merge": (
        "%1 = reshape(%x) {shape=(6, 4)} : f32[6,4] %2 = reshape(%1) {shape=(24,)} : f32[24] return %2",
        "%2 = reshape(%x) {shape=(24,)} : f32[24] return %2",
    ),
    "reshape and back": (
        f"%1 = reshape(%x) {{shape=(6, 4)}} : f32[6,4] %2 = reshape(%1) {{shape=(2, 3, 4)}} : {T} return %2",
        "return %x",
    ),
    "views around rows": (
        "%w = constant splat 0.5 : f32[4,5] %b = constant [1.0, 2.0, 3.0, 4.0, 5.0] : f32[5] "
        "%1 = reshape(%x) {shape=(6, 4)} : f32[6,4] %2 = matmul(%1, %w) : f32[6,5] %3 = add(%2, %b) : f32[6,5] "
        "%4 = softmax(%3) {axis=1} : f32[6,5] %5 = reshape(%4) {shape=(2, 3, 5)} : f32[2,3,5] return %5",
        "%w = constant splat 0.5 : f32[4,5] %b = constant [1.0, 2.0, 3.0, 4.0, 5.0] : f32[5] "
        "%2 = matmul(%x, %w) : f32[2,3,5] %3 = add(%2, %b) : f32[2,3,5] %4 = softmax(%3) {axis=2} : f32[2,3,5] "
        "return %4",
    ),
    "expand to its own shape": (f"%1 = expand(%x) {{shape=(2, 3, 4)}} : {T} return %1", "return %x"),
    "expand of units is a view": (
        "%1 = expand(%x) {shape=(1, 2, 3, 4)} : f32[1,2,3,4] return %1",
        "%1 = reshape(%x) {shape=(1, 2, 3, 4)} : f32[1,2,3,4] return %1",
    ),
    "expand of an operand": (
        "%1 = reduce_max(%x) {axes=(2,)} : f32[2,3,1] %2 = expand(%1) {shape=(2, 3, 4)} : f32[2,3,4] "
        f"%3 = sub(%x, %2) : {T} return %3",
        f"%1 = reduce_max(%x) {{axes=(2,)}} : f32[2,3,1] %3 = sub(%x, %1) : {T} return %3",
    ),
    "slice of everything": (
        f"%1 = slice(%x) {{starts=(0, 0, 0), sizes=(2, 3, 4), steps=(1, 1, 1)}} : {T} return %1", "return %x",
    ),
    "slice of a slice": (
        "%1 = slice(%x) {starts=(0, 2, 0), sizes=(2, 3, 3), steps=(1, -1, 1)} : f32[2,3,3] "
        "%2 = slice(%1) {starts=(1, 1, 0), sizes=(1, 2, 2), steps=(1, 1, 2)} : f32[1,2,2] return %2",
        "%2 = slice(%x) {starts=(1, 1, 0), sizes=(1, 2, 2), steps=(1, -1, 2)} : f32[1,2,2] return %2",
    ),
    "slice of one part": (
        f"%1 = tanh(%x) : {T} %2 = concat(%1, %x) {{axis=1}} : f32[2,6,4] "
        f"%3 = slice(%2) {{starts=(0, 3, 0), sizes=(2, 3, 4), steps=(1, 1, 1)}} : {T} return %3",
        "return %x",
    ),
    "concat of one": (f"%1 = concat(%x) {{axis=1}} : {T} return %1", "return %x"),
    "pad by nothing": (f"%1 = pad(%x) {{before=(0, 0, 0), after=(0, 0, 0)}} : {T} return %1", "return %x"),
    "gather of a known index": (
        "%i = constant -1 : i64[] %1 = gather(%x, %i) {axis=1} : f32[2,4] return %1",
        "%1 = slice(%x) {starts=(0, 2, 0), sizes=(2, 1, 4), steps=(1, 1, 1)} : f32[2,1,4] "
        "%2 = reshape(%1) {shape=(2, 4)} : f32[2,4] return %2",
    ),
    "relu as clip": (f"%1 = clip(%x) {{min=0.0, max=inf}} : {T} return %1", f"%1 = relu(%x) : {T} return %1"),
    "relu as maximum": (
        f"%c = constant 0.0 : f32[] %1 = max(%c, %x) : {T} return %1", f"%1 = relu(%x) : {T} return %1",
    ),
    "relu then a bound": (
        f"%c = constant 6.0 : f32[] %1 = relu(%x) : {T} %2 = min(%1, %c) : {T} return %2",
        f"%2 = clip(%x) {{min=0.0, max=6.0}} : {T} return %2",
    ),
    "square": (f"%c = constant 2.0 : f32[] %1 = pow(%x, %c) : {T} return %1", f"%1 = mul(%x, %x) : {T} return %1"),
    "cube": (
        f"%c = constant 3.0 : f32[1] %1 = pow(%x, %c) : {T} return %1",
        f"%1 = mul(%x, %x) : {T} %2 = mul(%1, %x) : {T} return %2",
    ),
    "power of one half": (
        f"%c = constant 0.5 : f32[] %0 = abs(%x) : {T} %1 = pow(%0, %c) : {T} return %1",
        f"%0 = abs(%x) : {T} %1 = sqrt(%0) : {T} return %1",
    ),
    "one over a root": (
        f"%c = constant 1.0 : f32[] %0 = abs(%x) : {T} %1 = sqrt(%0) : {T} %2 = div(%c, %1) : {T} return %2",
        f"%0 = abs(%x) : {T} %1 = rsqrt(%0) : {T} return %1",
    ),
    "reciprocal of a root": (
        f"%0 = abs(%x) : {T} %1 = sqrt(%0) : {T} %2 = reciprocal(%1) : {T} return %2",
        f"%0 = abs(%x) : {T} %1 = rsqrt(%0) : {T} return %1",
    ),
    "divided by a root": (
        f"%0 = abs(%x) : {T} %1 = sqrt(%0) : {T} %2 = div(%x, %1) : {T} return %2",
        f"%0 = abs(%x) : {T} %1 = rsqrt(%0) : {T} %2 = mul(%x, %1) : {T} return %2",
    ),
    "known condition": (
        f"%c = constant splat False : bool[4] %0 = abs(%x) : {T} %1 = where(%c, %0, %x) : {T} return %1", "return %x",
    ),
    "reduction of units": (
        "%1 = reshape(%x) {shape=(1, 6, 4)} : f32[1,6,4] %2 = reduce_mean(%1) {axes=(0, 2), keepdims=1} : f32[1,6,1] "
        "%3 = reduce_max(%2) {axes=(2,), keepdims=0} : f32[1,6] return %3",
        "%1 = reshape(%x) {shape=(1, 6, 4)} : f32[1,6,4] %2 = reduce_mean(%1) {axes=(2,), keepdims=1} : f32[1,6,1] "
        "%3 = reshape(%2) {shape=(1, 6)} : f32[1,6] return %3",
    ),
    "transposed operand": (
        "%1 = tanh(%x) : f32[2,3,4] %2 = transpose(%1) {perm=(0, 2, 1)} : f32[2,4,3] "
        "%3 = matmul(%x, %2) : f32[2,3,3] return %3",
        "%1 = tanh(%x) : f32[2,3,4] %3 = matmul(%x, %1) {transpose_b=1} : f32[2,3,3] return %3",
    ),
    "transposed weights": (
        "%w = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] : f32[2,4] "
        "%1 = matmul(%x, %w) {transpose_b=1} : f32[2,3,2] return %1",
        "%w = constant [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0] : f32[4,2] %1 = matmul(%x, %w) : f32[2,3,2] return %1",
    ),
    "columns scaled behind a product": (
        "%w = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] : f32[4,2] %s = constant [2.0, 3.0] : f32[2] "
        "%b = constant [1.0, 1.0] : f32[2] %1 = matmul(%x, %w) : f32[2,3,2] %2 = add(%1, %b) : f32[2,3,2] "
        "%3 = mul(%2, %s) : f32[2,3,2] return %3",
        "%w = constant [2.0, 6.0, 6.0, 12.0, 10.0, 18.0, 14.0, 24.0] : f32[4,2] %b = constant [2.0, 3.0] : f32[2] "
        "%1 = matmul(%x, %w) : f32[2,3,2] %2 = add(%1, %b) : f32[2,3,2] return %2",
    ),
    "channels scaled behind a convolution": (
        "%w = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] : f32[2,3,1] %s = constant [2.0, 3.0] : f32[2,1] "
        "%1 = conv(%x, %w) {strides=(1,), pads=(0, 0), dilations=(1,)} : f32[2,2,4] %2 = mul(%1, %s) : f32[2,2,4] "
        "return %2",
        "%w = constant [2.0, 4.0, 6.0, 12.0, 15.0, 18.0] : f32[2,3,1] "
        "%1 = conv(%x, %w) {strides=(1,), pads=(0, 0), dilations=(1,)} : f32[2,2,4] return %1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rule(name, becomes):
    before, after = CASES[name]
    graph = becomes([Simplify()], f"{X} {before} }}", f"{X} {after} }}")
    assert not Simplify().run(graph)


UNCHANGED = {
    "zero that broadcasts": "%c = constant splat 0.0 : f32[5,2,3,4] %1 = add(%x, %c) : f32[5,2,3,4] return %1",
    "a reciprocal that overflows": f"%c = constant 1e-39 : f32[] %1 = div(%x, %c) : {T} return %1",
    "an inner value with two readers": (
        f"%c = constant 2.0 : f32[] %1 = mul(%x, %c) : {T} %2 = tanh(%1) : {T} %3 = mul(%1, %c) : {T} "
        f"%4 = add(%2, %3) : {T} return %4"
    ),
    "an inner value that is an output": (
        f"%c = constant 2.0 : f32[] %1 = mul(%x, %c) : {T} %3 = mul(%1, %c) : {T} return %1, %3"
    ),
    "constants whose product overflows": (
        f"%c = constant 1e30 : f32[] %1 = mul(%x, %c) : {T} %2 = mul(%1, %c) : {T} return %2"
    ),
    "a cast that loses": f"%1 = cast(%x) {{to='float16'}} : f16[2,3,4] %2 = cast(%1) {{to='float32'}} : {T} return %2",
    "a slice across two parts": (
        f"%1 = tanh(%x) : {T} %2 = concat(%1, %x) {{axis=1}} : f32[2,6,4] "
        f"%3 = slice(%2) {{starts=(0, 2, 0), sizes=(2, 3, 4), steps=(1, 1, 1)}} : {T} return %3"
    ),
    "an expand that the result needs": (
        "%c = constant 2.0 : f32[] %1 = expand(%x) {shape=(5, 2, 3, 4)} : f32[5,2,3,4] "
        "%2 = pow(%c, %1) : f32[5,2,3,4] return %2"
    ),
    "rows scaled behind a product": (
        "%w = constant splat 0.5 : f32[4,2] %s = constant [1.0, 2.0, 3.0] : f32[3,1] "
        "%1 = matmul(%x, %w) : f32[2,3,2] %2 = mul(%1, %s) : f32[2,3,2] return %2"
    ),
    "pixels scaled behind a convolution": (
        "%w = constant splat 0.5 : f32[2,3,1] %s = constant [1.0, 2.0, 3.0, 4.0] : f32[4] "
        "%1 = conv(%x, %w) {strides=(1,), pads=(0, 0), dilations=(1,)} : f32[2,2,4] %2 = mul(%1, %s) : f32[2,2,4] "
        "return %2"
    ),
    "a product that two read": (
        "%w = constant splat 0.5 : f32[4,2] %s = constant [1.0, 2.0] : f32[2] %1 = matmul(%x, %w) : f32[2,3,2] "
        "%2 = mul(%1, %s) : f32[2,3,2] return %1, %2"
    ),
    "a transpose that only half undoes": (
        "%1 = transpose(%x) {perm=(2, 1, 0)} : f32[4,3,2] %2 = add(%1, %1) : f32[4,3,2] "
        "%3 = transpose(%2) {perm=(0, 2, 1)} : f32[4,2,3] return %3"
    ),
    "a view that splits rows": (
        "%1 = reshape(%x) {shape=(2, 12)} : f32[2,12] %2 = softmax(%1) {axis=1} : f32[2,12] "
        f"%3 = reshape(%2) {{shape=(2, 3, 4)}} : {T} return %3"
    ),
    "a bound that is not a number": f"%c = constant nan : f32[] %1 = max(%x, %c) : {T} return %1",
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_near_miss(name, keeps):
    keeps([Simplify()], f"{X} {UNCHANGED[name]} }}")


def test_integers_are_not_divided_by_multiplying(keeps):
    keeps(
        [Simplify()],
        "graph @main(%x: i64[4]) { %c = constant 2 : i64[] %1 = div(%x, %c) : i64[4] %2 = sub(%1, %c) : i64[4] "
        "%3 = sqrt(%2) : i64[4] %4 = div(%x, %3) : i64[4] return %4 }",
    )


def test_symbolic_shapes():
    graph = parse_graph(
        "graph @main(%x: f32[b,s,8]) { %w = constant splat 0.5 : f32[8,4] "
        "%1 = reshape(%x) {shape=('b*s', 8)} : f32[b*s,8] %2 = matmul(%1, %w) : f32[b*s,4] "
        "%3 = reshape(%2) {shape=('b', 's', 4)} : f32[b,s,4] %4 = transpose(%3) {perm=(0, 2, 1)} : f32[b,4,s] "
        "%5 = relu(%4) : f32[b,4,s] %6 = transpose(%5) {perm=(0, 2, 1)} : f32[b,s,4] return %6 }"
    )
    run_passes(graph, [Simplify()])
    assert [node.op for node in graph.nodes] == ["matmul", "relu"]


def test_weights_are_scaled_when_they_are_loaded(transforms):
    text = (
        f'{X} %w = constant @"w" : f32[4,5] %s = constant 2.0 : f32[] %1 = matmul(%x, %w) : f32[2,3,5] '
        "%2 = mul(%1, %s) : f32[2,3,5] return %2 }"
    )
    graph = parse_graph(text)  # without the data: to load the weights would fail
    assert Simplify().run(graph)
    assert [node.op for node in graph.nodes] == ["matmul"]
    transforms([Simplify()], text, {"w": np.arange(20, dtype=np.float32).reshape(4, 5)})


def test_common_subexpressions(becomes):
    becomes(
        [EliminateCommonSubexpressions()],
        f"{XY} %c = constant [1.0, 2.0, 3.0, 4.0] : f32[4] %d = constant [1.0, 2.0, 3.0, 4.0] : f32[4] "
        f"%1 = add(%x, %y) : {T} %2 = add(%y, %x) : {T} %3 = mul(%1, %c) : {T} %4 = mul(%2, %d) : {T} "
        f"%5 = sub(%x, %y) : {T} %6 = sub(%y, %x) : {T} return %3, %4, %5, %6 }}",
        f"{XY} %c = constant [1.0, 2.0, 3.0, 4.0] : f32[4] %1 = add(%x, %y) : {T} %3 = mul(%1, %c) : {T} "
        f"%5 = sub(%x, %y) : {T} %6 = sub(%y, %x) : {T} return %3, %3, %5, %6 }}",
    )


def test_attributes_tell_expressions_apart(keeps):
    keeps(
        [EliminateCommonSubexpressions()],
        f"{X} %1 = clip(%x) {{min=0.0, max=1.0}} : {T} %2 = clip(%x) {{min=0.0, max=2.0}} : {T} return %1, %2 }}",
    )


# A property: random graphs mean the same -------------------------------------------------------------------

_NUMBERS = (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0)
_SHAPES = ((2, 3, 4), (6, 4), (2, 12), (24,), (1, 24), (2, 1, 3, 4), (4, 1, 6))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A chain of moves and arithmetic with side branches, in float64 so that only mistakes show."""
    graph = Graph()
    pool = [graph.add_input(name, TensorType("float64", (2, 3, 4))) for name in ("x", "y")]
    for _ in range(draw(st.integers(1, 12))):
        x = draw(st.sampled_from(pool[-4:]))
        pool.append(draw(st.sampled_from([_unary, _with_constant, _with_other, _move]))(draw, graph, x, pool))
    graph.outputs = [pool[-1], *draw(st.lists(st.sampled_from(pool[2:]), max_size=1))]
    return graph


def _unary(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value]) -> Value:
    op = draw(st.sampled_from(["neg", "tanh", "relu", "sigmoid", "abs", "clip", "cast", "reduce_mean"]))
    if op == "clip":
        return graph.add(op, [x], {"min": draw(st.sampled_from([0.0, -1.0])), "max": 1.0})
    if op == "cast":
        return graph.add(op, [x], {"to": "float64"})
    if op == "reduce_mean":
        return graph.add(op, [x], {"axes": (draw(st.integers(0, x.type.rank - 1)),)}) if x.shape else x
    return graph.add(op, [x])


def _with_constant(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value]) -> Value:
    op = draw(st.sampled_from(["add", "sub", "mul", "div", "max", "min", "pow"]))
    number = draw(st.sampled_from([2.0, 3.0, 1.0] if op == "pow" else [2.0, 0.5] if op == "div" else _NUMBERS))
    shape = draw(st.sampled_from([(), x.shape, x.shape[-1:], (1, *x.shape)]))
    c = graph.add_constant(Constant.full(TensorType("float64", shape), number))
    x = graph.add("tanh", [x]) if op == "pow" else x
    return graph.add(op, [c, x] if op in ("add", "sub", "mul") and draw(st.booleans()) else [x, c])


def _with_other(draw: st.DrawFn, graph: Graph, x: Value, pool: list[Value]) -> Value:
    others = [value for value in pool if value.shape == x.shape]
    other = draw(st.sampled_from(others))
    op = draw(st.sampled_from(["add", "sub", "mul", "max", "concat", "where"]))
    if op == "concat":
        return graph.add(op, [x, other], {"axis": draw(st.integers(0, x.type.rank - 1))})
    if op == "where":
        condition = graph.constant(np.asarray(draw(st.booleans())))
        return graph.add(op, [condition, x, other])
    return graph.add(op, [x, other])


def _move(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value]) -> Value:
    op = draw(st.sampled_from(["transpose", "reshape", "slice", "expand"]))
    if op == "transpose":
        return graph.add(op, [x], {"perm": tuple(draw(st.permutations(range(x.type.rank))))})
    if op == "reshape":
        fitting = [shape for shape in _SHAPES if np.prod(shape) == x.type.size] or [(x.type.size,)]
        return graph.add(op, [x], {"shape": draw(st.sampled_from(fitting))})
    if op == "expand":
        return graph.add(op, [x], {"shape": draw(st.sampled_from([x.shape, (1, *x.shape), (2, *x.shape)]))})
    starts = tuple(draw(st.integers(0, extent - 1)) for extent in x.shape)
    sizes = tuple(draw(st.integers(1, extent - start)) for extent, start in zip(x.shape, starts, strict=True))
    return graph.add(op, [x], {"starts": starts, "sizes": sizes, "steps": (1,) * len(starts)})


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_random_graphs_mean_the_same(graph):
    graph.remove_dead()
    original = clone(graph)
    run_passes(
        graph, [FoldConstants(), Simplify(), FoldConstants(limit=4), Simplify(), EliminateCommonSubexpressions()]
    )
    rng = np.random.default_rng(3)
    arrays = {value.name: rng.standard_normal(value.shape) for value in graph.inputs}
    for expected, got in zip(evaluate(original, arrays), evaluate(graph, arrays), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
