"""The verifier finds faults planted in a good graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tensorc.errors import IRError
from tensorc.ir import Graph, TensorType, Value, parse_graph, verify

TEXT = """graph @main(%x: f32[2,3]) {
  %c = constant 1.0 : f32[]
  %d = constant [1.0, 2.0, 3.0] : f32[3]
  %a = add(%x, %c) : f32[2,3]
  %b = mul(%a, %d) : f32[2,3]
  %g = group(%b) {
    graph @body(%p: f32[2,3]) {
      %q = exp(%p) : f32[2,3]
      return %q
    }
  } : f32[2,3]
  return %g, %a
}"""


def wrong_type(graph: Graph) -> None:
    graph.nodes[0].output.type = TensorType("float32", (3, 2))


def use_before_definition(graph: Graph) -> None:
    graph.nodes[0], graph.nodes[1] = graph.nodes[1], graph.nodes[0]


def duplicate_name(graph: Graph) -> None:
    graph.nodes[1].output.name = "a"


def duplicate_constant_name(graph: Graph) -> None:
    graph.nodes[1].inputs[1].name = "c"


def stale_user(graph: Graph) -> None:
    graph.nodes[0].output.users.append(graph.nodes[2])


def stale_user_of_a_constant(graph: Graph) -> None:
    graph.make("add", [graph.nodes[0].inputs[1]] * 2)


def missing_user(graph: Graph) -> None:
    graph.nodes[0].output.users.clear()


def undefined_output(graph: Graph) -> None:
    graph.outputs = [Value("w", TensorType("float32", ()))]


def foreign_producer(graph: Graph) -> None:
    graph.nodes[0].output.producer = graph.nodes[1]


def unknown_op(graph: Graph) -> None:
    graph.nodes[0].op = "frobnicate"


def too_many_inputs(graph: Graph) -> None:
    graph.nodes[0].inputs = (*graph.nodes[0].inputs, graph.inputs[0])


def unknown_attribute(graph: Graph) -> None:
    graph.nodes[0].attrs["axis"] = 1


def body_of_an_operator(graph: Graph) -> None:
    graph.nodes[0].body = graph.nodes[2].body


def body_with_other_inputs(graph: Graph) -> None:
    body = graph.nodes[2].body
    assert body is not None
    body.inputs[0].type = body.nodes[0].output.type = TensorType("float32", (6,))


def fault_in_a_body(graph: Graph) -> None:
    body = graph.nodes[2].body
    assert body is not None
    body.nodes[0].output.type = TensorType("int64", (2, 3))


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (wrong_type, r"add gives f32\[2,3\], but its outputs are %a: f32\[3,2\]"),
        (use_before_definition, "mul reads %a before it is defined"),
        (duplicate_name, "two values of graph 'main' are named %a"),
        (duplicate_constant_name, "two values of graph 'main' are named %c"),
        (stale_user, "%a lists group as a user"),
        (stale_user_of_a_constant, "%c lists add as a user"),
        (missing_user, "mul reads %a, which does not list it as a user"),
        (undefined_output, "returns %w, which nothing defines"),
        (foreign_producer, "an output of add names another producer"),
        (unknown_op, "unknown op 'frobnicate'"),
        (too_many_inputs, "add takes 2 inputs, not 3"),
        (unknown_attribute, r"add has no attribute \['axis'\]"),
        (body_of_an_operator, "a group, and only a group, has a body"),
        (body_with_other_inputs, "the group is given"),
        (fault_in_a_body, r"exp gives f32\[2,3\]"),
    ],
)
def test_planted_fault_is_found(plant: Callable[[Graph], None], message: str) -> None:
    graph = parse_graph(TEXT)
    verify(graph)
    plant(graph)
    with pytest.raises(IRError, match=message):
        verify(graph)


def test_the_fault_is_shown_among_its_neighbours() -> None:
    graph = parse_graph(TEXT)
    wrong_type(graph)
    with pytest.raises(IRError) as caught:
        verify(graph)
    first, fault, after, *_ = str(caught.value).splitlines()
    assert first.startswith("add gives")
    assert fault.startswith("> %a")
    assert after.startswith("  %b")
