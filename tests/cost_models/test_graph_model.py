"""The graph-level model: its features, what it learns of made-up costs, its files, and the weights that ship."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from cost_models.graph_features import FEATURES, GroupCost, activation_bytes, estimate, group_features
from cost_models.graph_model import GraphModel
from targets.cpu.target import GROUP_MODELS, CpuTarget
from tensorc.errors import UserError
from tensorc.ir import Graph, parse_graph
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes

X = "f32[4,8]"
CONV = "strides=({s}, {s}), pads=(0, 0, 0, 0), dilations=(1, 1)"
#: One of each kind of body.
BODIES = {
    "copy": f"%x: {X}) {{ return %x }}",
    "elementwise": f"%x: {X}, %y: {X}) {{ %0 = add(%x, %y) : {X} %1 = gelu(%0) : {X} return %1 }}",
    "scalar": "%x: f32[]) { %0 = exp(%x) : f32[] return %0 }",
    "nothing": "%x: f32[0,3]) { %0 = exp(%x) : f32[0,3] return %0 }",
    "no input": ") { %0 = range() {start=0, step=1, size=4, dtype=\"int64\"} : i64[4] return %0 }",
    "constant": f"%x: {X}) {{ %c = constant 2.0 : f32[] %0 = mul(%x, %c) : {X} return %0 }}",
    "half": "%x: f16[4,8]) { %0 = neg(%x) : f16[4,8] return %0 }",
    "transpose": f"%x: f32[8,4]) {{ %0 = transpose(%x) {{perm=(1, 0)}} : {X} return %0 }}",
    "slice": f"%x: f32[8,8]) {{ %0 = slice(%x) {{starts=(7, 0), sizes=(4, 8), steps=(-2, 1)}} : {X} return %0 }}",
    "pad": f"%x: f32[3,8]) {{ %0 = pad(%x) {{before=(1, 0), after=(0, 0)}} : {X} return %0 }}",
    "expand": "%x: f32[4,1]) { %0 = expand(%x) {shape=(4, 8)} : f32[4,8] return %0 }",
    "gather": f"%x: f32[9,8], %i: i64[4]) {{ %0 = gather(%x, %i) {{axis=0}} : {X} return %0 }}",
    "concat": f"%x: {X}, %y: {X}) {{ %0 = concat(%x, %y) {{axis=1}} : f32[4,16] return %0 }}",
    "block": "%x: f32[1,6,3,3]) { %0 = block(%x) {block=4} : f32[1,2,3,3,4] return %0 }",
    "unblock": "%x: f32[1,2,3,3,4]) { %0 = unblock(%x) {channels=6} : f32[1,6,3,3] return %0 }",
    "lrn": "%x: f32[1,6,3,3]) { %0 = lrn(%x) {size=3} : f32[1,6,3,3] return %0 }",
    "sum": f"%x: {X}) {{ %0 = exp(%x) : {X} %1 = reduce_sum(%0) {{axes=(1,)}} : f32[4,1] return %1 }}",
    "softmax": f"%x: {X}) {{ %0 = softmax(%x) {{axis=1}} : {X} return %0 }}",
    "norm": f"%x: {X}, %s: f32[8]) {{ %0 = rms_norm(%x, %s) {{axis=1}} : {X} return %0 }}",
    "matmul": f"%x: {X}, %w: f32[8,8]) {{ %0 = matmul(%x, %w) : {X} %1 = relu(%0) : {X} return %1 }}",
    "packed": "%x: f32[4,8], %w: f32[2,8,16]) { %0 = matmul_packed(%x, %w) {columns=20} : f32[4,20] return %0 }",
    "attention": "%q: f32[1,4,2,8]) { %0 = attention(%q, %q, %q) {scale=0.5} : f32[1,4,2,8] return %0 }",
    "moved attention": "%q: f32[1,2,4,8], %k: f32[1,4,2,8]) { %0 = transpose(%q) {perm=(0, 2, 1, 3)} : f32[1,4,2,8] "
    "%1 = attention(%0, %k, %0) {scale=0.5} : f32[1,4,2,8] return %1 }",
    "pool": f"%x: f32[1,2,4,4,4]) {{ %0 = max_pool(%x) {{kernel=(2, 2), {CONV.format(s=2)}}} : f32[1,2,2,2,4] "
    "return %0 }",
    "convolution": "%x: f32[1,2,5,5,4], %w: f32[3,8,3,3,4]) "
    f"{{ %0 = conv_blocked(%x, %w) {{{CONV.format(s=1)}}} : f32[1,3,3,3,4] return %0 }}",
    "depthwise": "%x: f32[1,2,5,5,4], %w: f32[2,1,3,3,4]) "
    f"{{ %0 = conv_blocked(%x, %w) {{{CONV.format(s=1)}, depthwise=1}} : f32[1,2,3,3,4] return %0 }}",
    "channels": "%x: f32[1,2,3,3,4], %w: f32[2,6,1,1,4]) { %0 = unblock(%x) {channels=6} : f32[1,6,3,3] "
    f"%1 = conv_blocked(%0, %w) {{{CONV.format(s=1)}}} : f32[1,2,3,3,4] return %1 }}",
}  # fmt: skip


def body(text: str) -> Graph:
    return parse_graph(f"graph @body({text}")


def product(rows: int, columns: int, depth: int) -> Graph:
    return body(f"%x: f32[{rows},{depth}], %w: f32[{-(-columns // 16)},{depth},16]) {{ %0 = matmul_packed(%x, %w) "
                f"{{columns={columns}}} : f32[{rows},{columns}] return %0 }}")  # fmt: skip


def chain(length: int, elements: int) -> Graph:
    graph = Graph("body")
    value = graph.add_input("x", parse_graph(f"graph @g(%x: f32[{elements}]) {{ return %x }}").inputs[0].type)
    for _ in range(length):
        value = graph.add("tanh", [value])
    graph.outputs = [value]
    return graph


def machine(graph: Graph) -> GroupCost:
    """What bodies cost on a machine that the estimate has wrong."""
    guess, nodes = estimate(graph), len(graph.nodes)
    return GroupCost(3 * guess.seconds * nodes**0.5, 40 + 90 * nodes, 300 + 500 * nodes, guess.buffer_bytes + 640)


@pytest.fixture(scope="module")
def bodies() -> list[Graph]:
    rng = np.random.default_rng(5)
    products = [product(*(int(n) for n in 2 ** rng.integers(2, 10, 3))) for _ in range(60)]
    return products + [chain(int(rng.integers(1, 9)), int(2 ** rng.integers(4, 16))) for _ in range(60)]


@pytest.fixture(scope="module")
def model(bodies: list[Graph]) -> GraphModel:
    model = GraphModel(members=2, seed=3)
    model.fit(bodies[::2], [machine(body) for body in bodies[::2]], "today", {"error": 0.5})
    return model


@pytest.fixture
def saved(model: GraphModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


# Features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BODIES)
def test_features_are_finite(kind):
    features = group_features(body(BODIES[kind]))
    assert features.shape == (len(FEATURES),)
    assert np.isfinite(features).all()
    assert all(np.isfinite(value) and value > 0 for value in astuple(estimate(body(BODIES[kind]))))


def feature(name: str, graph: Graph) -> float:
    return float(group_features(graph)[FEATURES.index(name)])


def test_features_tell_how_an_anchor_reads_its_operand():
    moved = body("%x: f32[64,32], %w: f32[2,64,16]) { %0 = transpose(%x) {perm=(1, 0)} : f32[32,64] "
                 "%1 = matmul_packed(%0, %w) {columns=32} : f32[32,32] return %1 }")  # fmt: skip
    plain = product(32, 32, 64)
    assert feature("operand_stride", moved) == 5  # log2 of 32 elements
    assert feature("operand_run", moved) == 0
    assert feature("operand_reads", moved) == 5
    assert feature("operand_bytes", moved) == 13
    assert feature("operand_share", plain) == feature("operand_reads", plain) == 0
    rows = body("%x: f32[4,4,8], %w: f32[2,8,16]) { %0 = transpose(%x) {perm=(1, 0, 2)} : f32[4,4,8] "
                "%1 = matmul_packed(%0, %w) {columns=32} : f32[4,4,32] return %1 }")  # fmt: skip
    assert feature("operand_stride", rows) == 0
    assert feature("operand_run", rows) == 3


def test_packed_weights_are_no_activations():
    assert activation_bytes(product(4, 32, 8)) == 4 * (4 * 8 + 4 * 32)


# Learning ----------------------------------------------------------------------------------------------------


def test_it_learns_what_the_estimate_has_wrong(model, bodies):
    held_out = bodies[1::2]
    true = np.log2([astuple(machine(body)) for body in held_out])
    learned = np.abs(np.log2([astuple(cost) for cost in model.predict(held_out)]) - true)
    guessed = np.abs(np.log2([astuple(estimate(body)) for body in held_out]) - true)
    assert (np.median(learned, axis=0) < 0.2).all()
    assert (np.median(learned, axis=0)[:3] < np.median(guessed, axis=0)[:3] / 3).all()


def test_the_same_data_give_the_same_model(model, bodies):
    again = GraphModel(members=2, seed=3)
    again.fit(bodies[::2], [machine(body) for body in bodies[::2]])
    assert again.predict(bodies) == model.predict(bodies)


def test_untrained_it_gives_the_estimate():
    (cost,) = GraphModel().predict([product(8, 16, 32)])
    assert astuple(cost) == pytest.approx(astuple(estimate(product(8, 16, 32))))
    assert GraphModel().predict([]) == []


def test_the_fastest_way_is_chosen():
    model = GraphModel()
    whole, half, third = chain(40, 1 << 20), chain(20, 1 << 20), chain(13, 1 << 20)
    assert model.fastest([[whole], [half, half], [whole, half]]) == 0
    assert model.fastest([[whole, half], [whole], [half, half]]) == 1
    assert model.fastest([[whole], [half], [third]]) == 2
    assert model.fastest([[whole], [half, third]], margin=1.3) == 0


def test_costs_that_no_group_has_are_refused():
    with pytest.raises(ValueError, match="finite and above zero"):
        GraphModel().fit([chain(1, 4)], [GroupCost(0.0, 1, 1, 1)])
    with pytest.raises(ValueError, match="1 bodies and 0 costs"):
        GraphModel().fit([chain(1, 4)], [])


# Files -------------------------------------------------------------------------------------------------------


def test_a_saved_model_reads_back_the_same(saved, model, bodies):
    again = GraphModel.load(saved)
    assert again.training == model.training
    assert again.training.metrics == {"error": 0.5}
    assert again.predict(bodies) == model.predict(bodies)


def test_only_a_trained_model_is_saved(tmp_path):
    with pytest.raises(ValueError, match="only a trained model"):
        GraphModel().save(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        GraphModel.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_model_is_refused(saved):
    trees = saved / "seconds-1.ubj"
    trees.write_bytes(trees.read_bytes()[:-9])
    assert "seconds-1.ubj: damaged: its SHA-256" in refused(saved)
    trees.unlink()
    assert "seconds-1.ubj: No such file or directory; a cost model needs this file" in refused(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, "not a graph model of format 1; train the model again"),
        ({"kind": "schedules"}, "not a graph model of format 1"),
        ({"features": FEATURES[1:]}, "with the unknown estimate_seconds; train the model again"),
        ({"features": None}, "not a description of a graph model"),
        ({"training": {}}, "not a description of a graph model"),
        ({"sha256": {}}, "not a description of a graph model"),
        ({"members": "two"}, "not a description of a graph model"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(saved, change, reason):
    path = saved / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert reason in refused(saved)


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "\0"])
def test_text_that_is_no_description_is_refused(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    assert "model.json: not a description of a graph model" in refused(tmp_path)


def test_the_schedules_model_and_an_empty_folder_are_refused(tmp_path):
    assert "not a description of a graph model" in refused(GROUP_MODELS.parent / "cpu")
    assert "No such file or directory" in refused(tmp_path)


# The weights that ship ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> GraphModel:
    return GraphModel.load(GROUP_MODELS / "512")


def test_shipped_weights_are_small_and_say_what_they_rest_on(shipped):
    folder = GROUP_MODELS / "512"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6
    assert shipped.training.samples > 1000
    assert shipped.training.metrics["seconds_median_error"] < 0.3


def test_shipped_weights_order_what_is_obvious(shipped):
    small, large = shipped.predict([product(16, 64, 64), product(1024, 1024, 1024)])
    assert 100 * small.seconds < large.seconds
    assert 100 * small.buffer_bytes < large.buffer_bytes
    rows = body("%x: f32[64,4096]) { %0 = relu(%x) : f32[64,4096] return %0 }")
    columns = body("%x: f32[4096,64]) { %0 = transpose(%x) {perm=(1, 0)} : f32[64,4096] return %0 }")
    assert shipped.fastest([[columns], [rows]]) == 1
    short, long = shipped.predict([chain(1, 1 << 18), chain(12, 1 << 18)])
    assert short.seconds < long.seconds
    assert short.instructions < long.instructions
    assert short.code_bytes < long.code_bytes


def test_the_target_asks_only_in_doubt_and_where_weights_ship(monkeypatch):
    asked = []

    def fastest(_model: GraphModel, ways: Sequence[Sequence[Graph]], _margin: float) -> int:
        asked.append([[len(kernel.nodes) for kernel in way] for way in ways])
        return 1

    monkeypatch.setattr(GraphModel, "fastest", fastest)

    def groups(target: str, lines: str) -> int:
        asked.clear()
        graph = parse_graph(f"graph @main(%x: f32[32,64], %y: f32[64,32], %w: f32[32,32]) {{ {lines} return %z }}")
        run_passes(graph, CpuTarget(target).passes(CompileOptions()))
        return len(graph.nodes)

    moved = "%0 = transpose(%x) {perm=(1, 0)} : f32[64,32]"
    assert groups("x86-64-v4", "%0 = add(%y, %y) : f32[64,32] %z = relu(%0) : f32[64,32]") == 1
    assert not asked
    assert groups("x86-64-v4", f"{moved} %z = matmul(%0, %w) : f32[64,32]") == 1
    assert not asked
    assert groups("x86-64-v4", f"{moved} %z = add(%0, %y) : f32[64,32]") == 2
    assert asked == [[[2], [1, 1]]]
    assert groups("x86-64-v2", f"{moved} %z = add(%0, %y) : f32[64,32]") == 1
    assert not asked
