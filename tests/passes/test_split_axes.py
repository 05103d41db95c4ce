"""Slices behind the views that split what they slice."""

from __future__ import annotations

import numpy as np
import pytest

from passes.fusion import FuseGroups
from passes.split_axes import SplitAxes
from tensorc.ir import evaluate, parse_graph
from tensorc.pipeline import run_passes


def split(start, sizes, shape, step=1, whole=(2, 5, 24)):
    result = f"f32[{','.join(map(str, shape))}]"
    text = f"""graph @g(%x: f32[{",".join(map(str, whole))}]) {{
      %a = slice(%x) {{starts=(0, 1, {start}), sizes={sizes}, steps=(1, 1, {step})}} : f32[{",".join(map(str, sizes))}]
      %b = reshape(%a) {{shape={shape}}} : {result}
      %c = relu(%b) : {result}
      return %c
    }}"""
    before, graph = parse_graph(text), parse_graph(text)
    run_passes(graph, [SplitAxes()])
    x = np.arange(np.prod(whole), dtype=np.float32).reshape(whole) - 100
    np.testing.assert_array_equal(evaluate(graph, {"x": x})[0], evaluate(before, {"x": x})[0])
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize(("start", "sizes", "shape"), [
    (8, (2, 4, 8), (2, 4, 2, 4)), (0, (2, 3, 16), (2, 3, 4, 4)), (16, (2, 4, 8), (2, 4, 1, 2, 4)),
])  # fmt: skip
def test_what_is_split_first(start, sizes, shape):
    assert split(start, sizes, shape) == ["reshape", "slice", "relu"]


@pytest.mark.parametrize(("start", "sizes", "shape", "step"), [
    (6, (2, 4, 8), (2, 4, 2, 4), 1),  # begins within a part
    (0, (2, 4, 8), (2, 4, 2, 4), 2),  # every second
    (0, (2, 4, 8), (8, 2, 4), 1),  # another axis changes
    (0, (2, 4, 10), (2, 4, 2, 5), 1),  # the whole has no such parts
])  # fmt: skip
def test_what_is_not(start, sizes, shape, step):
    assert split(start, sizes, shape, step) == ["slice", "reshape", "relu"]


def test_attention_reads_the_columns_of_one_product():
    parts = "\n".join(
        f"""%{name} = slice(%x) {{starts=(0, 0, {32 * i}), sizes=(2, 9, 32), steps=(1, 1, 1)}} : f32[2,9,32]
        %{name}h = reshape(%{name}) {{shape=(2, 9, 2, 16)}} : f32[2,9,2,16]"""
        for i, name in enumerate("qkv")
    )
    text = f"""graph @g(%x: f32[2,9,96]) {{
      {parts}
      %a = attention(%qh, %kh, %vh) {{scale=0.25}} : f32[2,9,2,16]
      return %a
    }}"""
    graph = parse_graph(text)
    run_passes(graph, [SplitAxes(), FuseGroups()])
    (group,) = [node for node in graph.nodes if node.body is not None]
    assert sorted(node.op for node in group.body.nodes) == ["attention", "slice", "slice", "slice"]
