"""The CPU target as the core uses it: what it builds, how it says no, and that results do not hang on threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper

import tensorc
from targets.cpu import kernels
from targets.cpu.target import CpuTarget
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, evaluate, parse_graph
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes

pytestmark = pytest.mark.compiler

NETWORK = """graph @main(%x: f32[1,16,14,14]) {
  %w = constant @"w" : f32[32,16,3,3]
  %v = constant @"v" : f32[24,32,1,1]
  %k = constant @"k" : f32[24,10]
  %0 = conv(%x, %w) {strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1)} : f32[1,32,14,14]
  %1 = relu(%0) : f32[1,32,14,14]
  %2 = conv(%1, %v) {strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)} : f32[1,24,14,14]
  %3 = silu(%2) : f32[1,24,14,14]
  %4 = reduce_mean(%3) {axes=(2, 3), keepdims=0} : f32[1,24]
  %5 = matmul(%4, %k) : f32[1,10]
  %6 = softmax(%5) {axis=1} : f32[1,10]
  return %6, %3
}"""


def network() -> Graph:
    rng = np.random.default_rng(2)
    shapes = {"w": (32, 16, 3, 3), "v": (24, 32, 1, 1), "k": (24, 10)}
    return parse_graph(NETWORK, {n: rng.standard_normal(s).astype(np.float32) * 0.2 for n, s in shapes.items()})


def built(target: CpuTarget, graph: Graph, told=lambda *_: None, threads: int = 0):
    options = CompileOptions(threads=threads)
    run_passes(graph, target.passes(options))
    program = target.build(graph, options, {}, told)
    sections = {name: memoryview(b"".join(map(bytes, chunks))) for name, chunks in program.sections.items()}
    return program, sections


def test_what_is_built_runs():
    target = CpuTarget()
    graph = network()
    x = np.random.default_rng(0).standard_normal((1, 16, 14, 14), np.float32)
    want = evaluate(graph, {"x": x})
    program, sections = built(target, graph)
    executable = target.load(program.manifest, sections, 0)
    for got, expected in zip(executable.run([x]), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    executable.close()
    rows = dict(program.summary)
    assert rows["kernels"] == f"{len(program.manifest['kernels'])} for {len(program.manifest['steps'])} steps"


def test_building_twice_gives_the_same_code():
    """Kernels are compiled on several threads; the order in which they finish must not show."""
    manifests, codes = zip(*((p.manifest, bytes(s["code"])) for p, s in (built(CpuTarget(), network()) for _ in "ab")),
                           strict=True)  # fmt: skip
    assert manifests[0] == manifests[1]
    assert codes[0] == codes[1]


def test_progress_counts_every_kernel_once():
    calls = []
    program, _ = built(CpuTarget(), network(), lambda *call: calls.append((*call, threading.current_thread())))
    kernels = program.manifest["kernels"]
    assert [done for done, *_ in calls] == [*range(1, len(kernels) + 1), len(kernels)]
    assert {total for _, total, *_ in calls} == {len(kernels)}
    assert sorted(name for _, _, name, _ in calls[:-1]) == sorted(kernels)
    assert {thread for *_, thread in calls} == {threading.current_thread()}


def test_an_interrupt_ends_the_build():
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(CpuTarget(), network(), stop)


def test_a_kernel_that_cannot_be_compiled_ends_the_build(monkeypatch):
    def fail(kernels, *_):
        raise RuntimeError(f"LLVM: {next(iter(kernels))}")

    monkeypatch.setattr("targets.cpu.build.build_object", fail)
    with pytest.raises(RuntimeError, match="LLVM: k"):
        built(CpuTarget(), network())


def test_operators_without_a_kernel_are_named_in_one_line(monkeypatch):
    monkeypatch.delitem(kernels._FIXED, "scatter")
    graph = parse_graph(
        "graph @main(%x: f32[1,4,8], %i: i64[1,2], %u: f32[1,2,8]) { %0 = exp(%x) : f32[1,4,8] "
        "%1 = scatter(%0, %i, %u) : f32[1,4,8] %2 = scatter(%1, %i, %u) : f32[1,4,8] return %2 }"
    )
    with pytest.raises(UnsupportedError) as caught:
        built(CpuTarget(), graph)
    assert str(caught.value) == "the cpu target has no kernel for: scatter (2)"


def test_a_model_with_an_operator_without_a_kernel(monkeypatch):
    monkeypatch.delitem(kernels._FIXED, "scatter")
    nodes = [helper.make_node("Exp", ["x"], ["h"]), helper.make_node("ScatterND", ["h", "i", "u"], ["y"])]
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xuy"]
    rows.insert(1, helper.make_tensor_value_info("i", TensorProto.INT64, [2, 1]))
    graph = helper.make_graph(nodes, "scattered", rows[:3], rows[3:])
    with pytest.raises(UnsupportedError) as caught:
        tensorc.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert "scatter" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_filter_that_is_computed_has_no_kernel():
    graph = parse_graph(
        "graph @main(%x: f32[1,16,4,4], %w: f32[16,16,1,1]) { "
        "%0 = conv(%x, %w) {strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1)} : f32[1,16,4,4] return %0 }"
    )
    with pytest.raises(UnsupportedError, match=r"^the cpu target has no kernel for: conv \(1\)$"):
        built(CpuTarget(), graph)


def test_a_graph_without_nodes():
    target = CpuTarget()
    program, sections = built(target, parse_graph("graph @main(%x: f32[3]) { return %x }"))
    executable = target.load(program.manifest, sections, 1)
    x = np.arange(3, dtype=np.float32)
    (got,) = executable.run([x])
    np.testing.assert_array_equal(got, x)
    assert not np.shares_memory(got, x)
    executable.close()


@pytest.mark.parametrize("part", ["", "x86-64-v3", "x86-64-v2", "haswell"])
def test_threads_give_the_same_results(part):
    target = CpuTarget(part)
    graph = network()
    x = np.random.default_rng(1).standard_normal((1, 16, 14, 14), np.float32)
    want = evaluate(graph, {"x": x})
    program, sections = built(target, graph)
    results = []
    for threads in (1, 2, 5):
        executable = target.load(program.manifest, sections, threads)
        results.append(executable.run([x]))
        executable.close()
    for got in results:
        for ours, first, expected in zip(got, results[0], want, strict=True):
            np.testing.assert_array_equal(ours, first)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_two_threads_run_one_model_at_once():
    target = CpuTarget()
    program, sections = built(target, network(), threads=2)
    executable = target.load(program.manifest, sections, 2)
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal((1, 16, 14, 14), np.float32) for _ in range(4)]
    want = [executable.run([x]) for x in inputs]

    def run(number: int) -> None:
        for turn in range(200):
            which = (number + turn) % len(inputs)
            for got, expected in zip(executable.run([inputs[which]]), want[which], strict=True):
                np.testing.assert_array_equal(got, expected)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    executable.close()


def test_tvm_is_not_needed_to_run(tmp_path):
    path = tmp_path / "model.tcm"
    row = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 40])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 40])
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "soft", [row], [out])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    tensorc.compile(proto, out=path).close()
    code = (
        "import sys, numpy as np, tensorc; "
        "print(tensorc.load(sys.argv[1]).run(None, {'x': np.zeros((2, 40), np.float32)})[0].sum()); "
        "assert not {'tvm', 'tvm_ffi', 'onnx', 'passes'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(2)
