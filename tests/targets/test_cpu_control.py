"""Loops and branches on the CPU: compiled models against the meaning of their graphs, on one thread and several."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import targets.cpu.profile as profiling
from targets.control import Loop
from targets.cpu.executable import CpuExecutable
from targets.cpu.program import CpuProgram, Step
from targets.cpu.target import CpuTarget
from tensorc.ir import Graph, clone, evaluate, parse_graph
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.profiling import Ceilings, Level
from tensorc.runtime.constants import ConstantStore

Compile = Callable[..., tuple[Graph, Callable[[int], CpuExecutable]]]


@pytest.fixture(scope="module")
def compiled() -> Compile:
    """compiled(text, constants): the graph, and what opens the model made of it with so many threads."""

    def make(text: str, data: Mapping[str, np.ndarray] | None = None):
        target, options = CpuTarget(), CompileOptions()
        graph = parse_graph(text, data)
        lowered = clone(graph)
        run_passes(lowered, target.passes(options))
        program = target.build(lowered, options, {}, lambda *_: None)
        sections = {name: memoryview(b"".join(chunks)) for name, chunks in program.sections.items()}
        constants = ConstantStore().get(program.constants)
        manifest = json.loads(json.dumps(program.manifest))
        return graph, lambda threads: CpuExecutable(manifest, sections, constants, threads)

    return make


def arrays(graph: Graph, **given: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    found = {v.name: rng.standard_normal(v.shape).astype(v.dtype) for v in graph.inputs}
    return found | {name: np.asarray(value, found[name].dtype) for name, value in given.items()}


def agrees(graph: Graph, model: CpuExecutable, feed: Mapping[str, np.ndarray]) -> None:
    for got, want in zip(model.run([feed[v.name] for v in graph.inputs]), evaluate(graph, feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_loops_in_loops(compiled: Compile, nested_loops: str) -> None:
    graph, opened = compiled(nested_loops)
    for threads in (1, 3):
        model = opened(threads)
        for c in (True, False):
            for n in (-2, 0, 1, 2, 5):
                agrees(graph, model, arrays(graph, c=c, n=n))
        model.close()


#: Steps of many tasks inside a loop, whose weights are packed; what is carried is the model's input and output.
CHAIN = """
graph @main(%x: f32[64,256], %w: f32[256,256]) {
  %k = constant @"k" : f32[256,256]
  %y, %all = loop(%x, %k) {trips=7, carried=1, stacked=(1,)} {
    graph @step(%i: i64[], %s: f32[64,256], %k: f32[256,256]) {
      %p = matmul(%s, %k) {transpose_b=0} : f32[64,256]
      %t = tanh(%p) : f32[64,256]
      return %t, %p
    }
  } : f32[64,256], f32[7,64,256]
  %z = matmul(%y, %w) {transpose_b=0} : f32[64,256]
  return %y, %z, %all
}
"""


@pytest.fixture(scope="module")
def chain(compiled: Compile):
    return compiled(CHAIN, {"k": (np.random.default_rng(8).standard_normal((256, 256)) / 16).astype(np.float32)})


def test_shared_steps_inside_a_loop(chain) -> None:
    graph, opened = chain
    feed = arrays(graph)
    want = evaluate(graph, feed)
    for threads in (1, 2, 4):
        model = opened(threads)
        assert any(isinstance(step, Step) and step.tasks > 1 and not step.serial for step in model.program.steps)
        for _ in range(5):
            for got, expected in zip(model.run([feed[v.name] for v in graph.inputs]), want, strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
        model.close()


def test_runs_at_once_have_pointers_of_their_own(chain) -> None:
    graph, opened = chain
    model = opened(2)
    feeds = [{k: v * scale for k, v in arrays(graph).items()} for scale in np.float32([0.1, 0.5, 1, 2])]
    want = [evaluate(graph, feed) for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(model.run, [feed[v.name] for v in graph.inputs]) for _ in range(6) for feed in feeds]
    for number, run in enumerate(runs):
        for got, expected in zip(run.result(), want[number % 4], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    model.close()


def test_a_profile_counts_calls_and_leaves_control_out(chain, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, opened = chain
    monkeypatch.setattr(profiling, "ceilings", lambda *_, **__: Ceilings(1, 1.0, [Level("memory", math.inf, 1.0)]))
    model = opened(1)
    feed = [arrays(graph)[v.name] for v in graph.inputs]
    steps = model.program.steps
    (loop,) = [number for number, step in enumerate(steps) if isinstance(step, Loop)]
    inside = [n for n, s in enumerate(steps) if isinstance(s, Step) and s.calls == 7]
    assert inside
    assert all(loop < number < steps[loop].end for number in inside)
    profile = model.profile(feed, 0.01, False, lambda *_: None)
    assert len(profile.steps) == sum(isinstance(step, Step) for step in steps)
    assert {row.calls for row in profile.rows()} == {1, 7}
    model.close()


def test_programs_come_back_from_json(compiled: Compile, nested_loops: str) -> None:
    _, opened = compiled(nested_loops)
    model = opened(1)
    text = json.dumps(model.program.to_json())
    assert CpuProgram.from_json(json.loads(text)) == model.program
    model.close()
