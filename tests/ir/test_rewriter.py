"""Rules: they fire until none matches, leave no trace when they do not match, and may not fight each other."""

from __future__ import annotations

import numpy as np
import pytest

from tensorc.errors import IRError
from tensorc.ir import Constant, Node, Value, evaluate, parse_graph, verify
from tensorc.ir.rewriter import Builder, only_user, producer, rewrite, scalar


def drop_double_negation(node: Node, _build: Builder) -> Value | None:
    inner = producer(node.inputs[0], "neg")
    return inner.inputs[0] if inner else None


def test_a_rule_fires_until_nothing_matches() -> None:
    lines = "".join(f"  %n{i + 1} = neg(%n{i}) : f32[2]\n" for i in range(5))
    graph = parse_graph("graph @g(%n0: f32[2]) {\n" + lines + "  return %n5\n}")
    assert rewrite(graph, {"neg": [drop_double_negation]})
    verify(graph)
    assert [node.op for node in graph.nodes] == ["neg"]
    assert not rewrite(graph, {"neg": [drop_double_negation]})


def test_made_nodes_stand_before_their_users() -> None:
    graph = parse_graph("graph @g(%x: f32[2]) {\n  %y = silu(%x) : f32[2]\n  %z = neg(%y) : f32[2]\n  return %z, %y\n}")
    x = np.array([1, -2], np.float32)
    want = evaluate(graph, {"x": x})

    def expand(node: Node, build: Builder) -> Value:
        return build("mul", node.inputs[0], build("sigmoid", node.inputs[0], name="s"))

    assert rewrite(graph, {"silu": [expand]})
    verify(graph)
    assert [node.op for node in graph.nodes] == ["sigmoid", "mul", "neg"]
    np.testing.assert_allclose(evaluate(graph, {"x": x}), want, rtol=1e-6)


def test_a_rule_that_gives_up_leaves_no_users() -> None:
    graph = parse_graph("graph @g(%x: f32[2]) {\n  %y = relu(%x) : f32[2]\n  return %y\n}")

    def hesitate(node: Node, build: Builder) -> None:
        build("add", node.inputs[0], build.constant(1, "float32"))

    def other(node: Node, build: Builder) -> list[Value]:
        return [build("max", node.inputs[0], build.constant(Constant.of(np.float32(0))))]

    assert not rewrite(graph, {"relu": [hesitate]})
    verify(graph)
    assert graph.inputs[0].users == graph.nodes
    assert rewrite(graph, {"relu": [hesitate, other]})
    verify(graph)
    assert [node.op for node in graph.nodes] == ["max"]


def test_rules_that_undo_each_other_are_an_error() -> None:
    graph = parse_graph("graph @g(%x: f32[2]) {\n  %y = exp(%x) : f32[2]\n  return %y\n}")
    with pytest.raises(IRError, match="rules for exp, log still fire after 100 sweeps"):
        rewrite(
            graph,
            {"exp": [lambda node, build: build("log", *node.inputs)],
             "log": [lambda node, build: build("exp", *node.inputs)]},
        )  # fmt: skip


def test_a_result_of_another_type_is_an_error() -> None:
    graph = parse_graph("graph @g(%x: f32[2,1]) {\n  %y = exp(%x) : f32[2,1]\n  return %y\n}")
    with pytest.raises(IRError, match="the types differ"):
        rewrite(graph, {"exp": [lambda node, build: build("reshape", *node.inputs, shape=(2,))]})


def test_questions_about_values() -> None:
    graph = parse_graph("""graph @g(%x: f32[2]) {
  %c = constant splat 2.0 : f32[2]
  %d = constant [1.0, 2.0] : f32[2]
  %y = add(%x, %c) : f32[2]
  %z = mul(%y, %d) : f32[2]
  return %z
}""")
    add, mul = graph.nodes
    assert [scalar(value) for value in (*add.inputs, mul.inputs[1])] == [None, 2.0, None]
    assert only_user(add.output) is mul
    assert only_user(mul.output) is None
    assert producer(add.output, "add", "sub") is add
    assert producer(add.output, "sub") is None
    assert producer(graph.inputs[0], "add") is None
