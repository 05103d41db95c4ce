"""The order of steps: what it does to graphs, and that no better one exists where it says so."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.canonical import canonical_passes
from passes.fusion import FuseGroups, body_of, is_view
from passes.layout import BlockLayout
from passes.memory import ALIGNMENT, InsertCopies, OrderNodes, plan_memory
from passes.memory.dataflow import Dataflow, change, peak_of
from passes.memory.order import dataflow
from passes.memory.ordering import best_ordering, lower_bound
from tensorc.frontend import import_model
from tensorc.ir import Graph, TensorType, clone, evaluate, parse_graph
from tensorc.pipeline import run_passes

# Graphs before and after ---------------------------------------------------------------------------------------

X, WIDE = "f32[16,4]", "f32[16,64]"
HEAD = "graph @main(%x: f32[16,4], %w: f32[4,64], %v: f32[64,4]) {"
EXP, LAST = f"%s = exp(%x) : {X}", f"%e = add(%c, %d) : {X} return %e }}"
A, B = f"%a = matmul(%x, %w) : {WIDE}", f"%b = matmul(%s, %w) : {WIDE}"
C, D = f"%c = matmul(%a, %v) : {X}", f"%d = matmul(%b, %v) : {X}"


def test_what_is_wide_is_gone_before_the_next_comes(becomes):
    graph = becomes([OrderNodes()], " ".join([HEAD, EXP, A, B, C, D, LAST]), " ".join([HEAD, EXP, B, D, A, C, LAST]))
    assert peak_of(dataflow(graph)[0]) == 16 * 4 * (64 + 4 + 4)


def test_an_order_that_is_the_best_stays(keeps):
    keeps([OrderNodes()], " ".join([HEAD, A, C, EXP, B, D, LAST]))
    keeps([OrderNodes()], f"{HEAD} return %x }}")


def test_views_follow_what_they_show(becomes):
    flat = "{shape=(1024,)} : f32[1024]"
    views = f"%0 = reshape(%a) {flat} %1 = reshape(%b) {flat}"
    sums = [f"%{c} = reduce_sum(%{x}) {{axes=(0,), keepdims=1}} : f32[1]" for c, x in (("c", 0), ("d", 1))]
    last = "%e = add(%c, %d) : f32[1] return %e }"
    becomes(
        [OrderNodes()],
        " ".join([HEAD, EXP, A, B, views, *sums, last]),
        " ".join([HEAD, EXP, B, f"%1 = reshape(%b) {flat}", sums[1], A, f"%0 = reshape(%a) {flat}", sums[0], last]),
    )


def test_views_of_views_of_an_input_are_placed_once():
    graph = parse_graph("""
        graph @main(%x: f32[512,4]) {
          %f = reshape(%x) {shape=(2048,)} : f32[2048]
          %g = reshape(%f) {shape=(2, 1024)} : f32[2,1024]
          %h = relu(%g) : f32[2,1024]
          %s = reduce_sum(%g) {axes=(0, 1), keepdims=1} : f32[1,1]
          %t = reduce_sum(%h) {axes=(0, 1), keepdims=1} : f32[1,1]
          %e = add(%s, %t) : f32[1,1]
          return %e
        }""")
    before = list(graph.nodes)
    run_passes(graph, [OrderNodes()])
    assert graph.nodes != before
    assert sorted(map(id, graph.nodes)) == sorted(map(id, before))


def test_parts_of_a_join_lie_in_its_buffer():
    # The join's 32 rows are held from its first part on, whatever the order.
    graph = parse_graph(
        f"{HEAD} %a = exp(%x) : {X} %b = tanh(%x) : {X} %0 = concat(%a, %b) {{axis=0}} : f32[32,4] "
        "%1 = relu(%0) : f32[32,4] %2 = neg(%1) : f32[32,4] return %2 }"
    )
    flow, steps = dataflow(graph)
    assert [node.op for node in steps] == ["exp", "tanh", "relu", "neg"]
    assert flow.sizes == (512, 512)
    assert flow.touches == ((0,), (0,), (0, 1), (1,))
    assert flow.after == ((), (), (0, 1), (2,))


def test_outputs_and_inputs_are_not_in_the_arena():
    flow, _ = dataflow(parse_graph(f"{HEAD} {A} {C} return %c, %a }}"))
    assert flow.sizes == ()


def test_a_node_with_regions_holds_what_they_hold():
    graph = parse_graph("""
        graph @main(%x: f32[16,4]) {
          %y = exp(%x) : f32[16,4]
          %a = loop(%y) {trips=3, carried=1} {
            graph @body(%i: i64[], %s: f32[16,4]) {
              %p = exp(%s) : f32[16,4]
              %q = tanh(%s) : f32[16,4]
              %r = add(%p, %q) : f32[16,4]
              return %r
            }
          } : f32[16,4]
          %b = neg(%a) : f32[16,4]
          return %b
        }""")
    flow, _ = dataflow(graph)
    # Two values inside, the second place of what is carried, and the iteration's number.
    assert flow.extra == (0, 3 * 256 + ALIGNMENT, 0)
    assert peak_of(flow) == 5 * 256 + ALIGNMENT == plan_memory(graph).arena_bytes


# Searches against all orders -----------------------------------------------------------------------------------


def lowest_peak(flow: Dataflow) -> int:
    """By trying all orders."""

    @cache
    def rest(done: int, live: int) -> int:
        best = 0 if done == (1 << len(flow)) - 1 else 10**9
        for step in range(len(flow)):
            if not done >> step & 1 and not flow.before[step] & ~done:
                born, freed = change(flow, step, done)
                held = live + born + flow.extra[step]
                best = min(best, max(held, rest(done | 1 << step, live + born - freed)))
        return best

    return rest(0, 0)


@st.composite
def flows(draw: st.DrawFn, most: int = 9) -> Dataflow:
    """Steps that read what earlier ones made, and make a buffer or a part of one; some may write where they read."""
    sizes: list[int] = []
    made: list[int] = []
    rows, extra, in_place = [], [], []
    for step in range(draw(st.integers(1, most))):
        after = draw(st.sets(st.integers(max(0, step - 5), step - 1), max_size=3)) if step else set()
        if made and draw(st.integers(0, 6)) == 0:
            buffer = draw(st.sampled_from(made))
        else:
            buffer = len(sizes)
            sizes.append(draw(st.sampled_from([1, 1, 1, 2, 2, 3, 5, 8])))
        touched = {made[earlier] for earlier in after}
        pairs = [(other, buffer) for other in sorted(touched - {buffer}) if sizes[other] == sizes[buffer]]
        made.append(buffer)
        rows.append((touched | {buffer}, after))
        extra.append(draw(st.sampled_from([0, 0, 0, 2, 6])))
        in_place.append(pairs if draw(st.booleans()) else [])
    return Dataflow.of(sizes, rows, extra, in_place)


@settings(max_examples=400, deadline=None)
@given(flows())
def test_no_order_is_better(flow):
    best = best_ordering(flow)
    assert peak_of(flow, best.order) == best.peak == lowest_peak(flow) == best.lower_bound
    assert lower_bound(flow) <= best.peak <= peak_of(flow)


@settings(max_examples=100, deadline=None)
@given(flows(), st.integers(0, 60))
def test_little_effort_gives_an_order_and_a_bound_that_hold(flow, effort):
    best = best_ordering(flow, effort)
    assert best.lower_bound <= lowest_peak(flow) <= best.peak == peak_of(flow, best.order) <= peak_of(flow)
    assert best == best_ordering(flow, effort)


@settings(max_examples=200, deadline=None)
@given(flows(16))
def test_backwards_as_much_is_held(flow):
    last = len(flow) - 1
    assert peak_of(flow.reversed(), range(last, -1, -1)[::-1]) == peak_of(flow)
    assert flow.reversed().reversed() == flow
    assert lower_bound(flow) == lower_bound(flow.reversed())


@settings(max_examples=200, deadline=None)
@given(flows(16))
def test_the_peak_is_that_of_the_lives(flow):
    plain = Dataflow.of(flow.sizes, zip(flow.touches, flow.after, strict=True), flow.extra)
    held = list(flow.extra)
    for buffer, size in enumerate(flow.sizes):
        times = [step for step, touched in enumerate(flow.touches) if buffer in touched]
        for time in range(times[0], times[-1] + 1):
            held[time] += size
    assert peak_of(plain) == max(held) >= peak_of(flow)


def test_an_order_must_keep_to_what_comes_after_what():
    flow = Dataflow.of([1, 1], [([0], []), ([0, 1], [0])])
    for order in ([1, 0], [0], [0, 0, 1]):
        with pytest.raises(ValueError, match="run"):
            peak_of(flow, order)


def test_in_place_a_chain_needs_one_buffer():
    rows = [([0], []), *(([step - 1, step], [step - 1]) for step in range(1, 9)), ([8], [8])]
    pairs = [[], *([(step - 1, step)] for step in range(1, 9)), []]
    assert peak_of(Dataflow.of([4] * 9, rows)) == 8
    assert peak_of(Dataflow.of([4] * 9, rows, in_place=pairs)) == 4


def random_wired(stages: int, size: int, seed: int) -> Dataflow:
    """Stages of `size` nodes of one shape, each of which reads some of the eight before it; a chain of three steps a
    node, as convolutions apart by depth and by pixel are. Between stages one node reads all ends, and the shapes
    halve."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[list[int], list[int]]] = [([0], [])]
    sizes = [1 << stages]
    ends = [0]
    for stage in range(stages):
        entry, first = len(rows) - 1, len(rows)
        ends = []
        for node in range(size):
            chosen = {int(n) for n in rng.integers(max(0, node - 8), node, 2)} if node else set()
            inputs = [first + 3 * n + 2 for n in sorted(chosen)] or [entry]
            ends = [end for end in ends if end not in inputs]
            for reads in (inputs, [len(rows)], [len(rows) + 1]):
                rows.append(([*reads, len(rows)], reads))
                sizes.append(1 << stages - stage)
            ends.append(len(rows) - 1)
        rows.append(([*ends, len(rows)], ends))
        sizes.append(1 << stages - stage - 1)
    return Dataflow.of(sizes, rows)


