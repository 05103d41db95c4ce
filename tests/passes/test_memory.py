"""Memory mapping: copies where they are needed, and plans under which a run finds every byte that it reads."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.canonical import canonical_passes
from passes.fusion import FuseGroups
from passes.layout import BlockLayout
from passes.memory import ALIGNMENT, Buffer, InsertCopies, MemoryPlan, Place, Space, greedy, plan_memory
from passes.memory.portfolio import quick_offsets
from tensorc.frontend import import_model
from tensorc.ir import Constant, Graph, Kind, TensorType, Value, clone, evaluate, parse_graph
from tensorc.ir.interpreter import evaluate_node
from tensorc.ir.ops import OPS
from tensorc.pipeline import run_passes

T = "f32[4,8]"


class Clobbered(Exception):  # noqa: N818  (a finding)
    pass


def simulate(graph: Graph, plan: MemoryPlan) -> None:
    """Run the steps on memory whose every byte knows which value wrote it; raise Clobbered where a reader meets bytes
    of another. Knows nothing of aliases but this: a join's bytes are those of its parts, a view's those of its input.
    """
    memory: dict[tuple[Space, int], np.ndarray] = {}
    identities: dict[Value, np.ndarray] = {}
    fresh = 1

    def at(value: Value) -> np.ndarray:
        place, size = plan.places[value], value.type.nbytes
        key = place.space, place.index
        if key not in memory:
            memory[key] = np.zeros(plan.arena_bytes if place.space is Space.ARENA else 0, np.int64)
        if place.space is not Space.ARENA and len(memory[key]) < place.offset + size:
            memory[key] = np.pad(memory[key], (0, place.offset + size - len(memory[key])))
        if place.offset < 0 or place.offset + size > len(memory[key]):
            raise Clobbered(f"{value} lies outside its space")
        return memory[key][place.offset : place.offset + size]

    def write(value: Value) -> None:
        nonlocal fresh
        identities[value] = np.arange(fresh, fresh + value.type.nbytes)
        fresh += value.type.nbytes
        at(value)[:] = identities[value]

    def read(value: Value, reader: str) -> None:
        if not np.array_equal(at(value), identities[value]):
            raise Clobbered(f"{reader} finds other bytes where {value} was written")

    for value in (*graph.inputs, *graph.constants()):
        write(value)
    for node in graph.nodes:
        if node.body is not None:
            for value in node.inputs:
                read(value, f"the step that makes {node.output}")
            write(node.output)
            # Tasks run in any order: one may read after another wrote. Only elementwise ones may write where they read.
            pointwise = all(OPS[inner.op].kind is Kind.ELEMENTWISE for inner in node.body.nodes)
            for value in node.inputs:
                here = plan.places[value] == plan.places[node.output] and value.type == node.output.type
                if not (pointwise and here):
                    read(value, f"a late task of the step that makes {node.output}")
            continue
        identities[node.output] = np.concatenate([identities[value] for value in node.inputs])
    for number, value in enumerate(graph.outputs):
        if plan.places[value] != Place(Space.OUTPUT, number, 0):
            raise Clobbered(f"output {number} lies at {plan.places[value]}")
        read(value, "the caller")
    for value in (*graph.inputs, *graph.constants()):
        read(value, "the next run")


def planned(graph: Graph) -> MemoryPlan:
    """The plan of a fused graph, checked."""
    plan = plan_memory(graph)
    simulate(graph, plan)
    for value, place in plan.places.items():
        assert value.constant is None or place == Place(Space.WEIGHTS, plan.constants.index(value), 0)
        assert place.offset % 4 == 0
    assert plan.arena_bytes % ALIGNMENT == 0
    assert plan.arena_bytes <= plan.unplanned_bytes
    return plan


def described(graph: Graph) -> str:
    return " ".join("+".join(n.op for n in node.body.nodes) or "copy" if node.body else node.op for node in graph.nodes)


XY = f"%x: {T}, %y: {T}"
AB = f"%a = exp(%x) : {T} %b = tanh(%y) : {T}"
JOIN = "concat(%{}, %{}) {{axis=0}} : f32[{},8]"

#: name -> lines over %x and %y, and what becomes of them.
CASES = {
    "an input as output": ("return %x", "copy"),
    "an input twice": ("return %x, %x", "copy copy"),
    "a view of an input": ("%0 = reshape(%x) {shape=(32,)} : f32[32] return %0", "reshape copy"),
    "a constant as output": ("%c = constant 2.0 : f32[] return %c", "copy"),
    "a view of a constant": (
        "%c = constant [1.0, 2.0] : f32[2] %0 = reshape(%c) {shape=(2, 1)} : f32[2,1] return %0", "reshape copy",
    ),
    "a computed value as output": (f"{AB} return %a, %b", "exp tanh"),
    "one output twice": (f"{AB} return %a, %a", "exp copy"),
    "an output and a view of it": (
        f"{AB} %0 = reshape(%a) {{shape=(32,)}} : f32[32] return %a, %0", "exp reshape copy",
    ),
    "two views of one value": (
        f"{AB} %0 = reshape(%a) {{shape=(32,)}} : f32[32] %1 = reshape(%a) {{shape=(8, 4)}} : f32[8,4] return %0, %1",
        "exp reshape reshape copy",
    ),
    "an output that is read later": (f"{AB} %0 = relu(%a) : {T} return %a, %0", "exp relu"),
    "a join": (f"{AB} %0 = {JOIN.format('a', 'b', 8)} %1 = relu(%0) : f32[8,8] return %1", "exp tanh concat relu"),
    "a join as output": (f"{AB} %0 = {JOIN.format('a', 'b', 8)} return %0", "exp tanh concat"),
    "a join and a part of it as outputs": (
        f"{AB} %0 = {JOIN.format('a', 'b', 8)} return %0, %b", "exp tanh concat copy",
    ),
    "a part before its join as outputs": (
        f"{AB} %0 = {JOIN.format('a', 'b', 8)} return %a, %0", "exp tanh concat copy",
    ),
    "a join of inputs": (
        f"%0 = {JOIN.format('x', 'y', 8)} %1 = relu(%0) : f32[8,8] return %1", "copy copy concat relu",
    ),
    "a join with a constant": (
        f"{AB} %c = constant splat 1.0 : {T} %0 = {JOIN.format('a', 'c', 8)} return %0", "exp copy concat",
    ),
    "a join of one value twice": (f"{AB} %0 = {JOIN.format('a', 'a', 8)} return %0", "exp copy concat"),
    "a part of two joins": (
        f"{AB} %0 = {JOIN.format('a', 'b', 8)} %1 = {JOIN.format('b', 'a', 8)} %2 = relu(%0) : f32[8,8] "
        "%3 = add(%2, %1) : f32[8,8] return %3",
        "exp tanh concat copy copy concat relu+add",
    ),
    "a join of joins": (
        f"{AB} %0 = {JOIN.format('a', 'b', 8)} %1 = relu(%0) : f32[8,8] %2 = {JOIN.format('0', '1', 16)} "
        "%3 = neg(%2) : f32[16,8] return %3",
        "exp tanh concat relu concat neg",
    ),
    "a join twice in a join": (
        f"{AB} %0 = {JOIN.format('a', 'b', 8)} %2 = {JOIN.format('0', '0', 16)} return %2",
        "exp tanh concat copy concat",
    ),
    "a join of views": (
        f"{AB} %0 = reshape(%a) {{shape=(8, 4)}} : f32[8,4] %1 = concat(%0, %0) {{axis=0}} : f32[16,4] return %1",
        "exp reshape copy copy concat",
    ),
    "a view of a join": (
        f"{AB} %0 = {JOIN.format('a', 'b', 8)} %1 = reshape(%0) {{shape=(64,)}} : f32[64] return %1",
        "exp tanh concat reshape",
    ),
    "a part that is read after the join is done with": (
        f"{AB} %0 = {JOIN.format('a', 'b', 8)} %1 = reduce_max(%0) {{axes=(0, 1)}} : f32[1,1] "
        f"%2 = matmul(%y, %v) : {T} %3 = matmul(%2, %v) : {T} %4 = add(%3, %a) : {T} return %1, %4",
        "exp tanh concat reduce_max matmul matmul+add",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_copies(case, transforms):
    lines, want = CASES[case]
    graph = transforms([FuseGroups(), InsertCopies()], f"graph @main({XY}, %v: f32[8,8]) {{ {lines} }}")
    graph.remove_dead()
    assert described(graph) == want
    planned(graph)


def test_running_again_changes_nothing():
    lines, _ = CASES["a part of two joins"]
    graph = parse_graph(f"graph @main({XY}) {{ {lines} }}")
    run_passes(graph, [FuseGroups(), InsertCopies()])
    assert not InsertCopies().run(graph)


# Placing -------------------------------------------------------------------------------------------------------

buffers = st.builds(
    lambda lower, length, lines: Buffer(lower, lower + length, lines * ALIGNMENT),
    st.integers(0, 20), st.integers(1, 8), st.integers(1, 30),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(buffers, max_size=40))
def test_buffers_that_live_at_one_time_lie_apart(buffers):
    offsets = greedy.place(buffers)
    load = defaultdict(int)
    for now in range(30):
        alive = sorted((o, o + b.size) for o, b in zip(offsets, buffers, strict=True) if b.lower <= now < b.upper)
        load[now] = sum(end - start for start, end in alive)
        assert all(first[1] <= second[0] for first, second in pairwise(alive))
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in offsets)
    height = max((o + b.size for o, b in zip(offsets, buffers, strict=True)), default=0)
    assert max(load.values()) <= height <= sum(b.size for b in buffers)


def test_a_chain_needs_two_buffers():
    chain = [Buffer(t, t + 2, 64) for t in range(100)]
    assert set(greedy.place(chain)) == {0, 64}


def test_two_thousand_buffers_are_placed_in_time():
    rng = np.random.default_rng(0)
    many = [Buffer(t, t + int(rng.integers(1, 60)), 64 * int(rng.integers(1, 1000))) for t in range(2000)]
    start = time.process_time()
    greedy.place(many)
    assert time.process_time() - start < 2


# Faults that the simulation must find --------------------------------------------------------------------------


@pytest.fixture
def crowded() -> Graph:
    graph = parse_graph(
        f"graph @main({XY}, %v: f32[8,8]) {{ {AB} %0 = {JOIN.format('a', 'b', 8)} %1 = matmul(%0, %v) : f32[8,8] "
        "%2 = matmul(%1, %v) : f32[8,8] %3 = add(%2, %0) : f32[8,8] %4 = matmul(%3, %v) : f32[8,8] return %4 }"
    )
    run_passes(graph, [FuseGroups(), InsertCopies()])
    return graph


def test_a_wrong_place_is_found(crowded):
    plan = planned(crowded)
    arena = [value for value, place in plan.places.items() if place.space is Space.ARENA]
    found = 0
    for value in arena:
        for other in arena:
            moved = replace(plan, places={**plan.places, value: plan.places[other]})
            if moved.places == plan.places:
                continue
            found += 1
            if value.producer is not None and value.producer.body is None:
                continue  # a join's own place is where its reader looks
            try:
                simulate(crowded, moved)
            except Clobbered:
                continue
            # Only a value whose life does not meet the other's may lie there.
            assert not _lives_meet(crowded, value, other)
    assert found > 6


def _lives_meet(graph: Graph, a: Value, b: Value) -> bool:
    def life(value: Value) -> tuple[int, int]:
        times = [t for t, node in enumerate(graph.nodes) if value in (*node.inputs, *node.outputs)]
        return min(times), max(times)

    (low, high), (other_low, other_high) = life(a), life(b)
    return low <= other_high and other_low <= high


def test_a_life_that_ends_too_early_is_found(crowded, monkeypatch):
    def shorter(problem):
        return quick_offsets(replace(problem, buffers=tuple(replace(b, upper=b.upper - 1) for b in problem.buffers)))

    monkeypatch.setattr("passes.memory.graph.quick_offsets", shorter)
    with pytest.raises(Clobbered):
        planned(crowded)


def test_an_output_without_its_copy_is_found():
    graph = parse_graph(f"graph @main({XY}) {{ {AB} return %a, %a }}")
    run_passes(graph, [FuseGroups()])
    with pytest.raises(Clobbered):
        planned(graph)


# Random graphs -------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Much joining and viewing, of values of all origins; everything is [n, 2] or a view of that."""
    graph = Graph()
    pool = [graph.add_input(name, TensorType("float32", (rows, 2))) for name, rows in (("x", 3), ("y", 1))]
    pool.append(graph.add_constant(Constant.of(np.arange(4, dtype=np.float32).reshape(2, 2))))
    for _ in range(draw(st.integers(0, 14))):
        x = draw(st.sampled_from(pool[-8:]))
        kind = draw(st.sampled_from(["neg", "matmul", "add", "reshape", "concat", "concat", "concat"]))
        if kind == "neg":
            pool.append(graph.add(kind, [x]))
        elif kind == "matmul":
            pool.append(graph.add(kind, [x, graph.constant(np.eye(2, dtype=np.float32))]))
        elif kind == "add":
            pool.append(graph.add(kind, [x, draw(st.sampled_from([v for v in pool if v.shape == x.shape]))]))
        elif kind == "reshape":
            flat = graph.add(kind, [x], {"shape": (1, x.type.size)})
            pool.append(graph.add(kind, [flat], {"shape": x.shape}))
        else:
            parts = [x, *draw(st.lists(st.sampled_from(pool), max_size=3))]
            pool.append(graph.add(kind, parts[:: draw(st.sampled_from([1, -1]))], {"axis": 0}))
    graph.outputs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4))
    graph.remove_dead()
    return graph


