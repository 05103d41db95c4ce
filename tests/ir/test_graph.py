"""Graphs: names, users, copies, order, constants, and the view for networkx."""

from __future__ import annotations

import numpy as np
import pytest

from tensorc.errors import IRError
from tensorc.ir import Constant, Graph, TensorType, clone, evaluate, parse_graph, verify
from tensorc.ir.view import EXIT, longest_path, post_dominators, to_networkx

DIAMOND = """graph @main(%x: f32[4]) {
  %a = exp(%x) : f32[4]
  %b = neg(%a) : f32[4]
  %c = abs(%a) : f32[4]
  %d = add(%b, %c) : f32[4]
  return %d
}"""


def test_names_are_made_legal_and_unique() -> None:
    graph = Graph()
    assert [graph.unique_name(n) for n in ("a b", "a b", "a_b", "", "a_b.1", "a_b")] == [
        "a_b", "a_b.1", "a_b.2", "v", "a_b.1.1", "a_b.3",
    ]  # fmt: skip


def test_replace_moves_users_and_outputs() -> None:
    graph = parse_graph(DIAMOND)
    a, b, c, d = graph.nodes
    graph.replace(b.output, c.output)
    assert d.inputs == (c.output, c.output)
    assert c.output.users == [d, d]
    graph.replace(d.output, a.output)
    assert graph.outputs == [a.output]
    assert graph.remove_dead()
    assert graph.nodes == [a]
    assert a.output.users == []
    assert not graph.remove_dead()
    verify(graph)


def test_sort_restores_order() -> None:
    graph = parse_graph(DIAMOND)
    graph.nodes.reverse()
    with pytest.raises(IRError):
        verify(graph)
    graph.sort()
    verify(graph)


def test_clone_shares_data_and_nothing_else() -> None:
    graph = parse_graph(DIAMOND)
    graph.outputs.append(graph.add("mul", [graph.outputs[0], graph.constant(np.arange(4), "float32")]))
    text, copy = str(graph), clone(graph)
    verify(copy)
    assert str(copy) == text
    (old,), (new,) = graph.constants(), copy.constants()
    assert old is not new
    assert old.constant is new.constant
    copy.outputs.pop()
    copy.remove_dead()
    assert str(graph) == text
    verify(graph)


def test_constants_know_when_they_repeat_one_element() -> None:
    type = TensorType("float32", (1000, 1000))
    full = Constant.full(type, 2)
    assert full.splat == 2
    assert full.numpy().strides == (0, 0)
    assert Constant.of(5.0).splat == 5
    assert Constant.of(np.zeros(3)).splat is None
    assert Constant.of(np.empty((0, 3))).splat is None
    halved = full.derive(TensorType("float32", (500, 1000)), lambda a: a[::2])
    assert halved.numpy().shape == (500, 1000)


def test_a_constant_whose_data_do_not_fit_its_type() -> None:
    lying = Constant(TensorType("float32", (2,)), lambda: np.zeros(3, np.float32), "w")
    with pytest.raises(IRError, match=r"'w' is float32\(3,\), its type says f32\[2\]"):
        lying.numpy()
    with pytest.raises(IRError, match="cannot hold complex64"):
        Constant.of(np.zeros(2, np.complex64))


def test_a_group_is_evaluated_by_its_body() -> None:
    body = parse_graph(DIAMOND)
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (4,)))
    graph.outputs = [graph.add("group", [x], body=body)]
    verify(graph)
    data = np.linspace(-1, 1, 4, dtype=np.float32)
    np.testing.assert_array_equal(evaluate(graph, {"x": data})[0], evaluate(body, {"x": data})[0])


def test_post_dominators_and_paths() -> None:
    graph = parse_graph(DIAMOND)
    a, b, c, d = graph.nodes
    assert post_dominators(graph) == {a: d, b: d, c: d, d: EXIT}
    assert longest_path(graph) == 3
    graph.outputs.append(b.output)
    assert post_dominators(graph)[a] == EXIT
    assert to_networkx(graph).has_edge(b, EXIT)
