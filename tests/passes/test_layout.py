"""Layouts: each rule before and after; fillers that stay finite; random networks that keep their meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.layout import BlockLayout, PackMatmulWeights
from tensorc.ir import Constant, Graph, TensorType, Value, clone, evaluate, parse_graph
from tensorc.pipeline import Pass, run_passes

_WEIGHT = re.compile(r'constant @"(\w+)" : f32\[([\d,]+)\]')


def weights(text: str) -> dict[str, np.ndarray]:
    """Seeded data for every `constant @"name"` in `text`."""
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal([int(extent) for extent in shape.split(",")]).astype(np.float32)
        for name, shape in _WEIGHT.findall(text)
    }


def conv(x: str, w: str, shape: str, groups: int = 1, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)) -> str:
    return (
        f"conv(%{x}, %{w}) {{strides={strides}, pads={pads}, dilations={dilations}, groups={groups}}} : f32[{shape}] "
    )


def blocked(x: str, w: str, shape: str, groups: int = 1, depthwise: int = 0, strides=(1, 1), pads=(0, 0, 0, 0),
            dilations=(1, 1)) -> str:  # fmt: skip
    return (
        f"conv_blocked(%{x}, %{w}) {{strides={strides}, pads={pads}, dilations={dilations}, groups={groups}, "
        f"depthwise={depthwise}}} : f32[{shape}] "
    )


POOL = "{kernel=(2, 2), strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)}"
X8 = "%x: f32[1,8,3,3]"
BX = "%v = block(%x) {block=4} : f32[1,2,3,3,4] "
#: A convolution that gives %0 in channels that fill their blocks (8) or do not (6), as it was and as it becomes.
W8, W6 = '%w = constant @"w" : f32[8,8,1,1] ', '%w = constant @"w" : f32[6,8,1,1] '
C8, C6 = f"{W8} %0 = {conv('x', 'w', '1,8,3,3')}", f"{W6} %0 = {conv('x', 'w', '1,6,3,3')}"
B8 = B6 = f'%w = constant @"w" : f32[2,8,1,1,4] {BX} %0 = {blocked("v", "w", "1,2,3,3,4")}'
T8, T6, TB = "f32[1,8,3,3]", "f32[1,6,3,3]", "f32[1,2,3,3,4]"


def unblock(x: str, shape: str, channels: int, groups: int = 1) -> str:
    return f"%u = unblock(%{x}) {{channels={channels}, groups={groups}}} : f32[{shape}] return %u"


#: name -> inputs, the graph before, the graph after; in blocks of 4.
CASES = {
    "convolution": (
        "%x: f32[2,8,3,3]",
        '%w = constant @"w" : f32[5,8,3,3] %0 = '
        + conv("x", "w", "2,5,2,1", strides=(2, 1), pads=(1, 1, 1, 1), dilations=(1, 2)) + "return %0",
        '%w = constant @"w" : f32[2,8,3,3,4] %v = block(%x) {block=4} : f32[2,2,3,3,4] %1 = '
        + blocked("v", "w", "2,2,2,1,4", strides=(2, 1), pads=(1, 1, 1, 1), dilations=(1, 2))
        + unblock("1", "2,5,2,1", 5),
    ),
    "the first convolution reads plain images": (
        "%x: f32[1,3,3,3]",
        f'%w = constant @"w" : f32[8,3,1,1] %0 = {conv("x", "w", "1,8,3,3")} return %0',
        f'%w = constant @"w" : f32[2,3,1,1,4] %0 = {blocked("x", "w", "1,2,3,3,4")} {unblock("0", "1,8,3,3", 8)}',
    ),
    "depthwise": (
        "%x: f32[1,6,3,3]",
        f'%w = constant @"w" : f32[6,1,3,3] %0 = {conv("x", "w", "1,6,3,3", 6, pads=(1, 1, 1, 1))} return %0',
        f'%w = constant @"w" : f32[2,1,3,3,4] {BX} '
        f'%0 = {blocked("v", "w", "1,2,3,3,4", 8, 1, pads=(1, 1, 1, 1))} {unblock("0", "1,6,3,3", 6)}',
    ),
    "groups that fill their blocks": (
        X8,
        f'%w = constant @"w" : f32[16,4,1,1] %0 = {conv("x", "w", "1,16,3,3", 2)} return %0',
        f'%w = constant @"w" : f32[4,4,1,1,4] {BX} %0 = {blocked("v", "w", "1,4,3,3,4", 2)}'
        + unblock("0", "1,16,3,3", 16),
    ),
    "groups that do not fill their blocks are read plain": (
        "%x: f32[1,10,3,3]",
        f'%w = constant @"w" : f32[12,5,1,1] %0 = {conv("x", "w", "1,12,3,3", 2)} return %0',
        '%w = constant @"w" : f32[4,5,1,1,4] '
        f'%0 = {blocked("x", "w", "1,4,3,3,4", 2)} {unblock("0", "1,12,3,3", 12, 2)}',
    ),
    "depthwise in the blocks that there are": (
        "%x: f32[1,10,3,3]",
        f'%w = constant @"w" : f32[12,5,1,1] %0 = {conv("x", "w", "1,12,3,3", 2)} '
        f'%d = constant @"d" : f32[12,1,2,2] %1 = {conv("0", "d", "1,12,2,2", 12)} return %1',
        '%w = constant @"w" : f32[4,5,1,1,4] '
        f'%0 = {blocked("x", "w", "1,4,3,3,4", 2)} %d = constant @"d" : f32[4,1,2,2,4] '
        f'%1 = {blocked("0", "d", "1,4,2,2,4", 16, 1)} {unblock("1", "1,12,2,2", 12, 2)}',
    ),
    "a shuffle of channels sinks below what takes channels one by one": (
        X8,
        "%5 = reshape(%x) {shape=(1, 2, 4, 3, 3)} : f32[1,2,4,3,3] "
        "%6 = transpose(%5) {perm=(0, 2, 1, 3, 4)} : f32[1,4,2,3,3] "
        "%7 = reshape(%6) {shape=(1, 8, 3, 3)} : f32[1,8,3,3] "
        f'%d = constant @"d" : f32[8,1,2,2] %1 = {conv("7", "d", "1,8,2,2", 8)} '
        "%3 = relu(%1) : f32[1,8,2,2] return %3",
        f'{BX} %d = constant @"d" : f32[2,1,2,2,4] %1 = {blocked("v", "d", "1,2,2,2,4", 8, 1)} '
        "%3 = relu(%1) : f32[1,2,2,2,4] "
        "%4 = unblock(%3) {channels=8} : f32[1,8,2,2] %5 = reshape(%4) {shape=(1, 2, 4, 2, 2)} : f32[1,2,4,2,2] "
        "%6 = transpose(%5) {perm=(0, 2, 1, 3, 4)} : f32[1,4,2,2,2] "
        "%7 = reshape(%6) {shape=(1, 8, 2, 2)} : f32[1,8,2,2] return %7",
    ),
    "narrow groups share a block": (
        X8,
        f'%w = constant @"w" : f32[16,2,1,1] %0 = {conv("x", "w", "1,16,3,3", 4)} return %0',
        f'%w = constant @"w" : f32[4,4,1,1,4] {BX} %0 = {blocked("v", "w", "1,4,3,3,4", 2)}'
        + unblock("0", "1,16,3,3", 16),
    ),
    "several results of each channel": (
        "%x: f32[1,4,3,3]",
        f'%w = constant @"w" : f32[8,1,1,1] %0 = {conv("x", "w", "1,8,3,3", 4)} return %0',
        '%w = constant @"w" : f32[2,4,1,1,4] %v = block(%x) {block=4} : f32[1,1,3,3,4] '
        f'%0 = {blocked("v", "w", "1,2,3,3,4")} {unblock("0", "1,8,3,3", 8)}',
    ),
    "one axis": (
        "%x: f32[1,8,6]",
        '%w = constant @"w" : f32[8,8,3] '
        "%0 = conv(%x, %w) {strides=(2,), pads=(1, 0), dilations=(1,)} : f32[1,8,3] return %0",
        '%w = constant @"w" : f32[2,8,1,3,4] %i = reshape(%x) {shape=(1, 8, 1, 6)} : f32[1,8,1,6] '
        "%v = block(%i) {block=4} : f32[1,2,1,6,4] "
        f'%0 = {blocked("v", "w", "1,2,1,3,4", strides=(1, 2), pads=(0, 1, 0, 0))} '
        "%u = unblock(%0) {channels=8} : f32[1,8,1,3] %r = reshape(%u) {shape=(1, 8, 3)} : f32[1,8,3] return %r",
    ),
    "through one operand": (
        X8, f"{C6} %1 = relu(%0) : {T6} return %1", f"{B6} %1 = relu(%0) : {TB} {unblock('1', '1,6,3,3', 6)}",
    ),
    "through numbers, biases and images": (
        f"{X8}, %y: {T6}",
        f"{C6} %k = constant 2.0 : f32[1,1] %b = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] : f32[6,1,1] "
        f"%1 = mul(%k, %0) : {T6} %2 = add(%1, %b) : {T6} %3 = sub(%y, %2) : {T6} return %3",
        f"{B6} %k = constant 2.0 : f32[] "
        "%b = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0] : f32[1,2,1,1,4] "
        f"%1 = mul(%k, %0) : {TB} %2 = add(%1, %b) : {TB} %y1 = block(%y) {{block=4}} : {TB} "
        f"%3 = sub(%y1, %2) : {TB} {unblock('3', '1,6,3,3', 6)}",
    ),
    "through one map for all channels": (
        f"{X8}, %s: f32[3,3]",
        f"{C8} %1 = mul(%0, %s) : {T8} return %1",
        f"{B8} %s1 = reshape(%s) {{shape=(1, 1, 3, 3, 1)}} : f32[1,1,3,3,1] %1 = mul(%0, %s1) : {TB} "
        + unblock("1", "1,8,3,3", 8),
    ),
    "a vector of channels that is computed": (
        f"{X8}, %s: f32[8,1,1]",
        f"{C8} %1 = mul(%0, %s) : {T8} return %1",
        f"{B8} %s1 = reshape(%s) {{shape=(1, 8, 1, 1)}} : f32[1,8,1,1] "
        f"%s2 = reshape(%s1) {{shape=(1, 2, 1, 1, 4)}} : f32[1,2,1,1,4] %1 = mul(%0, %s2) : {TB} "
        + unblock("1", "1,8,3,3", 8),
    ),
    "not where the image is the smaller operand": (
        "%x: f32[1,8,1,1], %y: f32[1,6,3,3]",
        f"{W6} %0 = {conv('x', 'w', '1,6,1,1')} %1 = add(%y, %0) : {T6} return %1",
        '%w = constant @"w" : f32[2,8,1,1,4] %v = reshape(%x) {shape=(1, 2, 1, 1, 4)} : f32[1,2,1,1,4] '
        f"%0 = {blocked('v', 'w', '1,2,1,1,4')} %u = unblock(%0) {{channels=6}} : f32[1,6,1,1] "
        f"%1 = add(%y, %u) : {T6} return %1",
    ),
    "through pooling": (
        X8,
        f"{C6} %1 = max_pool(%0) {POOL} : f32[1,6,2,2] %2 = avg_pool(%1) {POOL} : f32[1,6,1,1] return %2",
        f"{B6} %1 = max_pool(%0) {POOL} : f32[1,2,2,2,4] %2 = avg_pool(%1) {POOL} : f32[1,2,1,1,4] "
        + unblock("2", "1,6,1,1", 6),
    ),
    "through sums over pixels": (
        X8,
        f"{C6} %1 = reduce_sum(%0) {{axes=(2,)}} : f32[1,6,1,3] return %1",
        f"{B6} %1 = reduce_sum(%0) {{axes=(2,)}} : f32[1,2,1,3,4] {unblock('1', '1,6,1,3', 6)}",
    ),
    "the mean of every channel is a view": (
        X8,
        f"{C8} %1 = reduce_mean(%0) {{axes=(2, 3), keepdims=0}} : f32[1,8] return %1",
        f"{B8} %1 = reduce_mean(%0) {{axes=(2, 3)}} : f32[1,2,1,1,4] "
        "%2 = reshape(%1) {shape=(1, 8, 1, 1)} : f32[1,8,1,1] %3 = reshape(%2) {shape=(1, 8)} : f32[1,8] return %3",
    ),
    "not through sums over channels": (
        X8,
        f"{C8} %1 = reduce_sum(%0) {{axes=(1,)}} : f32[1,1,3,3] return %1",
        f"{B8} %u = unblock(%0) {{channels=8}} : {T8} %1 = reduce_sum(%u) {{axes=(1,)}} : f32[1,1,3,3] return %1",
    ),
    "through joins of whole blocks": (
        f"{X8}, %y: f32[1,4,3,3]",
        f'{C8} %k = constant @"k" : f32[1,4,3,3] %1 = concat(%y, %0, %k) {{axis=1}} : f32[1,16,3,3] return %1',
        f'{B8} %k = constant @"k" : f32[1,1,3,3,4] %y1 = block(%y) {{block=4}} : f32[1,1,3,3,4] '
        f"%1 = concat(%y1, %0, %k) {{axis=1}} : f32[1,4,3,3,4] {unblock('1', '1,16,3,3', 16)}",
    ),
    "not through joins of blocks with fillers": (
        X8,
        f"{C6} %1 = concat(%0, %0) {{axis=1}} : f32[1,12,3,3] return %1",
        f"{B6} %u = unblock(%0) {{channels=6}} : {T6} %1 = concat(%u, %u) {{axis=1}} : f32[1,12,3,3] return %1",
    ),
    "not through joins of rows": (
        X8,
        f"{C8} %1 = concat(%0, %0) {{axis=2}} : f32[1,8,6,3] return %1",
        f"{B8} %u = unblock(%0) {{channels=8}} : {T8} %1 = concat(%u, %u) {{axis=2}} : f32[1,8,6,3] return %1",
    ),
    "the next convolution takes blocks as they are": (
        X8,
        f'{C6} %1 = relu(%0) : {T6} %p = constant @"p" : f32[8,6,1,1] %2 = {conv("1", "p", "1,8,3,3")} return %2',
        f'{B6} %p = constant @"p" : f32[2,8,1,1,4] %1 = relu(%0) : {TB} %2 = {blocked("1", "p", "1,2,3,3,4")}'
        + unblock("2", "1,8,3,3", 8),
    ),
    "another grouping is another layout": (
        X8,
        f'{C6} %p = constant @"p" : f32[10,3,1,1] %1 = {conv("0", "p", "1,10,3,3", 2)} return %1',
        f'{B6} %p = constant @"p" : f32[4,3,1,1,4] %a = unblock(%0) {{channels=6}} : {T6} '
        f"%1 = {blocked('a', 'p', '1,4,3,3,4', 2)}"
        + unblock("1", "1,10,3,3", 10, 2),
    ),
    "an image of one pixel is a view": (
        "%x: f32[2,8,1,1]",
        f'%w = constant @"w" : f32[4,8,1,1] %0 = {conv("x", "w", "2,4,1,1")} return %0',
        '%w = constant @"w" : f32[1,8,1,1,4] %v = reshape(%x) {shape=(2, 2, 1, 1, 4)} : f32[2,2,1,1,4] '
        f"%0 = {blocked('v', 'w', '2,1,1,1,4')} %u = reshape(%0) {{shape=(2, 4, 1, 1)}} : f32[2,4,1,1] return %u",
    ),
    "softmax runs along the last axis": (
        "%x: f32[2,3,4]",
        "%0 = softmax(%x) {axis=1} : f32[2,3,4] return %0",
        "%v = transpose(%x) {perm=(0, 2, 1)} : f32[2,4,3] %0 = softmax(%v) {axis=2} : f32[2,4,3] "
        "%1 = transpose(%0) {perm=(0, 2, 1)} : f32[2,3,4] return %1",
    ),
    "log softmax too": (
        "%x: f32[2,3,4]",
        "%0 = log_softmax(%x) {axis=0} : f32[2,3,4] return %0",
        "%v = transpose(%x) {perm=(2, 1, 0)} : f32[4,3,2] %0 = log_softmax(%v) {axis=2} : f32[4,3,2] "
        "%1 = transpose(%0) {perm=(2, 1, 0)} : f32[2,3,4] return %1",
    ),
    "an axis before axes of one is the last": (
        "%x: f32[2,3,1]",
        "%0 = softmax(%x) {axis=1} : f32[2,3,1] return %0",
        "%0 = softmax(%x) {axis=1} : f32[2,3,1] return %0",
    ),
}  # fmt: skip


@pytest.fixture
def rewrites(transforms):
    """rewrites(passes, before, after): as `becomes`, with weights made up for both, of which only the type counts."""

    def check(passes: Sequence[Pass], before: str, after: str) -> None:
        got = transforms(passes, before, weights(before))
        want = parse_graph(after, weights(after))
        assert skeleton(got) == skeleton(want)

    return check


def skeleton(graph: Graph) -> list[str]:
    """Each node as a line, values by number; what the constants hold is not told."""
    numbers: dict[Value, str] = {value: f"in{i}" for i, value in enumerate(graph.inputs)}

    def told(value: Value) -> str:
        if value.constant is None:
            return numbers[value]
        small = value.type.size <= 8
        return f"{value.type}" + (f" {value.constant.numpy().reshape(-1).tolist()}" if small else "")

    lines = []
    for node in graph.nodes:
        operands = ", ".join(told(value) for value in node.inputs)
        lines.append(f"{node.op}({operands}) {dict(sorted(node.attrs.items()))} : {node.output.type}")
        numbers[node.output] = f"%{len(numbers)}"
    return [*lines, f"return {', '.join(map(told, graph.outputs))}"]


@pytest.mark.parametrize("case", CASES)
def test_rule(case, rewrites):
    inputs, before, after = CASES[case]
    rewrites([BlockLayout(4)], f"graph @main({inputs}) {{ {before} }}", f"graph @main({inputs}) {{ {after} }}")


def conv_of(x: str, groups: int, weight: str, out: int) -> str:
    return f'%w = constant @"w" : f32[{weight}] %0 = {conv(x, "w", f"2,{out},3,3", groups)} return %0'


@pytest.mark.parametrize("block", [4, 8, 16])
@pytest.mark.parametrize(
    ("channels", "out", "groups"),
    [(8, 16, 1), (5, 7, 1), (6, 6, 6), (16, 16, 16), (10, 12, 2), (24, 24, 6), (32, 64, 8), (12, 36, 12), (34, 34, 2)],
)
def test_a_convolution_in_any_groups(block, channels, out, groups, transforms):
    text = (
        f"graph @main(%x: f32[2,{channels},3,3]) {{ {conv_of('x', groups, f'{out},{channels // groups},1,1', out)} }}"
    )
    graph = transforms([BlockLayout(block)], text, weights(text))
    assert "conv" not in {node.op for node in graph.nodes}


# Fillers -----------------------------------------------------------------------------------------------------

#: What stands between two convolutions of 6 channels, and the blocked operators it is left with. -inf would meet zero
#: weights, and so would the filler of a value that nobody knows.
BETWEEN = {
    "a finite filler": (f"%1 = sigmoid(%0) : {T6} %2 = exp(%1) : {T6}", ["sigmoid", "exp"]),
    "a logarithm of zero": (f"%1 = abs(%0) : {T6} %2 = log(%1) : {T6}", ["abs"]),
    "a logarithm of one": (
        f"%c = constant 1.0 : f32[] %a = abs(%0) : {T6} %1 = add(%a, %c) : {T6} %2 = log(%1) : {T6}",
        ["abs", "add", "log"],
    ),
    "a reciprocal": (f"%2 = reciprocal(%0) : {T6}", []),
    "a division by fillers": (
        f"%b = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] : f32[6,1,1] %2 = div(%0, %b) : {T6}", [],
    ),
    "an overflow": (
        f"%c = constant 89.0 : f32[] %1 = sub(%c, %0) : {T6} %2 = exp(%1) : {T6}", ["sub"],
    ),
    "a product of large numbers": (
        f"%c = constant 1e+20 : f32[] %1 = add(%0, %c) : {T6} %2 = mul(%1, %1) : {T6}", ["add"],
    ),
    "an infinite number": (f"%c = constant inf : f32[] %2 = min(%0, %c) : {T6}", ["min"]),
    "an infinite number that stays": (f"%c = constant inf : f32[] %2 = max(%0, %c) : {T6}", []),
    "a map of any numbers": (f"%2 = mul(%0, %s) : {T6}", []),
    "a pool of zeros": (f"%2 = avg_pool(%0) {POOL} : f32[1,6,2,2]", ["avg_pool"]),
    "a pool of others": (
        f"%1 = sigmoid(%0) : {T6} %m = max_pool(%1) {POOL} : f32[1,6,2,2] %q = avg_pool(%m) {POOL} : f32[1,6,1,1] "
        "%2 = log(%q) : f32[1,6,1,1]",
        ["sigmoid", "max_pool"],
    ),
    "a product of others": (
        f"%c = constant 1e+10 : f32[] %1 = add(%0, %c) : {T6} %2 = reduce_prod(%1) {{axes=(2,)}} : f32[1,6,1,3]",
        ["add"],
    ),
    "a comparison": (
        f"%c = constant 0.5 : f32[] %n = constant -inf : f32[] %1 = less(%0, %c) : bool[1,6,3,3] "
        f"%2 = where(%1, %0, %n) : {T6}",
        ["less", "where"],
    ),
    "whole numbers divided by none": (
        "%1 = cast(%0) {to='int32'} : i32[1,6,3,3] %c = constant 7 : i32[] %d = div(%c, %1) : i32[1,6,3,3] "
        f"%2 = cast(%d) {{to='float32'}} : {T6}",
        ["cast"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BETWEEN)
def test_fillers_stay_finite(case):
    between, sunk = BETWEEN[case]
    shape = re.findall(r"f32\[1,6,(\d,\d)\]", between)[-1]
    text = f"""graph @main({X8}, %s: f32[1,1,3,3]) {{ {C6} {between} %p = constant @"p" : f32[8,6,1,1]
      %4 = {conv("2", "p", f"1,8,{shape}")} return %4 }}"""
    graph = parse_graph(text, weights(text))
    original = clone(graph)
    run_passes(graph, [BlockLayout(4)])
    known = {"block", "conv_blocked", "reshape", "unblock"}
    assert [n.op for n in graph.nodes if len(n.output.shape) == 5 and n.op not in known] == sunk
    # A map of infinities is no way for the channels to be finite, but fillers have no part in it either.
    arrays = {"x": np.random.default_rng(5).standard_normal((1, 8, 3, 3)), "s": np.full((1, 1, 3, 3), 2.0)}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    (want,), (got,) = evaluate(original, arrays), evaluate(graph, arrays)
    np.testing.assert_allclose(
        got, want, rtol=1e-4, atol=1e-4 * np.nanmax(np.abs(want), where=np.isfinite(want), initial=1)
    )


# Matrix weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight", "transposed"), [("4,24", 0), ("24,4", 1)])
def test_packed_weights(weight, transposed, rewrites):
    """24 columns leave half of the last panel empty."""
    inputs = "graph @main(%x: f32[2,3,4]) {"
    rewrites(
        [PackMatmulWeights(16)],
        f'{inputs} %w = constant @"w" : f32[{weight}] '
        f"%0 = matmul(%x, %w) {{transpose_b={transposed}}} : f32[2,3,24] return %0 }}",
        f'{inputs} %w = constant @"w" : f32[2,4,16] '
        "%0 = matmul_packed(%x, %w) {columns=24} : f32[2,3,24] return %0 }",
    )


@pytest.mark.parametrize(
    "text",
    [
        "graph @main(%x: f32[2,4], %w: f32[4,3]) { %0 = matmul(%x, %w) : f32[2,3] return %0 }",
        'graph @main(%x: f32[2,4]) { %w = constant @"w" : f32[2,4,3] %0 = matmul(%x, %w) : f32[2,2,3] return %0 }',
    ],
)
def test_other_products_keep_their_weights(text, rewrites):
    rewrites([PackMatmulWeights(16)], text, text)


# Random networks ---------------------------------------------------------------------------------------------

_CHANNELS = (1, 3, 4, 6, 8, 12, 16, 20)


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Convolutions of any groups with what stands between them in networks; float64, so that only mistakes show."""
    graph = Graph()
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from(_CHANNELS)), 5, 4)
    pool = [graph.add_input("x", TensorType("float64", shape))]
    for _ in range(draw(st.integers(1, 9))):
        x = draw(st.sampled_from(pool[-3:]))
        pool.append(
            draw(st.sampled_from([_conv, _conv, _one, _constant, _two, _pool, _concat, _shuffle]))(
                draw, graph, x, pool, rng
            )
        )
    graph.outputs = [pool[-1], *draw(st.lists(st.sampled_from(pool[1:]), max_size=1))]
    graph.remove_dead()
    return graph


