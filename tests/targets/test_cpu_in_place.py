"""Elementwise kernels that write where they read, in compiled models."""

from __future__ import annotations

import numpy as np
import pytest

from passes.fusion import body_of, is_view
from passes.memory import InsertCopies, OrderNodes, plan_memory
from targets.cpu.target import CpuTarget
from tensorc.ir import Graph, clone, evaluate, parse_graph
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.runtime.constants import ConstantStore

pytestmark = pytest.mark.compiler

CHAIN = """graph @main(%x: {t}, %y: {row}) {{
  %a = neg(%x) : {t}
  %b = add(%a, %y) : {t}
  %c = mul(%b, %b) : {t}
  %d = sub(%c, %a) : {t}
  %e = {function}(%d) : {t}
  %f = max(%e, %y) : {t}
  %0 = reshape(%f) {{shape={flat}}} : {flat_type}
  %g = abs(%0) : {flat_type}
  %h = neg(%g) : {flat_type}
  return %h
}}"""


def one_by_one(graph: Graph) -> Graph:
    """Every node but views a group of its own."""
    for node in [node for node in graph.nodes if not is_view(node)]:
        body, inputs = body_of([node])
        group = graph.make("group", inputs, {}, body, name=node.output.name)
        graph.nodes[graph.nodes.index(node)] = group
        graph.replace(node.output, group.output)
        node.inputs = ()
    return graph


@pytest.mark.parametrize(
    ("dtype", "shape", "function"),
    [("f32", (3, 37), "tanh"), ("f32", (2, 20011), "exp"), ("f64", (5, 1000), "sin"), ("i32", (700, 30), "neg")],
)
def test_chains_take_two_places(dtype, shape, function):
    rows, length = shape
    t, flat = f"{dtype}[{rows},{length}]", (rows * length,)
    text = CHAIN.format(t=t, row=f"{dtype}[{length}]", function=function, flat=flat, flat_type=f"{dtype}[{flat[0]}]")
    graph = one_by_one(parse_graph(text))
    original = clone(graph)
    run_passes(graph, [InsertCopies(), OrderNodes()])
    plan = plan_memory(graph)
    # %a is needed until %d is made over %c, which %b had been.
    nbytes = graph.inputs[0].type.nbytes
    assert 2 * nbytes <= plan.arena_bytes < 2 * nbytes + 128
    assert len({plan.places[node.output] for node in graph.nodes if node.output not in graph.outputs}) == 2
    rng = np.random.default_rng(5)
    data = {v.name: (rng.standard_normal(v.shape) * 3).astype(v.dtype) for v in graph.inputs}
    (want,) = evaluate(original, data)
    target, options = CpuTarget(), CompileOptions()
    program = target.build(graph, options, {}, lambda *_: None)
    sections = {name: memoryview(b"".join(chunks)) for name, chunks in program.sections.items()}
    for threads in (1, 3):
        constants = ConstantStore().get(program.constants)
        executable = target.load(program.manifest, sections, constants, threads)
        for _ in range(2):
            (got,) = executable.run(list(data.values()))
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        executable.close()
