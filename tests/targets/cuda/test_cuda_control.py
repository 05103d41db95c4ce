"""Loops and branches on a GPU: compiled models against the meaning of their graphs, and what the device is asked for.

Known loops are written out; what the host goes through is the same with none of them written out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession

import tensorc
from targets.cuda import replay
from targets.cuda.emulator import Emulator
from targets.cuda.executable import CudaExecutable
from targets.cuda.program import CudaProgram
from targets.cuda.segments import Chosen, Copied, Segment, Walked, segments
from targets.cuda.target import CudaTarget
from tensorc.ir import Graph, clone, evaluate, parse_graph
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.runtime.constants import ConstantStore
from tensorc.runtime.dlpack import DeviceArray

pytestmark = pytest.mark.compiler

Compile = Callable[..., tuple[Graph, Callable[..., CudaExecutable]]]


@pytest.fixture(scope="module")
def compiled() -> Compile:
    """compiled(text, constants): the graph, and what opens the model made of it, with loops written out that have so
    many launches at most."""

    def make(text: str, data: Mapping[str, np.ndarray] | None = None):
        target, options = CudaTarget("sm_90"), CompileOptions(target="cuda:sm_90")
        graph = parse_graph(text, data)
        lowered = clone(graph)
        run_passes(lowered, target.passes(options))
        program = target.build(lowered, options, {}, lambda *_: None)
        sections = {name: memoryview(b"".join(chunks)) for name, chunks in program.sections.items()}
        constants = ConstantStore().get(program.constants)
        manifest = json.loads(json.dumps(program.manifest))

        def opened(most: int | None = None) -> CudaExecutable:
            with pytest.MonkeyPatch.context() as patch:
                if most is not None:
                    patch.setattr(replay, "segments", lambda steps: segments(steps, most))
                return CudaExecutable(manifest, sections, constants, Emulator())

        return graph, opened

    return make


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the emulator's methods were called."""
    calls: Counter[str] = Counter()

    def counted(name: str) -> None:
        method = getattr(Emulator, name)

        def call(*arguments, **named):
            calls[name] += 1
            return method(*arguments, **named)

        monkeypatch.setattr(Emulator, name, call)

    for name in ("record", "rebind", "replay", "synchronize", "copy", "write"):
        counted(name)
    return calls