def _conv(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value], rng: np.random.Generator) -> Value:
    channels = x.shape[1]
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4, channels) if channels % g == 0]))
    each = draw(st.sampled_from([1, 2, 3, 4, 6]))
    out = channels if groups == channels and draw(st.booleans()) else groups * each
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 2)]))
    w = graph.constant(rng.standard_normal((out, channels // groups, *kernel)) * 0.5)
    stride = draw(st.sampled_from([1, 1, 2]))
    attrs = {"strides": (stride, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": groups}
    return graph.add("conv", [x, w], attrs)


def _one(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value], rng: np.random.Generator) -> Value:
    op = draw(st.sampled_from(["relu", "sigmoid", "exp", "reciprocal", "log", "tanh"]))
    if op in ("log", "reciprocal"):  # whose results are finite, but not of the zeros that a vector is filled up with
        x = graph.add("abs", [x])
        shape = draw(st.sampled_from([(), (x.shape[1], 1, 1)]))
        x = graph.add("add", [x, graph.constant(rng.uniform(0.5, 2, shape))])
    return graph.add(op, [graph.add("tanh", [x]) if op == "exp" else x])


def _shuffle(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value], _rng: np.random.Generator) -> Value:
    n, c, h, w = x.shape
    groups = draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
    split = graph.add("reshape", [x], {"shape": (n, groups, c // groups, h, w)})
    turned = graph.add("transpose", [split], {"perm": (0, 2, 1, 3, 4)})
    return graph.add("reshape", [turned], {"shape": (n, c, h, w)})


def _constant(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value], rng: np.random.Generator) -> Value:
    n, c, h, w = x.shape
    shape = draw(st.sampled_from([(), (c, 1, 1), (1, c, 1, 1), (h, w), (n, 1, 1, 1), (n, c, h, w), (1, h, 1)]))
    value = graph.add_constant(Constant.of(rng.uniform(0.5, 2, shape)))
    return graph.add(draw(st.sampled_from(["add", "mul", "div", "max"])), [x, value])


def _two(draw: st.DrawFn, graph: Graph, x: Value, pool: list[Value], _rng: np.random.Generator) -> Value:
    other = draw(st.sampled_from([value for value in pool if value.shape == x.shape]))
    if draw(st.booleans()):
        other = graph.add("reduce_mean", [other], {"axes": draw(st.sampled_from([(2, 3), (1,), (2,)]))})
    return graph.add(draw(st.sampled_from(["add", "mul", "sub"])), [x, other])


def _pool(draw: st.DrawFn, graph: Graph, x: Value, _pool: list[Value], _rng: np.random.Generator) -> Value:
    op = draw(st.sampled_from(["max_pool", "avg_pool"]))
    attrs = {"kernel": (2, 2), "strides": (1, 1), "pads": (1, 0, 0, 1), "dilations": (1, 1)}
    return graph.add(op, [x], attrs | ({"count_include_pad": draw(st.integers(0, 1))} if op == "avg_pool" else {}))


def _concat(draw: st.DrawFn, graph: Graph, x: Value, pool: list[Value], _rng: np.random.Generator) -> Value:
    fitting = [v for v in pool if v.shape[0] == x.shape[0] and v.shape[2:] == x.shape[2:]]
    return graph.add("concat", [x, draw(st.sampled_from(fitting))], {"axis": 1})


@settings(max_examples=120, deadline=None)
@given(networks(), st.sampled_from([4, 8, 16]))
def test_random_networks_mean_the_same(graph, block):
    original = clone(graph)
    run_passes(graph, [BlockLayout(block)])
    arrays = {value.name: np.random.default_rng(3).standard_normal(value.shape) for value in graph.inputs}
    for want, got in zip(evaluate(original, arrays), evaluate(graph, arrays), strict=True):
        # The floor is for what cancels: a difference of two equal means is 0 in one order and 1e-19 in another.
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=max(1e-8 * np.abs(want).max(), 1e-10))
