"""Fusion: which nodes one kernel computes; and for random graphs that the groups are legal and mean the same."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.fusion import FuseGroups, is_view
from passes.memory import InsertCopies
from tensorc.ir import OPS, Constant, Graph, Kind, TensorType, Value, clone, evaluate, parse_graph
from tensorc.ir.verifier import verify
from tensorc.pipeline import run_passes

T = "f32[4,8]"
X, XY, XYZ = f"%x: {T}", f"%x: {T}, %y: {T}", f"%x: {T}, %y: {T}, %z: {T}"
W = f"%x: {T}, %y: {T}, %w: f32[8,8]"
MM = f"%m = matmul(%x, %w) : {T}"
ROW = "f32[4,1]"
TURN = "transpose({}) {{perm=(1, 0)}}"
HALF = "slice({}) {{starts=(0, {}), sizes=(4, 4), steps=(1, 1)}} : f32[4,4]"
Q = "f32[1,4,2,8]"
TURN_HEADS = "transpose(%{}) {{perm=(0, 2, 1, 3)}} : f32[1,4,2,8]"


def unary(op: str, x: str, type: str = T) -> str:
    return f"{op}(%{x}) : {type}"


#: name -> inputs, lines, and what becomes of them: a group as its operators with + between, a view by its operator.
CASES = {
    # Behind anchors.
    "epilogue": (W, f"{MM} %1 = add(%m, %y) : {T} %2 = relu(%1) : {T} return %2", "matmul+add+relu"),
    "an epilogue in a diamond": (
        W,
        f"{MM} %c = constant 3.0 : f32[] %d = constant 0.16667 : f32[] %1 = add(%m, %c) : {T} "
        f"%2 = clip(%1) {{min=0.0, max=6.0}} : {T} %3 = mul(%m, %2) : {T} %4 = mul(%3, %d) : {T} return %4",
        "matmul+add+clip+mul+mul",
    ),
    "a residual on the right": (W, f"{MM} %1 = add(%y, %m) : {T} return %1", "matmul+add"),
    "a residual that is its own operand": (W, f"{MM} %1 = add(%m, %x) : {T} return %1", "matmul+add"),
    "side operands that are chains": (
        W,
        f"%1 = relu(%y) : {T} %2 = neg(%1) : {T} {MM} %3 = add(%m, %2) : {T} %t = tanh(%y) : {T} "
        f"%4 = mul(%3, %t) : {T} return %4",
        "relu+neg+matmul+add+tanh+mul",
    ),
    "two products that meet": (
        W, f"{MM} %n = matmul(%y, %w) : {T} %1 = add(%m, %n) : {T} %2 = relu(%1) : {T} return %2",
        "matmul matmul+add+relu",
    ),
    "a product used twice": (W, f"{MM} %1 = add(%m, %m) : {T} return %1", "matmul+add"),
    "an output inside a chain": (
        W, f"{MM} %1 = relu(%m) : {T} %2 = neg(%1) : {T} return %2, %1", "matmul+relu neg",
    ),
    "the anchor itself is an output": (W, f"{MM} %1 = relu(%m) : {T} return %1, %m", "matmul relu"),
    "an output inside a diamond": (
        W, f"{MM} %1 = relu(%m) : {T} %2 = neg(%m) : {T} %3 = add(%1, %2) : {T} return %3, %1", "matmul relu neg+add",
    ),
    "a value that a later product reads": (
        W, f"{MM} %1 = relu(%m) : {T} %n = matmul(%1, %w) : {T} %2 = add(%n, %1) : {T} return %2",
        "matmul+relu matmul+add",
    ),
    "nothing wider behind": (
        "%x: f32[4,8], %y: f32[2,4,8], %w: f32[8,8]", f"{MM} %1 = add(%m, %y) : f32[2,4,8] return %1", "matmul add",
    ),
    "a view behind": (
        W, f"{MM} %1 = relu(%m) : {T} %2 = reshape(%1) {{shape=(32,)}} : f32[32] %3 = neg(%2) : f32[32] return %3",
        "matmul+relu reshape neg",
    ),
    "a side chain that goes on into a move": (
        W, f"%1 = relu(%y) : {T} {MM} %2 = add(%m, %1) : {T} %3 = {TURN.format('%2')} : f32[8,4] return %3",
        "relu+matmul+add transpose",
    ),
    "a side chain that goes on into a wider value": (
        f"%x: {T}, %y: {T}, %w: f32[8,8], %z: f32[2,4,8]",
        f"%1 = relu(%y) : {T} {MM} %2 = add(%m, %1) : {T} %3 = {HALF.format('%2', 0)} return %3",
        "relu+matmul+add slice",
    ),
    "a moved side operand": (
        "%x: f32[4,8], %y: f32[8,4], %w: f32[8,8]",
        f"%1 = {TURN.format('%y')} : {T} {MM} %2 = add(%m, %1) : {T} return %2",
        "transpose+matmul+add",
    ),
    "a bias that is computed is computed once": (
        "%x: f32[4,8], %y: f32[8], %w: f32[8,8]",
        f"%1 = exp(%y) : f32[8] {MM} %2 = add(%m, %1) : {T} return %2",
        "exp matmul+add",
    ),
    # In front of anchors.
    "a moved operand": (
        "%x: f32[8,4], %y: f32[8,8]",
        f"%1 = {TURN.format('%x')} : {T} %2 = matmul(%1, %y) : {T} return %2",
        "transpose+matmul",
    ),
    "channels moved before a filter of one pixel": (
        "%x: f32[1,2,3,3,4], %w: f32[2,3,1,1,4]",
        "%u = unblock(%x) {channels=6, groups=2} : f32[1,6,3,3] "
        "%s = reshape(%u) {shape=(1, 2, 3, 3, 3)} : f32[1,2,3,3,3] "
        "%t = transpose(%s) {perm=(0, 2, 1, 3, 4)} : f32[1,3,2,3,3] "
        "%p = reshape(%t) {shape=(1, 6, 3, 3)} : f32[1,6,3,3] "
        "%c = conv_blocked(%p, %w) {strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=2} : f32[1,2,3,3,4] "
        "return %c",
        "unblock+reshape+transpose+reshape+conv_blocked",
    ),
    "channels moved before a larger filter": (
        "%x: f32[1,2,3,3,4], %w: f32[2,3,2,2,4]",
        "%u = unblock(%x) {channels=6, groups=2} : f32[1,6,3,3] "
        "%c = conv_blocked(%u, %w) {strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=2} : f32[1,2,2,2,4] "
        "return %c",
        "unblock conv_blocked",
    ),
    "operands moved twice": (
        "%x: f32[8,6], %y: f32[8,8]",
        "%0 = slice(%x) {starts=(0, 1), sizes=(8, 4), steps=(1, 1)} : f32[8,4] "
        f"%1 = {TURN.format('%0')} : {T} %2 = {TURN.format('%y')} : f32[8,8] %3 = matmul(%1, %2) : {T} return %3",
        "slice+transpose+transpose+matmul",
    ),
    "a computed operand is computed once": (
        W, f"%1 = relu(%x) : {T} %2 = matmul(%1, %w) : {T} return %2", "relu matmul",
    ),
    "a computed operand that is moved": (
        "%x: f32[8,4], %w: f32[8,8]",
        f"%0 = relu(%x) : f32[8,4] %1 = {TURN.format('%0')} : {T} %2 = matmul(%1, %w) : {T} return %2",
        "relu+transpose matmul",
    ),
    "an operand with a view inside": (
        "%x: f32[8,2,2], %w: f32[8,8]",
        "%0 = reshape(%x) {shape=(8, 4)} : f32[8,4] "
        f"%1 = {TURN.format('%0')} : {T} %2 = matmul(%1, %w) : {T} return %2",
        "reshape transpose+matmul",
    ),
    "convolutions read memory": (
        "%x: f32[1,4,3,3]",
        "%w = constant splat 0.5 : f32[4,4,1,1] %0 = transpose(%x) {perm=(0, 1, 3, 2)} : f32[1,4,3,3] "
        "%1 = conv(%0, %w) {strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)} : f32[1,4,3,3] return %1",
        "transpose conv",
    ),
    "attention with all operands moved": (
        "%q: f32[1,2,4,8], %k: f32[1,2,4,8], %v: f32[1,2,4,8], %m: f32[1,1,4,4]",
        f"%0 = {TURN_HEADS.format('q')} %1 = {TURN_HEADS.format('k')} %2 = {TURN_HEADS.format('v')} "
        f"%s = exp(%m) : f32[1,1,4,4] %3 = attention(%0, %1, %2, %s) {{scale=0.5}} : {Q} %4 = relu(%3) : {Q} return %4",
        "exp transpose+transpose+transpose+attention+relu",
    ),
    "a moved value that others read too": (
        "%x: f32[8,4], %w: f32[8,8]",
        f"%1 = {TURN.format('%x')} : {T} %2 = matmul(%1, %w) : {T} %3 = reduce_max(%1) {{axes=(1,)}} : {ROW} "
        "return %2, %3",
        "transpose matmul reduce_max",
    ),
    # Around reductions.
    "a prologue and an epilogue": (
        XY, f"%1 = add(%x, %y) : {T} %2 = relu(%1) : {T} %3 = softmax(%2) {{axis=1}} : {T} %4 = neg(%3) : {T} "
        "return %4",
        "add+relu+softmax+neg",
    ),
    "a sum of products": (
        XY, f"%1 = mul(%x, %y) : {T} %2 = reduce_sum(%1) {{axes=(1,)}} : {ROW} %3 = exp(%2) : {ROW} return %3",
        "mul+reduce_sum+exp",
    ),
    "a prologue with a move": (
        "%x: f32[8,4]",
        f"%0 = exp(%x) : f32[8,4] %1 = {TURN.format('%0')} : {T} %2 = softmax(%1) {{axis=1}} : {T} return %2",
        "exp+transpose+softmax",
    ),
    "what broadcasts behind is another kernel": (
        X, f"%0 = relu(%x) : {T} %1 = reduce_max(%0) {{axes=(1,)}} : {ROW} %2 = sub(%0, %1) : {T} return %2",
        "relu reduce_max sub",
    ),
    "two reductions of one value": (
        X,
        f"%0 = relu(%x) : {T} %1 = reduce_max(%0) {{axes=(1,)}} : {ROW} %2 = reduce_mean(%0) {{axes=(1,)}} : {ROW} "
        f"%3 = add(%1, %2) : {ROW} return %3",
        "relu reduce_mean reduce_max+add",
    ),
    "a reduction of a reduction": (
        X,
        f"%1 = reduce_max(%x) {{axes=(1,)}} : {ROW} %2 = exp(%1) : {ROW} %3 = reduce_sum(%2) {{axes=(0,)}} : f32[1,1] "
        "return %3",
        "reduce_max+exp reduce_sum",
    ),
    "a residual around a softmax": (
        X, f"%0 = relu(%x) : {T} %1 = softmax(%0) {{axis=1}} : {T} %2 = add(%0, %1) : {T} return %2",
        "relu+softmax+add",
    ),
    "parameters are read for every row": (
        f"%x: {T}, %s: f32[8]",
        f"%0 = relu(%x) : {T} %1 = exp(%s) : f32[8] %2 = rms_norm(%0, %1) {{axis=1}} : {T} return %2",
        "exp relu+rms_norm",
    ),
    "a product in front of a norm": (
        f"{W}, %s: f32[8]",
        f"{MM} %1 = add(%m, %y) : {T} %2 = rms_norm(%1, %s) {{axis=1}} : {T} %3 = relu(%2) : {T} return %3",
        "matmul+add rms_norm+relu",
    ),
    "a repeated row in front": (
        f"%x: {ROW}", f"%0 = expand(%x) {{shape=(4, 8)}} : {T} %1 = reduce_sum(%0) {{axes=(0,)}} : f32[1,8] return %1",
        "expand+reduce_sum",
    ),
    # Elementwise chains and moves.
    "a chain": (X, f"%1 = exp(%x) : {T} %2 = neg(%1) : {T} return %2", "exp+neg"),
    "a diamond": (X, f"%0 = neg(%x) : {T} %1 = sigmoid(%0) : {T} %2 = mul(%0, %1) : {T} return %2", "neg+sigmoid+mul"),
    "an input's diamond": (X, f"%1 = sigmoid(%x) : {T} %2 = mul(%x, %1) : {T} return %2", "sigmoid+mul"),
    "two inputs' chains": (
        XY, f"%1 = exp(%x) : {T} %2 = tanh(%y) : {T} %3 = add(%1, %2) : {T} return %3", "exp+tanh+add",
    ),
    "in front of a broadcast": (
        f"%x: {ROW}, %y: {T}", f"%1 = exp(%x) : {ROW} %2 = add(%1, %y) : {T} return %2", "exp add",
    ),
    "moves in front of a broadcast": (
        f"%x: f32[1,4], %y: {T}", f"%1 = {TURN.format('%x')} : {ROW} %2 = add(%1, %y) : {T} return %2", "transpose+add",
    ),
    "arithmetic between moves": (
        "%x: f32[4,8]",
        f"%0 = {TURN.format('%x')} : f32[8,4] %1 = exp(%0) : f32[8,4] %2 = {TURN.format('%1')} : {T} return %2",
        "transpose+exp+transpose",
    ),
    "views inside": (
        X,
        "%0 = exp(%x) : f32[4,8] %1 = reshape(%0) {shape=(2, 2, 8)} : f32[2,2,8] %2 = neg(%1) : f32[2,2,8] return %2",
        "exp+reshape+neg",
    ),
    "views at the ends": (
        X,
        "%0 = reshape(%x) {shape=(32,)} : f32[32] %1 = exp(%0) : f32[32] %2 = reshape(%1) {shape=(4, 8)} : f32[4,8] "
        "%3 = reshape(%2) {shape=(8, 4)} : f32[8,4] return %3",
        "reshape exp reshape reshape",
    ),
    "nothing but a view": (X, "%0 = reshape(%x) {shape=(32,)} : f32[32] return %0", "reshape"),
    "computed values are not copied": (
        X, f"%0 = exp(%x) : {T} %1 = expand(%0) {{shape=(2, 4, 8)}} : f32[2,4,8] return %1", "exp expand",
    ),
    "moved values are": (
        "%x: f32[8,4]",
        f"%0 = {TURN.format('%x')} : {T} %1 = expand(%0) {{shape=(2, 4, 8)}} : f32[2,4,8] %2 = neg(%1) : f32[2,4,8] "
        "return %2",
        "transpose+expand+neg",
    ),
    "a lookup": (
        "%x: f32[4,8], %i: i32[3]",
        "%j = abs(%i) : i32[3] %0 = gather(%x, %j) : f32[3,8] %1 = neg(%0) : f32[3,8] return %1",
        "abs gather+neg",
    ),
    "rows at places that are data": (
        "%x: f32[8,4], %i: i32[3,1]",
        f"%0 = {TURN.format('%x')} : f32[4,8] %1 = gather_nd(%0, %i) : f32[3,8] %2 = neg(%1) : f32[3,8] return %2",
        "transpose gather_nd+neg",
    ),
    "both halves of a computed value": (
        X,
        f"%0 = exp(%x) : {T} %1 = {HALF.format('%0', 0)} %2 = {HALF.format('%0', 4)} %3 = add(%1, %2) : f32[4,4] "
        "return %3",
        "exp slice+slice+add",
    ),
    "a computed value and itself turned": (
        "%x: f32[4,4]",
        f"%0 = exp(%x) : f32[4,4] %1 = {TURN.format('%0')} : f32[4,4] %2 = add(%0, %1) : f32[4,4] return %2",
        "exp transpose+add",
    ),
    "a join and what follows": (
        XY, "%0 = concat(%x, %y) {axis=1} : f32[4,16] %1 = relu(%0) : f32[4,16] return %1", "concat+relu",
    ),
    "nothing joins a join's parts": (
        XY, f"%0 = exp(%x) : {T} %1 = concat(%0, %y) {{axis=1}} : f32[4,16] return %1", "exp concat",
    ),
    "a join of neighbours is a view": (
        XY, f"%0 = exp(%x) : {T} %1 = concat(%0, %y) {{axis=0}} : f32[8,8] %2 = neg(%1) : f32[8,8] return %2",
        "exp concat neg",
    ),
    "a running sum": (
        X, f"%0 = neg(%x) : {T} %1 = cumsum(%0) {{axis=1}} : {T} %2 = exp(%1) : {T} return %2", "neg+cumsum+exp",
    ),
}  # fmt: skip


def described(graph: Graph) -> str:
    return " ".join("+".join(n.op for n in node.body.nodes) if node.body else node.op for node in graph.nodes)


@pytest.mark.parametrize("case", CASES)
def test_groups(case, transforms):
    inputs, lines, want = CASES[case]
    graph = transforms([FuseGroups()], f"graph @main({inputs}) {{ {lines} }}")
    assert described(graph) == want
    check_groups(graph)


@pytest.mark.parametrize(("columns", "want"), [(8, "exp concat neg"), (3, "exp concat+neg")])
def test_parts_of_a_join_begin_where_a_kernel_may_write(columns, want, transforms):
    """The second part at byte 32 of the result, or at byte 12."""
    x, both = f"f32[1,{columns}]", f"f32[1,{columns + 8}]"
    lines = (
        f"%0 = exp(%x) : {x} %1 = concat(%0, %y) {{axis=1}} : {both} %2 = neg(%1) : {both} return %2"
    )  # fmt: skip
    graph = transforms([FuseGroups(alignment=16)], f"graph @main(%x: {x}, %y: f32[1,8]) {{ {lines} }}")
    assert described(graph) == want


def check_groups(graph: Graph) -> None:
    """What every kernel relies on."""
    for node in graph.nodes:
        assert node.body is not None or is_view(node)
        if node.body is None:
            continue
        assert all(value.users for value in node.body.inputs) or not node.body.nodes
        assert len(node.body.outputs) == 1
        heads = [n for n in node.body.nodes if OPS[n.op].kind in (Kind.ANCHOR, Kind.REDUCTION)]
        assert len(heads) <= 1
        behind = set(heads)
        for inner in node.body.nodes:
            assert inner.output.users or inner.output in node.body.outputs
            if any(value.producer in behind for value in inner.inputs):
                assert OPS[inner.op].kind is Kind.ELEMENTWISE
                assert inner.output.shape == heads[0].output.shape
                behind.add(inner)
        assert not heads or node.body.outputs[0].producer in behind
    assert all(value.users or value in graph.outputs for node in graph.nodes for value in node.outputs)


# Doubts --------------------------------------------------------------------------------------------------------

SHUFFLE = (
    "graph @main(%x: f32[1,2,3,3,4], %w: f32[2,3,1,1,4]) {"
    "%u = unblock(%x) {channels=6, groups=2} : f32[1,6,3,3] "
    "%s = reshape(%u) {shape=(1, 2, 3, 3, 3)} : f32[1,2,3,3,3] "
    "%t = transpose(%s) {perm=(0, 2, 1, 3, 4)} : f32[1,3,2,3,3] "
    "%p = reshape(%t) {shape=(1, 6, 3, 3)} : f32[1,6,3,3] "
    "%c = conv_blocked(%p, %w) {strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=2} : f32[1,2,3,3,4] "
    "%r = relu(%c) : f32[1,2,3,3,4] return %r }"
)
MOVED_PRODUCT = (
    "graph @main(%x: f32[8,4], %y: f32[8,8], %b: f32[8,4]) {"
    f"%1 = {TURN.format('%x')} : {T} %2 = matmul(%1, %y) : {T} %3 = relu(%2) : {T} "
    f"%4 = {TURN.format('%b')} : {T} %5 = add(%3, %4) : {T} return %5 }}"
)
ATTENTION = (
    "graph @main(%q: f32[1,2,4,8], %k: f32[1,2,4,8], %v: f32[1,2,4,8]) {"
    f"%0 = {TURN_HEADS.format('q')} %1 = {TURN_HEADS.format('k')} %2 = {TURN_HEADS.format('v')} "
    f"%3 = attention(%0, %1, %2) {{scale=0.5}} : {Q} %4 = relu(%3) : {Q} return %4 }}"
)
CHAIN = (
    f"graph @main(%x: f32[8,4], %y: {T}, %s: f32[4]) {{ %0 = exp(%x) : f32[8,4] %1 = {TURN.format('%0')} : {T} "
    f"%2 = add(%1, %y) : {T} %3 = {TURN.format('%2')} : f32[8,4] "
    "%4 = rms_norm(%3, %s) {axis=1} : f32[8,4] return %4 }"
)
NO_DOUBT = (
    f"graph @main(%x: {T}, %y: {T}, %w: f32[8,8]) {{ %0 = exp(%y) : {T} {MM} %1 = add(%m, %0) : {T} "
    f"%2 = mul(%1, %y) : {T} %3 = softmax(%2) {{axis=1}} : {T} %4 = neg(%3) : {T} return %4 }}"
)


class Judge:
    """Gives its answers in turn, the last for ever; remembers the ways among which it was asked to choose."""

    def __init__(self, *answers: int):
        self.answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, ways: Sequence[Sequence[Graph]]) -> int:
        for body in (body for way in ways for body in way):
            verify(body)
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append([" ".join("+".join(n.op for n in body.nodes) for body in way) for way in ways])
        return min(answer, len(ways) - 1)


@pytest.mark.parametrize(
    ("text", "answers", "groups", "asked"),
    [
        (
            MOVED_PRODUCT, [0], "transpose+matmul+relu+transpose+add",
            [
                ["transpose+matmul+relu+add", "transpose matmul+relu+add"],
                ["transpose+matmul+relu+transpose+add", "transpose transpose+matmul+relu+add"],
            ],
        ),
        (
            MOVED_PRODUCT, [1, 0], "transpose matmul+relu+transpose+add",
            [
                ["transpose+matmul+relu+add", "transpose matmul+relu+add"],
                ["matmul+relu+transpose+add", "transpose matmul+relu+add"],
            ],
        ),
        (
            SHUFFLE, [1], "unblock reshape transpose reshape conv_blocked+relu",
            [
                [
                    "unblock+reshape+transpose+reshape+conv_blocked+relu",
                    "unblock transpose+reshape+conv_blocked+relu",
                    "unblock+reshape+transpose conv_blocked+relu",
                ],
                ["transpose+reshape+conv_blocked+relu", "transpose conv_blocked+relu"],
            ],
        ),
        (SHUFFLE, [2], "unblock+reshape+transpose reshape conv_blocked+relu", None),
        (ATTENTION, [0, 1, 0], "transpose transpose+transpose+attention+relu", None),
        (
            CHAIN, [0], "exp+transpose+add+transpose+rms_norm",
            [
                [
                    "exp+transpose+add+transpose+rms_norm", "exp transpose+add+transpose+rms_norm",
                    "exp+transpose add+transpose+rms_norm", "exp+transpose+add transpose+rms_norm",
                    "exp+transpose+add+transpose rms_norm",
                ],
            ],
        ),
        (CHAIN, [2, 0], "exp+transpose add+transpose+rms_norm", None),
        (CHAIN, [4], "exp+transpose+add+transpose rms_norm", None),
        (CHAIN, [1], "exp transpose add transpose rms_norm", None),
        (NO_DOUBT, [1], "exp+matmul+add+mul softmax+neg", []),
    ],
)  # fmt: skip
def test_a_target_decides_what_is_in_doubt(text, answers, groups, asked, transforms):
    judge = Judge(*answers)
    graph = transforms([FuseGroups(judge)], text)
    assert described(graph) == groups
    assert asked is None or judge.asked == asked
    check_groups(graph)


# What goes into a body -----------------------------------------------------------------------------------------


def body_of(text: str) -> Graph:
    graph = parse_graph(text)
    run_passes(graph, [FuseGroups()])
    (node,) = graph.nodes
    assert node.body is not None
    return node.body


def test_numbers_go_into_the_body():
    body = body_of(
        f"graph @main(%x: {T}) {{ %a = constant 2.0 : f32[] %b = constant splat 3.0 : f32[8] "
        "%c = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] : f32[8] "
        f"%0 = add(%x, %a) : {T} %1 = mul(%0, %b) : {T} %2 = add(%1, %c) : {T} return %2 }}"
    )
    assert [str(v.type) for v in body.inputs] == [T, "f32[8]"]
    assert [v.constant.splat for v in body.constants()] == [2, 3]


def test_anchors_and_reductions_read_memory():
    body = body_of(
        f"graph @main(%x: {T}) {{ %w = constant splat 0.5 : f32[8,8] %s = constant splat 2.0 : f32[4,8] "
        f"%0 = matmul(%x, %w) : {T} %1 = mul(%0, %s) : {T} return %1 }}"
    )
    assert [str(v.type) for v in body.inputs] == [T, "f32[8,8]"]
    body = body_of(
        "graph @main(%x: f32[3,2,1]) { %w = constant 0.5 : f32[1,1,1] %0 = matmul(%x, %w) : f32[3,2,1] return %0 }"
    )
    assert len(body.inputs) == 2
    body = body_of(
        f"graph @main(%x: {T}) {{ %s = constant splat 2.0 : f32[8] %0 = rms_norm(%x, %s) {{axis=1}} : {T} "
        f"%1 = mul(%0, %s) : {T} return %1 }}"
    )
    assert len(body.inputs) == 2


def test_an_input_read_twice_is_one_input():
    body = body_of(f"graph @main(%x: {T}) {{ %0 = exp(%x) : {T} %1 = mul(%0, %x) : {T} return %1 }}")
    assert len(body.inputs) == 1


def test_equal_groups_have_equal_bodies():
    graph = parse_graph(
        f"graph @main(%x: {T}) {{ %0 = exp(%x) : {T} %m = reduce_max(%0) {{axes=(1,)}} : {ROW} %1 = sub(%0, %m) : {T} "
        f"%2 = exp(%1) : {T} %n = reduce_max(%2) {{axes=(1,)}} : {ROW} %3 = sub(%2, %n) : {T} return %3 }}"
    )
    run_passes(graph, [FuseGroups()])
    assert described(graph) == "exp reduce_max sub+exp reduce_max sub"


# Size ----------------------------------------------------------------------------------------------------------


def chain(length: int) -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (4, 8)))
    for number in range(length):
        x = graph.add("tanh" if number % 2 else "neg", [x])
    graph.outputs = [x]
    return graph


def dense_blocks(nodes: int) -> Graph:
    """Layers that read all the layers before them, in blocks of 60 as no DenseNet has them."""
    graph = Graph()
    parts = [graph.add_input("x", TensorType("float32", (1, 4, 8, 8)))]
    w = graph.constant(np.ones((4, 4, 1, 1), np.float32))
    while len(graph.nodes) < nodes:
        joined = graph.add("concat", parts, {"axis": 1})
        x = graph.add("reduce_max", [graph.add("relu", [joined])], {"axes": (1,)})
        x = graph.add("tanh", [graph.add("add", [x, parts[0]])])
        conv = graph.add("conv", [x, w], {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)})
        parts = [*(parts if len(parts) < 60 else ()), graph.add("relu", [conv])]
    graph.outputs = [graph.add("concat", parts, {"axis": 1})]
    return graph


@pytest.mark.parametrize("make", [chain, dense_blocks])
def test_2000_nodes_fuse_in_less_than_a_second(make):
    graph = make(2000)
    start = time.process_time()
    FuseGroups().run(graph)
    assert time.process_time() - start < 1
    check_groups(graph)


def test_groups_stay_small_enough_to_compile():
    graph = chain(500)
    run_passes(graph, [FuseGroups()])
    assert max(len(node.body.nodes) for node in graph.nodes) <= 48
    assert len(graph.nodes) == math.ceil(500 / 48)


# Random graphs -------------------------------------------------------------------------------------------------

_SHAPES = ((4, 4), (2, 2, 4), (4, 1), (1, 4), (16,), (4,), (8, 2))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """All kinds of nodes over a few shapes, so that values meet; float64, so that only mistakes show."""
    graph = Graph()
    pool = [graph.add_input(f"x{i}", TensorType("float64", draw(st.sampled_from(_SHAPES[:4])))) for i in range(3)]
    for _ in range(draw(st.integers(1, 25))):
        x = draw(st.sampled_from([value for value in pool[-6:] if value.shape] or pool[:1]))
        step = draw(st.sampled_from([_unary, _unary, _meet, _meet, _meet, _constant, _move, _reduce, _product, _join]))
        pool.append(step(draw, graph, x, pool))
    computed = [value for value in pool if value.producer is not None] or pool
    graph.outputs = [computed[-1], *draw(st.lists(st.sampled_from(computed), max_size=2))]
    graph.remove_dead()
    return graph


def _unary(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value]) -> Value:
    return graph.add(draw(st.sampled_from(["neg", "tanh", "relu", "sigmoid"])), [x])


def _meet(draw: st.DrawFn, graph: Graph, x: Value, pool: list[Value]) -> Value:
    fitting = [
        v for v in pool if all(a == b or 1 in (a, b) for a, b in zip(v.shape[::-1], x.shape[::-1], strict=False))
    ]
    pair = [x, draw(st.sampled_from(fitting[-6:]))]
    return graph.add(draw(st.sampled_from(["add", "sub", "mul", "max"])), pair[:: draw(st.sampled_from([1, -1]))])


def _constant(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value]) -> Value:
    shape = draw(st.sampled_from([(), x.shape, x.shape[-1:]]))
    data = Constant.full(TensorType("float64", shape), 0.5)
    if draw(st.booleans()):
        data = Constant.of(np.linspace(-1, 1, math.prod(shape)).reshape(shape))
    return graph.add("add", [x, graph.add_constant(data)])


def _move(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value]) -> Value:
    op = draw(st.sampled_from(["transpose", "reshape", "slice", "expand", "gather", "pad"]))
    rank = x.type.rank
    if op == "transpose":
        return graph.add(op, [x], {"perm": tuple(draw(st.permutations(range(rank))))})
    if op == "reshape":
        fitting = [shape for shape in _SHAPES if math.prod(shape) == x.type.size] or [(x.type.size,)]
        return graph.add(op, [x], {"shape": draw(st.sampled_from(fitting))})
    if op == "expand":
        return graph.add(op, [x], {"shape": draw(st.sampled_from([x.shape, (2, *x.shape)]))})
    if op == "gather":
        return graph.add(op, [x, graph.constant(np.asarray([0, -1]))], {"axis": 0})
    if op == "pad":
        return graph.add(op, [x], {"before": (1,) + (0,) * (rank - 1), "after": (0,) * rank})
    return graph.add(op, [x], {"starts": (0,) * rank, "sizes": (1, *x.shape[1:]), "steps": (1,) * rank})


def _reduce(draw: st.DrawFn, graph: Graph, x: Value, pool: list[Value]) -> Value:
    axis = draw(st.integers(0, x.type.rank - 1))
    op = draw(st.sampled_from(["softmax", "reduce_max", "reduce_mean", "rms_norm"]))
    if op == "softmax":
        return graph.add(op, [x], {"axis": axis})
    if op == "rms_norm":
        scales = [v for v in pool if v.shape == x.shape[axis:]]
        return graph.add(op, [x, draw(st.sampled_from(scales))], {"axis": axis}) if scales else x
    return graph.add(op, [x], {"axes": (axis,), "keepdims": draw(st.integers(0, 1))})


def _product(draw: st.DrawFn, graph: Graph, x: Value, pool: list[Value]) -> Value:
    fitting = [v for v in pool if x.type.rank == v.type.rank == 2 and v.shape[0] == x.shape[1]]
    return graph.add("matmul", [x, draw(st.sampled_from(fitting))]) if fitting else x


def _join(draw: st.DrawFn, graph: Graph, x: Value, pool: list[Value]) -> Value:
    other = draw(st.sampled_from([v for v in pool if v.shape == x.shape]))
    return graph.add("concat", [x, other], {"axis": draw(st.integers(0, x.type.rank - 1))})


@settings(max_examples=200, deadline=None)
@given(graphs(), st.sampled_from([(0,), (1,), (2,), (0, 1), (1, 0), (3, 0, 2, 1)]))
def test_random_graphs(graph, answers):
    original = clone(graph)
    kept = [node.op for node in graph.nodes if is_view(node)]
    run_passes(graph, [FuseGroups(Judge(*answers))])
    check_groups(graph)
    bodies = [inner.op for node in graph.nodes for inner in (node.body.nodes if node.body else [node])]
    assert sorted(bodies) == sorted(node.op for node in original.nodes)
    assert len([node for node in graph.nodes if node.body is None]) <= len(kept)
    run_passes(graph, [InsertCopies()])
    rng = np.random.default_rng(4)
    arrays = {value.name: rng.standard_normal(value.shape) for value in graph.inputs}
    for want, got in zip(evaluate(original, arrays), evaluate(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    assert all(node.body is not None or is_view(node) for node in graph.nodes)
