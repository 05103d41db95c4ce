"""Experts on hardware: the greatest of a row, what is picked, matrices by which rows go that chose them. Bit for bit in
C simulation and in Verilog, in the cycles that were foretold; how often matrices are read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.hls.experts import every_expert
from targets.hls.hardware.timing import depths, timing_of, with_depths
from targets.hls.layers.experts import Experts, evaluations
from targets.hls.layers.layer import Unroll
from targets.hls.simulation import csim, rtl
from tensorc.driver import compile_model
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, TensorType
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target

IMAGES, ROWS, EACH, EXPERTS, DEPTH, WIDTH = 6, 5, 2, 3, 4, 6


def mixture() -> tuple[Graph, list[np.ndarray]]:
    """Rows choose by their own first numbers; the greatest and the least are told, too, and a product of what is
    computed."""
    rng = np.random.default_rng(3)
    graph = Graph("mixture")
    x = graph.add_input("x", TensorType("float64", (ROWS, DEPTH)))
    gates = graph.add_input("gates", TensorType("float64", (ROWS, EXPERTS)))
    which = graph.add("top_k", [gates], {"axis": 1, "k": EACH})
    top = graph.add("gather_elements", [gates, which], {"axis": 1}, name="top")
    least = graph.add("top_k", [gates], {"axis": 1, "k": EXPERTS, "largest": 0}, name="least")

    def experts(value, name, depth, width):
        weights = graph.constant(rng.standard_normal((EXPERTS, depth, width)), name=f"{name}.weights")
        # Whole numbers, whose grid is coarser than that of products, are added to these all the same.
        bias = graph.constant(np.rint(rng.standard_normal((EXPERTS, width)) * 2), name=f"{name}.bias")
        return graph.add("experts", [value, which, weights, bias], name=name)

    first = graph.add("reshape", [x], {"shape": (ROWS, 1, DEPTH)})
    first = graph.add("relu", [experts(first, "up.product", DEPTH, WIDTH)], name="up")
    second = experts(first, "down", WIDTH, DEPTH)
    shares = graph.add("reshape", [top], {"shape": (ROWS, 1, EACH)})
    graph.outputs = [graph.add("matmul", [shares, second], name="mixed"), least]
    graph.remove_dead()
    gates_given = rng.standard_normal((IMAGES, ROWS, EXPERTS))
    gates_given[0] = 0  # all equal: the first ones are chosen
    gates_given[1, :, 0] = -9  # nobody takes this one
    return graph, [rng.standard_normal((IMAGES, ROWS, DEPTH)), gates_given]


@pytest.fixture(scope="module")
def mixed(fixed):
    return fixed(*mixture())


UNROLLS = {"little": {}, "more": {"up": Unroll(3, 2), "down": Unroll(2, 6), "mixed": Unroll(4, 4)}}


def program_of(mixed, unrolls):
    assert {"up", "down", "mixed"} <= {layer.name for layer in mixed.network.layers}
    program = mixed.program("mixture", unrolls)
    return with_depths(program, depths(program))


@pytest.mark.compiler
@pytest.mark.parametrize("unrolls", UNROLLS.values(), ids=UNROLLS)
def test_experts_are_exact_in_verilog_in_the_cycles_that_were_foretold(mixed, unrolls):
    program = program_of(mixed, unrolls)
    inputs, wanted = mixed.vectors(program, IMAGES)
    run = rtl.simulate(program, inputs)
    for port, found, right in zip(program.outputs, run.outputs, wanted, strict=True):
        np.testing.assert_array_equal(found.reshape(IMAGES, -1), right, err_msg=port.name)
    assert run.ends == timing_of(program, images=IMAGES).ends


_COUNTING = """#include <cstdio>
static struct Told {
    long products = 0, matrices = 0, last = -1;
    void operator()(bool first, long which) { products++; matrices += first || which != last; last = which; }
    ~Told() { std::FILE *file = std::fopen("PATH", "w"); std::fprintf(file, "%ld %ld", products, matrices); }
} told;
"""


@pytest.mark.compiler
def test_only_what_was_chosen_is_computed_and_each_matrix_is_taken_once(mixed, project, tmp_path):
    """Counted while the C++ runs, where each iteration is a row by a matrix: these, and how often another matrix is
    taken than the last time."""
    program = program_of(mixed, {"up": Unroll(WIDTH, DEPTH), "down": Unroll(DEPTH, WIDTH)})
    folder = project(program)
    source, images = folder / "firmware" / "mixture.cpp", 3
    text, places = re.subn(r"which = order\[entry\];", r"\g<0> told(entry == 0, which);", source.read_text())
    assert places == 2
    source.write_text(text.replace("#include", _COUNTING.replace("PATH", str(tmp_path / "told")) + "#include", 1))
    inputs, wanted = mixed.vectors(program, images)
    for found, right in zip(csim.run(folder, inputs), wanted, strict=True):
        np.testing.assert_array_equal(found, right)
    gates = mixed.samples[1][:images]
    used = [len(np.unique(np.argsort(-image, axis=1, kind="stable")[:, :EACH])) for image in gates]
    assert used[:2] == [2, 2] < [EXPERTS] * 2
    products, matrices = map(int, (tmp_path / "told").read_text().split())
    assert products == images * 2 * evaluations(ROWS, EACH) < images * 2 * ROWS * EXPERTS
    assert matrices == 2 * sum(used)


def test_nothing_grows_with_the_experts_that_are_not_chosen(mixed):
    up = next(layer for layer in mixed.network.layers if isinstance(layer, Experts))
    process = next(p for p in mixed.program("mixture").processes if p.name == up.name)
    compute = next(nest for nest in process.nests() if nest.name == "compute")
    assert compute.trip == evaluations(ROWS, EACH) * DEPTH * WIDTH


def test_experts_that_are_computed_have_no_form(fixed):
    graph = Graph("computed")
    shapes = ((ROWS, 1, DEPTH), (EXPERTS, DEPTH, WIDTH), (ROWS, EXPERTS))
    x, weights, gates = (graph.add_input(f"x{n}", TensorType("float64", shape)) for n, shape in enumerate(shapes))
    which = graph.add("top_k", [gates], {"axis": 1, "k": EACH})
    bias = graph.constant(np.ones((EXPERTS, WIDTH)), name="bias")
    graph.outputs = [graph.add("experts", [x, which, weights, bias])]
    with pytest.raises(UnsupportedError, match="experts that are computed"):
        fixed(graph, [np.ones((1, *shape)) for shape in shapes])


@pytest.mark.compiler
def test_a_model_whose_task_chooses_the_gate_goes_through_the_whole_chain(tmp_path: Path):
    onnx.save(every_expert(2, 2, 3, 3, 1, tasks=2), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    samples = tmp_path / "samples.npz"
    np.savez(samples, x=rng.standard_normal((20, 2, 2)).astype(np.float32), task=rng.integers(0, 2, 20))
    options = CompileOptions(target="hls:xc7z020", quantize=Quantization("fixed8", samples), objective="resources")
    compile_model(tmp_path / "model.onnx", options, tmp_path / "project")
    checks = find_target("hls").check(tmp_path / "project", tmp_path / "model.onnx", samples, lambda *_: None)
    assert [check.name for check in checks if not check.ok] == []
    numbers = {check.name: check.numbers for check in checks}
    assert numbers["model"]["snr_db"] > 15
    options = CompileOptions(target="c", quantize=Quantization("fixed8", samples))
    compile_model(tmp_path / "model.onnx", options, tmp_path / "model.c")
    assert subprocess.run(["cc", "-std=c99", "-fsyntax-only", tmp_path / "model.c"], check=False).returncode == 0
