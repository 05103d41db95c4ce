"""C simulation of generated projects against the graph's interpreter."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from targets.hls.layers.layer import Unroll
from targets.hls.printing import testbench
from targets.hls.program import Program
from targets.hls.simulation import csim, pragmas
from tensorc.errors import UserError
from tensorc.ir import Graph, TensorType

UNROLLS = {
    "little": {},
    "more": {
        "relu0": Unroll(4, 1), "relu1": Unroll(8, 4), "relu2": Unroll(4, 8), "logits_1": Unroll(2, 4),
        "pool1_2": Unroll(2, 2),
    },
}  # fmt: skip


@pytest.mark.compiler
@pytest.mark.parametrize("unrolls", UNROLLS.values(), ids=UNROLLS)
def test_digits_are_exact(digits, project, unrolls):
    program = digits.program("digits", unrolls)
    inputs, wanted = digits.vectors(program, 20)
    (found,) = csim.run(project(program), inputs)
    np.testing.assert_array_equal(found, wanted[0])


@pytest.fixture(scope="module")
def pair(fixed):
    """Two inputs, of which one has an order of its own, and two outputs."""
    rng = np.random.default_rng(1)
    graph = Graph("pair")
    x = graph.add_input("x", TensorType("float64", (2, 3)))
    y = graph.add_input("y", TensorType("float64", (3, 2)))
    turned = graph.add("transpose", [y], {"perm": (1, 0)}, name="turned")
    weights = graph.constant(rng.standard_normal((3, 3)), name="weights")
    both = graph.add("add", [x, turned], name="both")
    graph.outputs = [
        graph.add("matmul", [both, weights], {"transpose_b": False}, name="product"),
        graph.add("relu", [turned], name="positive"),
    ]  # fmt: skip
    return fixed(graph, [rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 3, 2))])


@pytest.mark.compiler
def test_several_inputs_and_outputs_with_sanitizers(pair, project):
    program = pair.program("pair")
    inputs, wanted = pair.vectors(program, 4)
    with csim.compiled(project(program), sanitize=True) as simulation:
        found = simulation.run(inputs)
    assert len(found) == 2
    for array, right in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(array, right)


@pytest.mark.compiler
def test_the_bench_compares_with_golden_vectors(pair, project, tmp_path):
    program = pair.program("pair")
    inputs, wanted = pair.vectors(program, 3)
    data = tmp_path / "vectors"
    data.mkdir()

    def write(name: str, array: np.ndarray) -> None:
        np.savetxt(data / f"{name}.dat", array.reshape(len(array), -1), fmt="%d")

    for number in range(2):
        write(f"input_{number}", inputs[number])
        write(f"output_{number}", wanted[number])
    with csim.compiled(project(program)) as simulation:
        assert (simulation.check(data).images, simulation.check(data).mismatches) == (3, 0)
        assert len((simulation.data / "csim_results.log").read_text().splitlines()) == 6
        other = wanted[1].copy()
        other[2, 1] += 1
        write("output_1", other)
        found = simulation.check(data)
        assert (found.images, found.mismatches) == (3, 1)
        assert f"image 2, output_1: number 1 is {wanted[1][2, 1]}, not {other[2, 1]}" in found.text
        done = subprocess.run([simulation.program], cwd=simulation.data.parent, capture_output=True, check=False)
        assert done.returncode == 1
        write("output_1", other[:2])
        with pytest.raises(UserError, match="fewer images than results"):
            simulation.check(data)
        write("output_1", other[:, :2])
        with pytest.raises(UserError, match=r"output_1.dat: an image has"):
            simulation.check(data)
        write("output_1", other)
        write("input_1", inputs[1][:2])
        with pytest.raises(UserError, match=r"input_1.dat has fewer images than input_0"):
            simulation.check(data)
        high = program.inputs[1].channel.kind.full.high
        with pytest.raises(UserError, match=r"input_1.dat holds what is no signed number of 8 bits"):
            simulation.run([inputs[0], inputs[1] * 0 + high + 1])
        with pytest.raises(UserError, match="all have the same number"):
            simulation.run([inputs[0], inputs[1][:2]])


@pytest.mark.compiler
def test_our_code_has_no_warnings(digits, pair, project):
    for program in (digits.program("digits", UNROLLS["more"]), pair.program("pair")):
        folder = project(program)
        command = ["g++", "-std=c++14", "-fsyntax-only", "-Wall", "-Wextra", "-Wshadow", "-Wno-unknown-pragmas"]
        sources = [f"{program.name}_test.cpp", f"firmware/{program.name}.cpp"]
        done = subprocess.run(
            [*command, f"-isystem{csim.headers()}", *sources], cwd=folder, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.compiler
def test_layers_may_bear_any_name(fixed, project):
    """Keywords, what channels and the vendor's headers are called, what C++ keeps for itself."""
    rng = np.random.default_rng(2)
    graph = Graph("names")
    value = graph.add_input("in", TensorType("float64", (2, 3)))
    for name in ("a", "a_in", "int", "std", "/Conv//x"):
        weights = graph.constant(rng.standard_normal((3, 3)), name=f"{name}.weights")
        value = graph.add("matmul", [value, weights], {"transpose_b": False}, name=name)
    graph.outputs = [value]
    network = fixed(graph, [rng.standard_normal((2, 2, 3))])
    program = network.program("many")
    folder = project(program)
    assert pragmas.lint_project(folder) == []
    inputs, wanted = network.vectors(program, 2)
    np.testing.assert_array_equal(csim.run(folder, inputs)[0], wanted[0])


@pytest.mark.compiler
def test_words_that_are_left_are_found(pair, project):
    """A layer that writes fewer than there are."""
    program = pair.program("pair")
    folder = project(program)
    inputs, _ = pair.vectors(program, 1)
    source = folder / "firmware" / "pair.cpp"
    text, count = re.subn(r"(// compute.*\n *for \(int (\w+) = 0; \2 < )(\d+)", r"\g<1>1", source.read_text(), count=1)
    assert count == 1
    source.write_text(text)
    with pytest.raises(RuntimeError, match="WARNING: Hls::stream"):
        csim.run(folder, inputs)


@pytest.mark.compiler
def test_time_limits(pair, project):
    with pytest.raises(UserError, match=r"compiling the C simulation took longer than the 0.01 s"):
        csim.run(project(pair.program("pair")), [], seconds=0.01)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"holds 0 files \*_test.cpp"):
        csim.run(tmp_path, [])
    (tmp_path / "net_test.cpp").write_text("")
    with pytest.raises(UserError, match=r"firmware/net.cpp: there is no such file"):
        csim.run(tmp_path, [])
    (tmp_path / "firmware").mkdir()
    (tmp_path / "firmware" / "net.cpp").write_text("")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"needs g\+\+"):
        csim.run(tmp_path, [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"tensorc\[hls\].*hls4ml==1.3.0"):
        csim.run(tmp_path, [])


def test_an_order_without_loops_is_a_table(pair):
    program: Program = pair.program("pair")
    order = np.array([0, 5, 1, 4, 2, 3])
    port = replace(program.inputs[0], order=order)
    text = testbench.bench(replace(program, inputs=(port, *program.inputs[1:])))
    assert "        0, 5, 1, 4, 2, 3\n" in text
