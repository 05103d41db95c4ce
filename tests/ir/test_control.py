"""Loops and branches in the IR: what they mean, as text, and what is no loop."""

from __future__ import annotations

import numpy as np
import pytest

from tensorc.errors import IRError
from tensorc.ir import clone, evaluate, parse_graph, print_graph, verify
from tensorc.ir.graph import nested

SUMS = """graph @main(%x: f32[4,2], %h: f32[2], %k: f32[2]) {
  %last, %all, %back = loop(%h, %x, %x, %k) {carried=1, conditional=0, scanned=(0, 1), stacked=(0, 1), trips=4} {
    graph @step(%i: i64[], %s: f32[2], %a: f32[2], %b: f32[2], %w: f32[2]) {
      %n = cast(%i) {to='float32'} : f32[]
      %t = mul(%s, %w) : f32[2]
      %u = add(%t, %a) : f32[2]
      %v = add(%b, %n) : f32[2]
      return %u, %u, %v
    }
  } : f32[2], f32[4,2], f32[4,2]
  return %last, %all, %back
}"""

CHOICE = """graph @main(%c: bool[], %x: f32[2]) {
  %y = if(%c, %x) {
    graph @yes(%p: f32[2]) {
      %q = neg(%p) : f32[2]
      return %q
    }
    graph @no(%p: f32[2]) {
      return %p
    }
  } : f32[2]
  return %y
}"""

WHILE = """graph @main(%c: bool[], %x: f32[], %m: f32[]) {
  %go, %y = loop(%c, %x, %m) {carried=2, conditional=1, scanned=(), stacked=(), trips=100} {
    graph @step(%i: i64[], %go: bool[], %s: f32[], %m: f32[]) {
      %t = add(%s, %s) : f32[]
      %more = less(%t, %m) : bool[]
      return %more, %t
    }
  } : bool[], f32[]
  return %go, %y
}"""


@pytest.mark.parametrize("text", [SUMS, CHOICE, WHILE])
def test_text_comes_back(text: str) -> None:
    graph = parse_graph(text)
    verify(graph)
    assert print_graph(graph) == text
    copy = clone(graph)
    assert print_graph(copy) == text
    assert not {id(part) for part in nested(copy)} & {id(part) for part in nested(graph)}


def test_a_loop_scans_stacks_and_carries() -> None:
    rng = np.random.default_rng(0)
    x, h, k = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 2), (2,), (2,)))
    state, states = h, []
    for row in x:
        state = state * k + row
        states.append(state)
    last, everything, back = evaluate(parse_graph(SUMS), {"x": x, "h": h, "k": k})
    np.testing.assert_allclose(last, state, rtol=1e-6)
    np.testing.assert_allclose(everything, states, rtol=1e-6)
    # The last slice comes first, and what it gives is stacked last.
    np.testing.assert_allclose(back, x + np.arange(4)[::-1, None], rtol=1e-6)


def test_a_loop_of_no_trips_gives_what_it_was_given() -> None:
    graph = parse_graph(SUMS.replace("4,2", "0,2").replace("trips=4", "trips=0"))
    h = np.ones(2, np.float32)
    last, everything, _ = evaluate(graph, {"x": np.empty((0, 2), np.float32), "h": h, "k": h})
    assert last.tolist() == [1, 1]
    assert everything.shape == (0, 2)


@pytest.mark.parametrize(("c", "want"), [(True, -1), (False, 1)])
def test_a_branch_is_taken(c: bool, want: float) -> None:
    (y,) = evaluate(parse_graph(CHOICE), {"c": np.array(c), "x": np.ones(2, np.float32)})
    assert y.tolist() == [want, want]


@pytest.mark.parametrize(("c", "m", "want"), [(True, 10, 16), (True, 0, 2), (False, 10, 1)])
def test_a_condition_is_looked_at_before_each_trip(c: bool, m: float, want: float) -> None:
    go, y = evaluate(parse_graph(WHILE), {"c": np.array(c), "x": np.float32(1), "m": np.float32(m)})
    assert (bool(go), float(y)) == (False, want)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (SUMS, "trips=4", "trips=5", "a loop of 5 trips does not scan f32"),
        (SUMS, "trips=4", "trips=-1", "or -1 trips"),
        (SUMS, "carried=1", "carried=0", "does not scan f32"),
        (SUMS, "stacked=(0, 1)", "stacked=(0,)", "the loop carries"),
        (SUMS, "%i: i64[]", "%i: i32[]", "the region takes"),
        (SUMS, "return %u, %u, %v", "return %n, %u, %v", "the loop carries"),
        (SUMS, "conditional=0", "conditional=1", "first carries its condition"),
        (WHILE, "stacked=()", "stacked=(0,)", "the loop carries"),
        (CHOICE, "%c: bool[]", "%c: bool[1]", "the condition is a bool"),
        (CHOICE, "%q = neg(%p) : f32[2]", "%q = reduce_sum(%p) {axes=(0,)} : f32[1]", "one region gives"),
        (CHOICE, "graph @no(%p: f32[2])", "graph @no(%p: f32[2], %r: f32[2])", "the regions take"),
        (CHOICE, "graph @no(%p: f32[2]) {\n      return %p\n    }", "", "if has 2 regions, not 1"),
    ],
)
def test_what_does_not_fit(text: str, old: str, new: str, message: str) -> None:
    assert old in text
    with pytest.raises(IRError, match=message):
        parse_graph(text.replace(old, new))


def test_a_fault_inside_a_region_is_found() -> None:
    graph = parse_graph(CHOICE)
    (node,) = graph.nodes
    region = node.regions[0]
    region.outputs = [graph.inputs[1]]
    with pytest.raises(IRError, match="returns %x, which nothing defines"):
        verify(graph)