@pytest.mark.parametrize("seed", range(3))
def test_random_wired_networks_are_ordered_as_well_as_can_be(seed):
    flow = random_wired(3, 32, seed)
    best = best_ordering(flow)
    assert len(flow) > 200
    assert best.peak == best.lower_bound < peak_of(flow)
    assert best.lower_bound > lower_bound(flow)


# Whole graphs --------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Values of 1 to 9 rows of 16, joined and viewed, most of them read late."""
    graph = Graph()
    pool = [graph.add_input("x", TensorType("float32", (1, 16))), graph.add_input("y", TensorType("float32", (3, 16)))]
    for _ in range(draw(st.integers(2, 14))):
        x = draw(st.sampled_from(pool))
        kind = draw(st.sampled_from(["matmul", "matmul", "max", "add", "reshape", "concat"]))
        if kind == "matmul":
            pool.append(graph.add(kind, [x, graph.constant(np.eye(16, dtype=np.float32))]))
        elif kind == "max":
            pool.append(graph.add("reduce_max", [x], {"axes": (0,), "keepdims": 1}))
        elif kind == "add":
            pool.append(graph.add(kind, [x, draw(st.sampled_from([v for v in pool if v.shape == x.shape]))]))
        elif kind == "reshape":
            flat = graph.add(kind, [x], {"shape": (1, x.type.size)})
            pool.append(graph.add(kind, [flat], {"shape": x.shape}))
        elif x.shape[0] < 4:
            pool.append(graph.add(kind, [x, draw(st.sampled_from([v for v in pool if v.shape[0] < 4]))], {"axis": 0}))
    graph.outputs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
    graph.remove_dead()
    return graph


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_random_graphs(graph):
    original = clone(graph)
    run_passes(graph, [FuseGroups(), InsertCopies()])
    before = peak_of(dataflow(graph)[0])
    nodes = set(graph.nodes)
    run_passes(graph, [OrderNodes()])
    assert set(graph.nodes) == nodes
    assert len(graph.nodes) == len(nodes)
    after = peak_of(dataflow(graph)[0])
    assert after == best_ordering(dataflow(graph)[0]).lower_bound <= before
    assert not OrderNodes().run(graph)
    assert plan_memory(graph).arena_bytes >= after
    rng = np.random.default_rng(6)
    arrays = {value.name: rng.standard_normal(value.shape).astype(np.float32) for value in graph.inputs}
    for want, got in zip(evaluate(original, arrays), evaluate(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize("name", ["resnet50", "shufflenet", "squeezenet"])
def test_real_models_are_ordered_as_well_as_can_be(name):
    graph = import_model(LIGHT / f"light_{name}.onnx").graph
    run_passes(graph, [*canonical_passes(), BlockLayout(16), FuseGroups(), InsertCopies()])
    before = peak_of(dataflow(graph)[0])
    run_passes(graph, [OrderNodes()])
    flow, _ = dataflow(graph)
    assert peak_of(flow) == best_ordering(flow).lower_bound <= before
    assert (peak_of(flow) < before) == (name == "shufflenet")


# In place ------------------------------------------------------------------------------------------------------

ROW = "f32[4,8]"
IN_PLACE = {
    "an operand that dies": ("%b = tanh(%a) : f32[4,8] %c = matmul(%b, %w) : f32[4,8]", True),
    "an operand that is read later": (
        "%b = tanh(%a) : f32[4,8] %d = matmul(%b, %w) : f32[4,8] %c = matmul(%a, %d) {transpose_b=1} : f32[4,4]", False,
    ),
    "a view of it that is read later": (
        "%0 = reshape(%a) {shape=(32,)} : f32[32] %b = tanh(%a) : f32[4,8] %d = matmul(%b, %w) : f32[4,8] "
        "%1 = reshape(%d) {shape=(32,)} : f32[32] %c = add(%0, %1) : f32[32]", False,
    ),
    "an operand that is read in two ways": (
        "%0 = reshape(%a) {shape=(1, 4, 8)} : f32[1,4,8] %b = add(%a, %0) : f32[1,4,8] "
        "%1 = reshape(%b) {shape=(4, 8)} : f32[4,8] %c = matmul(%1, %w) : f32[4,8]", False,
    ),
    "another type": ("%b = cast(%a) {to='int32'} : i32[4,8] %c = matmul(%b, %b) {transpose_b=1} : i32[4,4]", False),
    "a part of a join": (
        "%z = concat(%a, %s) {axis=0} : f32[8,8] %b = exp(%z) : f32[8,8] %c = matmul(%b, %w) : f32[8,8]", False,
    ),
}  # fmt: skip


def one_by_one(graph: Graph) -> Graph:
    """Every node but views a group of its own."""
    for node in [node for node in graph.nodes if not is_view(node)]:
        body, inputs = body_of([node])
        group = graph.make("group", inputs, {}, body, name=node.output.name)
        graph.nodes[graph.nodes.index(node)] = group
        graph.replace(node.output, group.output)
        node.inputs = ()
        group.output.name = node.output.name
    return graph


@pytest.mark.parametrize("case", IN_PLACE)
def test_what_is_written_in_place(case):
    lines, shared = IN_PLACE[case]
    graph = one_by_one(parse_graph(
        f"graph @main(%x: {ROW}, %y: {ROW}, %w: f32[8,8]) {{ %a = matmul(%x, %w) : {ROW} %s = matmul(%y, %w) : {ROW} "
        f"{lines} return %c, %s }}"
    ))  # fmt: skip
    run_passes(graph, [InsertCopies()])
    plan = plan_memory(graph)
    values = {value.name: value for value in graph.values()}
    pairs = [pair for step in dataflow(graph)[0].in_place for pair in step]
    assert (plan.places[values["a"]] == plan.places[values["b"]]) == shared
    assert bool(pairs) >= shared
