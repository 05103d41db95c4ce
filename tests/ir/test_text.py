"""The text form: it parses back to the same graph, and says where a text is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorc.errors import IRError
from tensorc.ir import Constant, Graph, TensorType, Value, evaluate, parse_graph, print_graph, verify
from tensorc.ir.types import DTYPES, numpy_dtype

# Random graphs ----------------------------------------------------------------------------------------------

Draw = Callable[[st.SearchStrategy], object]
NAMES = st.text("abcxyz019_./-", min_size=1, max_size=6)
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
LABELS = st.text(min_size=1, max_size=8)


@st.composite
def graphs(draw, depth: int = 1) -> Graph:  # type: ignore[no-untyped-def]
    graph = Graph(draw(LABELS))
    pool = [graph.add_input(draw(NAMES), TensorType("float32", draw(SHAPES))) for _ in range(draw(st.integers(1, 2)))]
    for _ in range(draw(st.integers(1, 6))):
        x = draw(st.sampled_from(pool))
        step = draw(
            st.sampled_from(["unary", "binary", "constant", "reshape", "transpose", "slice", "reduce", "group"])
        )
        pool.append(_grow(draw, graph, pool, x, step, depth))
    graph.outputs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
    graph.remove_dead()
    return graph


def _grow(draw: Draw, graph: Graph, pool: list[Value], x: Value, step: str, depth: int) -> Value:
    name = str(draw(NAMES))
    rank = len(x.shape)
    if step == "binary":
        other = draw(st.sampled_from([v for v in pool if v.type == x.type]))
        return graph.add(str(draw(st.sampled_from(["add", "mul", "max"]))), [x, other], name=name)
    if step == "constant":
        return graph.add("add", [x, graph.add_constant(_constant(draw, x.type), name)], name=name)
    if step == "reshape":
        return graph.add("reshape", [x], {"shape": (1, x.type.size)}, name=name)
    if step == "transpose":
        return graph.add("transpose", [x], {"perm": draw(st.permutations(range(rank)))}, name=name)
    if step == "slice":
        attrs = {"starts": (0,) * rank, "sizes": x.shape, "steps": (1,) * rank}
        return graph.add("slice", [x], attrs, name=name)
    if step == "reduce" and rank:
        return graph.add("reduce_max", [x], {"axes": [0], "keepdims": draw(st.integers(0, 1))}, name=name)
    if step == "group" and depth:
        body = Graph("body")
        inner = body.add_input("p", x.type)
        body.outputs = [body.add("add", [inner, body.constant(1.5, "float32")])]
        return graph.add("group", [x], body=body, name=name)
    low = draw(st.floats(-2, 0) | st.just(-np.inf))
    return graph.add("clip", [x], {"min": low, "max": 1}, name=name)


def _constant(draw: Draw, type: TensorType) -> Constant:
    finite = st.floats(width=32, allow_nan=False)
    if draw(st.booleans()):
        return Constant.full(type, draw(finite))
    items = draw(st.lists(finite, min_size=type.size, max_size=type.size))
    return Constant.of(np.array(items, dtype=np.float32).reshape(type.shape), label=str(draw(LABELS)))


@settings(max_examples=150, deadline=None)
@given(graphs(), st.randoms())
def test_random_graphs_parse_back(graph: Graph, random) -> None:  # type: ignore[no-untyped-def]
    verify(graph)
    text = print_graph(graph)
    data = {v.constant.label or v.name: v.constant.numpy() for v in graph.constants() if v.constant is not None}
    labels = [v.constant.label or v.name for v in graph.constants() if v.constant is not None and v.type.size > 16]
    if len(set(labels)) < len(labels):
        return  # two weights by one name cannot be told apart in the text
    parsed = parse_graph(text, data)
    verify(parsed)
    assert print_graph(parsed) == text
    feed = {
        v.name: np.array([random.uniform(-1, 1) for _ in range(v.type.size)], "f4").reshape(v.shape)
        for v in graph.inputs
    }
    for got, want in zip(evaluate(parsed, feed), evaluate(graph, feed), strict=True):
        np.testing.assert_array_equal(got, want)


# Single things ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_constants_of_every_element_type(dtype: str) -> None:
    graph = Graph()
    graph.outputs = [
        graph.add_constant(Constant.of(np.array([[0, 1, 3]]).astype(numpy_dtype(dtype)))),
        graph.add_constant(Constant.full(TensorType(dtype, (100,)), 1)),
        graph.constant(1, dtype),
        graph.add_constant(Constant.of(np.empty((0, 2), numpy_dtype(dtype)))),
    ]
    parsed = parse_graph(str(graph))
    assert str(parsed) == str(graph)
    for got, want in zip(evaluate(parsed, {}), evaluate(graph, {}), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))


def test_extreme_numbers() -> None:
    graph = Graph()
    floats = np.array([np.inf, -np.inf, np.nan, 1e-45, -0.0, 0.1], dtype=np.float32)
    integers = np.array([2**63 - 1, -(2**63)], dtype=np.int64)
    graph.outputs = [graph.constant(floats), graph.constant(integers), graph.constant(np.float32(np.nan))]
    for got, want in zip(evaluate(parse_graph(str(graph)), {}), [floats, integers, np.float32(np.nan)], strict=True):
        np.testing.assert_array_equal(got, want)


def test_symbolic_shapes() -> None:
    text = """graph @main(%x: f32[batch,2*n+2,3], %y: f32[floor(n/2),Max(a,b)]) {
  %z = reshape(%x) {shape=('batch', '6*n + 6')} : f32[batch,6*n+6]
  return %z, %y
}"""
    assert str(parse_graph(text)) == text


def test_large_constants_stand_by_label() -> None:
    weight = np.arange(100, dtype=np.float32)
    graph = Graph('odd "name"')
    graph.outputs = [graph.add_constant(Constant.of(weight, label='conv "1"\\weight'))]
    text = str(graph)
    (got,) = evaluate(parse_graph(text, {'conv "1"\\weight': weight}), {})
    np.testing.assert_array_equal(got, weight)
    with pytest.raises(IRError, match="was not given when the text was parsed"):
        evaluate(parse_graph(text), {})


def test_names_stay_as_written() -> None:
    text = """graph @main(%v: f32[2]) {
  %v.1 = relu(%v) : f32[2]
  %0 = neg(%v.1) : f32[2]
  return %0
}"""
    assert str(parse_graph(text)) == text


def test_comments_are_skipped() -> None:
    assert parse_graph("graph @g() { # nothing\n  # at all\n return }\n# end\n").name == "g"


# Wrong texts ------------------------------------------------------------------------------------------------


def one(statement: str) -> str:
    return f"graph @main(%x: f32[2,3]) {{\n  {statement}\n  return %x\n}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (one("%y = relu(%z) : f32[2,3]"), "line 2: no such value: '%z"),
        (one("%y = frobnicate(%x) : f32[2,3]"), "line 2: unknown op: 'frobnicate"),
        (one("%x = relu(%x) : f32[2,3]"), "line 2: defined before: '%x"),
        (one("%y, %y = relu(%x) : f32[2,3]"), "line 2: defined before: '%y"),
        (one("%y, %z = relu(%x) : f32[2,3]"), "relu gives 1 values, the text names 2"),
        (one("%y = relu(%x) : f32[3,2]"), r"relu gives f32\[2,3\], the text says f32\[3,2\]"),
        (one("%y = relu(%x) : f33[2,3]"), "line 2: unknown element type; known: f64, f32"),
        (one("%y = relu(%x, %x) : f32[2,3]"), "relu takes 1 inputs, not 2"),
        (one("%y = softmax(%x) : f32[2,3]"), "softmax needs the attribute 'axis'"),
        (one("%y = relu(%x) {slope=1} : f32[2,3]"), r"relu has no attribute \['slope'\]"),
        (one("%y = softmax(%x) {axis=two} : f32[2,3]"), "line 2: no literal: 'two"),
        (one("%y = softmax(%x) {axis=2} : f32[2,3]"), r"axis 2 is not an axis of f32\[2,3\]"),
        (one("%c = constant [1, 2] : f32[3]"), r"2 elements do not make a f32\[3\]"),
        (one('%y = relu(%x) : f32["os",3]'), "line 2: no dimension: '\"os"),
        (one("%y = relu(%x) : f32[a.b+1,3]"), "line 2: no dimension: 'a.b"),
        (one("%y = relu(%x) : f32[(,3]"), "not closed|no dimension"),
        (one("%y = relu(%x) : f32[2,3"), "expected|not closed"),
        (one("%y = relu %x"), "line 2: expected '\\('"),
        (one("%y ! relu"), "line 2: unexpected character: '! relu"),
        (one("") + " more", "text after the graph"),
        ("graph @main() { return", "expected"),
        ("", "expected 'graph'"),
    ],
)
def test_a_wrong_text_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(IRError, match=message):
        parse_graph(text)
