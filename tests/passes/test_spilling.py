"""Smaller arenas: the graph means the same, and its plan is as small as was asked for, or as can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.memory import InsertCopies, MemoryPlan, Space, plan_memory
from passes.memory.spilling import fit_arena
from tensorc.ir import Graph, Node, TensorType, Value, clone, evaluate, verify
from tensorc.pipeline import run_passes

SIDE = 16
SIZE = 4 * SIDE * SIDE
T = TensorType("float32", (SIDE, SIDE))


def group(graph: Graph, op: str, *inputs: Value) -> Value:
    """A fused group of one operator."""
    body = Graph("body")
    own = [body.add_input(f"i{number}", value.type) for number, value in enumerate(inputs)]
    body.outputs = [body.add(op, own)]
    return graph.add("group", inputs, {}, body, name=op)


def hourglass(depth: int, op: str) -> Graph:
    """`depth` values, each made of the one before, that are read again in the opposite order."""
    graph = Graph()
    values = [graph.add_input("x", T)]
    for _ in range(depth):
        values.append(group(graph, op, values[-1], values[-1]) if op == "matmul" else group(graph, op, values[-1]))
    total = values[-1]
    for value in values[-2:0:-1]:
        total = group(graph, "add", group(graph, "matmul", total, total), value)
    graph.outputs = [total]
    run_passes(graph, [InsertCopies()])
    return graph


def same(before: Graph, after: Graph) -> None:
    verify(after)
    rng = np.random.default_rng(0)
    feed = {value.name: rng.uniform(-0.1, 0.1, value.shape).astype(np.float32) for value in before.inputs}
    for want, got in zip(evaluate(before, feed), evaluate(after, feed), strict=True):
        np.testing.assert_array_equal(got, want)


def run_in_places(graph: Graph, plan: MemoryPlan) -> None:
    """Each step reads and writes bytes where the plan has them, and the outputs are right."""
    rng = np.random.default_rng(0)
    feed = {value.name: rng.uniform(-0.1, 0.1, value.shape).astype(np.float32) for value in graph.inputs}
    memory = {(place.space, place.index): np.zeros(1 << 20, np.uint8) for place in plan.places.values()}

    def at(value: Value) -> np.ndarray:
        place = plan.places[value]
        whole = memory[place.space, place.index]
        return whole[place.offset : place.offset + value.type.nbytes].view(np.float32).reshape(value.shape)

    for value in graph.inputs:
        at(value)[...] = feed[value.name]
    for node in graph.nodes:
        if node.body is not None:
            inputs = {inner.name: at(v).copy() for inner, v in zip(node.body.inputs, node.inputs, strict=True)}
            at(node.output)[...] = evaluate(node.body, inputs)[0]
    for value, want in zip(graph.outputs, evaluate(graph, feed), strict=True):
        np.testing.assert_array_equal(at(value), want)


def most_touched(graph: Graph) -> int:
    """What one node needs at a time, by itself: the arena can be no smaller. A result may lie where an operand did."""
    places = plan_memory(graph).places

    def needed(node: Node) -> int:
        apart = {places[v].offset: v.type.nbytes for v in (*node.inputs, *node.outputs)
                 if places[v].space is Space.ARENA}  # fmt: skip
        return sum(apart.values())

    return max(needed(node) for node in graph.nodes if node.body is not None)


def test_a_roomy_arena_is_left_alone() -> None:
    graph = hourglass(6, "matmul")
    text = str(graph)
    plan, filed = fit_arena(graph, plan_memory(graph).arena_bytes)
    assert str(graph) == text
    assert not filed
    assert plan.file_bytes == 0


@pytest.mark.parametrize("most", [5, 4, 3])
def test_values_that_wait_go_to_a_file(most: int) -> None:
    graph = hourglass(8, "matmul")
    before = clone(graph)
    assert plan_memory(graph).arena_bytes >= 8 * SIZE
    plan, filed = fit_arena(graph, most * SIZE)
    assert plan.arena_bytes <= most * SIZE
    assert plan.file_bytes == len(filed) * SIZE
    same(before, graph)
    for value in filed:
        assert plan.places[value].space is Space.FILE
        assert all(user.body is not None and not user.body.nodes for user in value.users), "only copies read it"
    offsets = sorted(plan.places[value].offset for value in filed)
    assert np.diff(offsets).min(initial=SIZE) >= SIZE


def test_the_least_is_what_a_node_needs() -> None:
    graph = hourglass(8, "matmul")
    plan, _ = fit_arena(graph, 0)
    assert plan.arena_bytes == most_touched(graph)


def test_cheap_values_are_computed_again() -> None:
    """Each is a function of the input alone."""
    graph = Graph()
    x = graph.add_input("x", T)
    cheap = [group(graph, op, x) for op in ("exp", "tanh", "relu", "abs", "neg")]
    total = group(graph, "matmul", x, x)
    for value in cheap:
        total = group(graph, "add", group(graph, "matmul", total, total), value)
    graph.outputs = [total]
    run_passes(graph, [InsertCopies()])
    before = clone(graph)
    plan, filed = fit_arena(graph, 3 * SIZE)
    assert plan.arena_bytes <= 3 * SIZE
    assert not filed
    same(before, graph)


def test_views_of_what_waited_are_views_of_what_came_back() -> None:
    graph = Graph()
    x = graph.add_input("x", T)
    kept = group(graph, "matmul", x, x)
    row = graph.add("reshape", [kept], {"shape": (SIDE * SIDE,)})
    total = group(graph, "matmul", kept, x)
    for _ in range(3):
        total = group(graph, "matmul", group(graph, "exp", total), x)
    graph.outputs = [group(graph, "add", graph.add("reshape", [total], {"shape": (SIDE * SIDE,)}), row)]
    run_passes(graph, [InsertCopies()])
    before = clone(graph)
    plan, filed = fit_arena(graph, 0)
    assert len(filed) == 1
    assert plan.arena_bytes == 2 * SIZE
    same(before, graph)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_graphs_mean_the_same(data: st.DataObject) -> None:
    graph = Graph()
    values = [graph.add_input("x", T), graph.add_input("y", T)]
    flat: list[Value] = []
    for _ in range(data.draw(st.integers(3, 14))):
        pick = st.sampled_from(values)
        match data.draw(st.sampled_from(["matmul", "add", "exp", "view", "join"])):
            case "view":
                flat.append(graph.add("reshape", [data.draw(pick)], {"shape": (SIDE * SIDE,)}))
                values.append(graph.add("reshape", [flat[-1]], {"shape": (SIDE, SIDE)}))
            case "join":
                pair = graph.add("concat", [data.draw(pick), data.draw(pick)], {"axis": 0})
                body = Graph("body")
                whole = body.add_input("i", pair.type)
                body.outputs = [body.add("slice", [whole], {"starts": (8, 0), "sizes": (SIDE, SIDE), "steps": (1, 1)})]
                values.append(graph.add("group", [pair], {}, body))
            case "exp":
                values.append(group(graph, "tanh", data.draw(pick)))
            case op:
                values.append(group(graph, op, data.draw(pick), data.draw(pick)))
    total = values[-1]
    for value in data.draw(st.lists(st.sampled_from(values), max_size=8)):  # late readers
        total = group(graph, data.draw(st.sampled_from(["matmul", "add"])), total, value)
    graph.outputs = [total, data.draw(st.sampled_from(values))]
    graph.remove_dead()
    run_passes(graph, [InsertCopies()])
    before = clone(graph)
    height = plan_memory(graph).arena_bytes
    plan, _ = fit_arena(graph, data.draw(st.integers(0, height)))
    assert plan.arena_bytes <= height
    same(before, graph)
    run_in_places(graph, plan)