def arrays(graph: Graph, **given: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    found = {v.name: rng.standard_normal(v.shape).astype(v.dtype) for v in graph.inputs}
    return found | {name: np.asarray(value, found[name].dtype) for name, value in given.items()}


def agrees(graph: Graph, model: CudaExecutable, feed: Mapping[str, np.ndarray]) -> None:
    for got, want in zip(model.run([feed[v.name] for v in graph.inputs]), evaluate(graph, feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def shown(parts) -> list[object]:
    """Parts as lists: a segment is its number of launches."""
    rows: list[object] = []
    for part in parts:
        match part:
            case Segment(launches):
                rows.append(len(launches))
            case Copied():
                rows.append("copy")
            case Walked():
                rows.append(["walk", *shown(part.body)])
            case Chosen():
                rows.append(["if", shown(part.yes), shown(part.no)])
    return rows


def test_loops_in_loops(compiled: Compile, nested_loops: str) -> None:
    graph, opened = compiled(nested_loops)
    for most, inner in ((None, 6), (0, ["walk", 2])):
        model = opened(most)
        outer, then, ends = model._replay._parts[0], *shown(model._replay._parts)[1:3]
        assert shown([outer])[0][:2] == ["walk", inner], "data choose in each iteration"
        assert (then, ends) == (1, ["walk", 2])
        for c in (True, False):
            for n in (-2, 0, 1, 2, 5):
                agrees(graph, model, arrays(graph, c=c, n=n))
        assert CudaProgram.from_json(json.loads(json.dumps(model.program.to_json()))) == model.program
        model.close()


#: A loop around a matrix product, whose weights are packed; what is carried is the model's input and output.
CHAIN = """
graph @main(%x: f32[16,32]) {
  %k = constant @"k" : f32[32,32]
  %y, %all = loop(%x, %k) {trips=7, carried=1, stacked=(1,)} {
    graph @step(%i: i64[], %s: f32[16,32], %k: f32[32,32]) {
      %p = matmul(%s, %k) {transpose_b=0} : f32[16,32]
      %t = tanh(%p) : f32[16,32]
      return %t, %p
    }
  } : f32[16,32], f32[7,16,32]
  %z = neg(%y) : f32[16,32]
  return %y, %z, %all
}
"""


@pytest.fixture(scope="module")
def chain(compiled: Compile):
    return compiled(CHAIN, {"k": (np.random.default_rng(8).standard_normal((32, 32)) / 6).astype(np.float32)})


def test_a_known_loop_is_one_recording(chain, asked) -> None:
    graph, opened = chain
    model = opened()
    launches = model.program.launches
    inside = [launch for launch in launches if launch.calls == 7]
    assert inside
    assert {launch.calls for launch in launches} == {1, 7}
    written_out = 7 * len(inside) + len(launches) - len(inside)
    assert shown(model._replay._parts) == [written_out]
    asked.clear()
    agrees(graph, model, arrays(graph))
    assert (asked["replay"], asked["rebind"], asked["synchronize"]) == (1, 0, 1), "the end of the run"
    profile = model.profile([arrays(graph)["x"]], 0.01, False, lambda *_: None)
    assert len(profile.steps) == len(launches)
    assert {row.calls for row in profile.rows()} == {1, 7}
    model.close()


def test_a_loop_that_is_too_long_is_gone_through(chain, asked) -> None:
    graph, opened = chain
    model = opened(5)
    assert shown(model._replay._parts)[0][0] == "walk"
    for seed in range(3):
        asked.clear()
        agrees(graph, model, {"x": arrays(graph)["x"] * np.float32(seed)})
        inside = sum(launch.calls == 7 for launch in model.program.launches)
        assert (asked["replay"], asked["synchronize"], asked["write"]) == (8, 1, 1), "the input is written"
        # What is carried is where a recording knows it, once each of them has been used; what is stacked moves on.
        assert 0 < asked["rebind"] <= 7 * inside
    model.close()


def test_what_many_launches_have_to_do_with_is_copied(chain, asked) -> None:
    graph, opened = chain
    model = opened()
    asked.clear()
    first = model.run_async([arrays(graph)["x"]], [None] * 3, None)
    assert asked["copy"] == 0
    assert asked["rebind"] > 7, "one for each iteration at least"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "_FEW", 0)
        other = opened()
    asked.clear()
    lent = other.borrow(first.outputs[0], (1, 0), None)
    run = other.run_async([lent], [None] * 3, None)
    assert (asked["rebind"], asked["copy"]) == (0, 4)
    for got, want in zip(run.again().wait(), evaluate(graph, {"x": first.outputs[0].numpy()}), strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)
    model.close()
    other.close()


#: Rows of 24 bytes: every other one begins where 16 bytes cannot be moved at once.
ROWS = """
graph @main(%x: f32[5,6], %h: f32[6], %y: f32[5,4]) {
  %last, %back = loop(%h, %x) {trips=5, carried=1, scanned=(1,), stacked=(0,)} {
    graph @rows(%i: i64[], %s: f32[6], %row: f32[6]) {
      %a = add(%s, %row) : f32[6]
      %e = exp(%row) : f32[6]
      return %a, %e
    }
  } : f32[6], f32[5,6]
  %all = loop(%y) {trips=5, scanned=(0,), stacked=(0,)} {
    graph @wide(%i: i64[], %row: f32[4]) {
      %e = exp(%row) : f32[4]
      return %e
    }
  } : f32[5,4]
  return %last, %back, %all
}
"""


def test_rows_that_begin_anywhere(compiled: Compile) -> None:
    graph, opened = compiled(ROWS)
    model = opened()
    agrees(graph, model, arrays(graph))
    add, odd, even = (model.program.kernels[launch.kernel].threads for launch in model.program.launches)
    assert add == odd == 128 > even, "tasks"
    model.close()


#: Ended by its condition, which is the model's input at first, or after 6 trips.
WHILE = """
graph @main(%go: bool[], %x: f32[2], %limit: f32[]) {
  %zero = constant 0 : i64[]
  %on, %y, %squares = loop(%go, %x, %zero, %limit) {trips=6, carried=3, conditional=1} {
    graph @step(%i: i64[], %on: bool[], %s: f32[2], %n: i64[], %limit: f32[]) {
      %t = add(%s, %s) : f32[2]
      %m = reduce_max(%t) {axes=(0,), keepdims=0} : f32[]
      %next = less(%m, %limit) : bool[]
      %k = mul(%i, %i) : i64[]
      %sum = add(%n, %k) : i64[]
      return %next, %t, %sum
    }
  } : bool[], f32[2], i64[]
  return %on, %y, %squares
}
"""


def test_a_loop_that_its_condition_ends(compiled: Compile, asked) -> None:
    graph, opened = compiled(WHILE)
    model = opened()
    for limit, trips in ((0, 1), (3, 2), (30, 5), (1000, 6), (1000, 6), (3, 2)):
        asked.clear()
        feed = arrays(graph, go=True, x=[1, 0.5], limit=limit)
        agrees(graph, model, feed)
        assert asked["replay"] == trips * len(model._replay._parts[0].body)
        assert asked["synchronize"] == min(trips + 1, 6) + 1, "at each decision, and at the end"
    assert asked["rebind"] == 0, "all recordings have been used"
    agrees(graph, model, arrays(graph, go=False))
    asked.clear()
    run = model.run_async([feed[v.name] for v in graph.inputs], [None] * 3, 0)
    assert asked["synchronize"] == 3
    run.again()
    assert asked["synchronize"] == 6, "the same decisions"
    for got, want in zip(run.wait(), evaluate(graph, feed), strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)
    model.close()


#: One of the branches has a view of what it captures, the other another branch.
BRANCHES = """
graph @main(%c: bool[], %d: bool[], %x: f32[4,8], %w: f32[8]) {
  %p, %q = if(%c, %x, %w, %d) {
    graph @product(%x: f32[4,8], %w: f32[8], %d: bool[]) {
      %a = mul(%x, %w) : f32[4,8]
      %b = if(%d, %a, %x) {
        graph @minus(%a: f32[4,8], %x: f32[4,8]) {
          %s = sub(%a, %x) : f32[4,8]
          return %s
        }
        graph @nothing(%a: f32[4,8], %x: f32[4,8]) { return %x }
      } : f32[4,8]
      return %a, %b
    }
    graph @view(%x: f32[4,8], %w: f32[8], %d: bool[]) {
      %e = exp(%x) : f32[4,8]
      return %x, %e
    }
  } : f32[4,8], f32[4,8]
  %sum = add(%p, %q) : f32[4,8]
  return %sum, %q
}
"""


def test_branches(compiled: Compile, asked) -> None:
    graph, opened = compiled(BRANCHES)
    model = opened()
    assert shown(model._replay._parts)[0][0] == "if"
    for c in (True, False, True):
        for d in (False, True):
            asked.clear()
            feed = arrays(graph, c=c, d=d)
            agrees(graph, model, feed)
            assert asked["synchronize"] == 1, "the host decides by its own arrays"
            flags = [DeviceArray(feed[name].ctypes.data, "bool", (), (1, 0), None, print, print) for name in "cd"]
            inputs = [*(model.borrow(flag, (1, 0), None) for flag in flags), feed["x"], feed["w"]]
            asked.clear()
            for got, want in zip(model.run(inputs), evaluate(graph, feed), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-6)
            assert asked["synchronize"] == (3 if c else 2), "it waits for what lies elsewhere"
    model.close()


def test_recurrent_networks_and_scans_of_onnx() -> None:
    """Against ONNX Runtime."""
    rng = np.random.default_rng(4)
    weights = {"w": (1, 4, 5), "r": (1, 4, 4), "b": (1, 8)}
    constants = [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
                 for name, shape in weights.items()]  # fmt: skip

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    body = helper.make_graph(
        [helper.make_node("Add", ["s", "h"], ["t"]), helper.make_node("Tanh", ["t"], ["u"])],
        "body", [value("s", 2, 4), value("h", 2, 4)], [value("t", 2, 4), value("u", 2, 4)],
    )  # fmt: skip
    nodes = [
        helper.make_node("RNN", ["x", "w", "r", "b"], ["y", "last"], hidden_size=4),
        helper.make_node("Squeeze", ["y", "one"], ["rows"]),
        helper.make_node("Squeeze", ["last", "zero"], ["start"]),
        helper.make_node("Scan", ["start", "rows"], ["sum", "all"], body=body, num_scan_inputs=1,
                         scan_input_directions=[1]),
    ]  # fmt: skip
    constants += [numpy_helper.from_array(np.array([n]), name) for name, n in (("zero", 0), ("one", 1))]
    outputs = [value("last", 1, 2, 4), value("sum", 2, 4), value("all", 3, 2, 4)]
    graph = helper.make_graph(nodes, "recurrent", [value("x", 3, 2, 5)], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feed = {"x": rng.standard_normal((3, 2, 5)).astype(np.float32)}
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with tensorc.compile(model, target="cuda:sm_90") as compiled:
        assert len(shown(compiled.executable._replay._parts)) == 1, "one recording"
        for got, want in zip(compiled.run(None, feed), session.run(None, feed), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