def run_on_plan(graph: Graph, plan: MemoryPlan, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Execute the steps on real buffers at the plan's places."""
    spaces: dict[tuple[Space, int], np.ndarray] = {(Space.ARENA, 0): np.full(plan.arena_bytes, 0xA5, np.uint8)}
    for number, value in enumerate(graph.outputs):
        spaces[Space.OUTPUT, number] = np.full(value.type.nbytes, 0xA5, np.uint8)
    for number, value in enumerate(graph.inputs):
        spaces[Space.INPUT, number] = arrays[value.name].reshape(-1).view(np.uint8).copy()
    for number, value in enumerate(plan.constants):
        spaces[Space.WEIGHTS, number] = np.ascontiguousarray(value.constant.numpy()).reshape(-1).view(np.uint8).copy()

    def view(value: Value) -> np.ndarray:
        place = plan.places[value]
        data = spaces[place.space, place.index][place.offset : place.offset + value.type.nbytes]
        return data.view(value.dtype).reshape(value.shape)

    for node in graph.nodes:
        if node.body is not None:
            view(node.output)[...] = evaluate_node(node, [view(value) for value in node.inputs])[0]
    return [view(value) for value in graph.outputs]


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_random_graphs(graph):
    original = clone(graph)
    run_passes(graph, [FuseGroups(), InsertCopies()])
    plan = planned(graph)
    rng = np.random.default_rng(6)
    arrays = {value.name: rng.standard_normal(value.shape).astype(np.float32) for value in graph.inputs}
    for want, got in zip(evaluate(original, arrays), run_on_plan(graph, plan, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# Real models ---------------------------------------------------------------------------------------------------

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize(("name", "share"), [("resnet50", 0.25), ("densenet121", 0.5), ("squeezenet", 0.5)])
def test_real_models_take_less_than_without_a_plan(name, share):
    graph = import_model(LIGHT / f"light_{name}.onnx").graph
    run_passes(graph, [*canonical_passes(), BlockLayout(16), FuseGroups(), InsertCopies()])
    plan = planned(graph)
    assert plan.arena_bytes < share * plan.unplanned_bytes
    largest = max(
        sum(v.type.nbytes for v in (*node.inputs, node.output) if plan.places[v].space is Space.ARENA)
        for node in graph.nodes if node.body is not None
    )  # fmt: skip
    assert plan.arena_bytes >= math.ceil(largest / ALIGNMENT)
    assert all(OPS[n.op].kind is Kind.VIEW or n.body or n.op == "concat" for n in graph.nodes)
