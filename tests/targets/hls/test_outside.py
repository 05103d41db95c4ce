"""Memory outside the chip: exact in C and in Verilog, in the cycles that were foretold, and it takes no block RAM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from targets.hls.hardware.estimate import estimate
from targets.hls.hardware.pipeline import designs_of
from targets.hls.hardware.timing import depths, timing_of, with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import program_of
from targets.hls.layers.split import waiting_outside
from targets.hls.parts import find_part
from targets.hls.printing import cpp, verilog
from targets.hls.program import OUTSIDE, OUTSIDE_LATENCY
from targets.hls.simulation import csim, fibers, pragmas, rtl
from targets.hls.simulation.synthesis import synthesize
from tensorc.ir import Graph, TensorType

IMAGES = 2
DENSE = {"dense": Unroll(4, 3, OUTSIDE)}


def network_graph() -> tuple[Graph, list[np.ndarray]]:
    """A convolution, a depthwise one, and a product whose weights are most of all."""
    rng = np.random.default_rng(8)
    graph = Graph("wide")
    x = graph.add_input("x", TensorType("float64", (1, 2, 4, 3)))

    def conv(value, name, shape, pad, groups):
        weights = graph.constant(rng.standard_normal(shape), name=f"{name}.weights")
        attrs = {"strides": (1, 1), "pads": (pad,) * 4, "dilations": (1, 1), "groups": groups}
        return graph.add("conv", [value, weights], attrs, name=f"{name}.conv")

    first = graph.add("relu", [conv(x, "first", (4, 2, 3, 3), 1, 1)], name="first")
    second = graph.add("relu", [conv(first, "second", (4, 1, 2, 2), 0, 4)], name="second")
    flat = graph.add("reshape", [second], {"shape": (1, 24)}, name="flat")
    weights = graph.constant(rng.standard_normal((24, 20)), name="dense.weights")
    bias = graph.constant(rng.standard_normal(20), name="dense.bias")
    product = graph.add("matmul", [flat, weights], {"transpose_b": 0}, name="dense.product")
    graph.outputs = [graph.add("add", [product, bias], name="dense")]
    return graph, [rng.standard_normal((3, 1, 2, 4, 3))]


@pytest.fixture(scope="module")
def wide(fixed):
    return fixed(*network_graph())


def sized(program):
    return with_depths(program, depths(program))


def assert_exact(network, program, folder=None):
    """In Verilog, in C, and in C with channels that have an end. Gives the timing."""
    designs = designs_of(program)
    inputs, wanted = network.vectors(program, IMAGES)
    timing = timing_of(program, designs, images=IMAGES)
    run = rtl.simulate(program, inputs, designs)
    assert (run.latency, run.interval) == (timing.latency, timing.interval)
    found = [run.outputs]
    if folder is not None:
        found.append(csim.run(folder, inputs))
        with fibers.compiled(program) as simulation:
            outcome = simulation.run(inputs)
        assert not outcome.deadlock
        found.append(outcome.outputs)
    for outputs in found:
        for mine, expected in zip(outputs, wanted, strict=True):
            np.testing.assert_array_equal(mine, expected.reshape(IMAGES, -1))
    return timing


@pytest.mark.compiler
def test_weights_outside_are_exact_everywhere(wide, project):
    program = sized(program_of(wide.network, DENSE, "wide"))
    assert_exact(wide, program, project(program))
    ((name, process, memory),) = program.outside
    assert (name, process.name, memory.lanes, memory.depth) == (
        "dense_weights_memory",
        "dense_weights",
        4,
        24 * 20 // 4,
    )


@pytest.mark.compiler
@pytest.mark.parametrize("port", [1, 2, 16])
def test_weights_of_all_kinds_at_all_rates(wide, port):
    unrolls = {"first": Unroll(2, 1, OUTSIDE), "second": Unroll(2, 2, OUTSIDE), "dense": Unroll(5, 2, OUTSIDE)}
    assert all(
        replace(unrolls[layer.name], constants="") in layer.choices()
        for layer in wide.network.layers
        if layer.name in unrolls
    )
    program = sized(program_of(wide.network, unrolls, "wide", port=port))
    timing = assert_exact(wide, program)
    # A convolution's weights pass once for each of its pixels.
    passed = {memory.nbytes * process.nests().__next__().trip // memory.depth for _, process, memory in program.outside}
    assert passed == {4 * 2 * 9 * 12, 4 * 4 * 6, 24 * 20}
    assert timing.interval >= max(passed) / port


@pytest.mark.compiler
def test_a_tensor_that_waits_outside(wide, project):
    network = waiting_outside(wide.network, {("second", 0)}, 4)
    program = sized(program_of(network, {"second_in_outside": Unroll(4, 4)}, "wide"))
    timing = assert_exact(type(wide)(wide.graph, network, wide.samples), program, project(program))
    # What is written is there late, and what is read comes late.
    assert timing.processes["second_in_outside"].busy == 2 * (12 - 1 + OUTSIDE_LATENCY) + 1


@pytest.mark.compiler
def test_what_is_read_before_it_is_there_is_found(wide):
    """A memory that is slow to write: what waits for less than that gets something else."""
    network = waiting_outside(wide.network, {("second", 0)}, 4)
    program = sized(program_of(network, {"second_in_outside": Unroll(4, 4)}, "wide"))
    inputs, _ = wide.vectors(program, 1)
    hasty = replaced(program, "second_in_outside", lambda process: replace(process, steps=process.steps[::-1]))
    with pytest.raises(RuntimeError, match=r"wide: the word of .* is not known"):
        rtl.simulate(hasty, inputs)


def replaced(program, name, change):
    """The program with another process of that name."""
    processes = (change(process) if process.name == name else process for process in program.processes)
    return replace(program, processes=tuple(processes))


@pytest.mark.compiler
def test_a_rate_that_was_not_agreed_is_found(wide):
    """A weight a cycle out of a port that has one in two."""
    program = program_of(wide.network, {"dense": Unroll(1, 1, OUTSIDE)}, "wide")
    inputs, _ = wide.vectors(program, 1)

    def slow(process):
        (memory,) = process.memories
        slow = replace(memory, pace=2)
        (nest,) = process.steps
        fetch, *rest = nest.body
        nest = replace(nest, body=(replace(fetch, memory=slow), *rest))
        return replace(process, steps=(nest,), memories=(slow,))

    with pytest.raises(RuntimeError, match="dense_weights_memory is asked for more than a word in 2 cycles"):
        rtl.simulate(replaced(program, "dense_weights", slow), inputs)


@pytest.mark.compiler
def test_a_word_that_is_another_outside_is_found(wide, project):
    program = sized(program_of(wide.network, DENSE, "wide"))
    folder = project(program)
    header = folder / "firmware/weights/dense_weights_memory_contents.h"
    lines = header.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.endswith("= {")) + 1
    # Of the first four outputs, what an input that is not always 0 is multiplied by.
    lines[first + 3] = (
        "    {" + ", ".join(str(int(number) ^ 64) for number in lines[first + 3].strip(" {},").split(",")) + "},"
    )
    header.write_text("\n".join(lines))
    inputs, (wanted,) = wide.vectors(program, IMAGES)
    (found,) = csim.run(folder, inputs)
    assert (found != wanted.reshape(IMAGES, -1)).sum(axis=1).tolist() != [0, 0]


@pytest.mark.compiler
def test_memory_outside_takes_nothing_of_the_chip(wide, tmp_path: Path):
    inside = program_of(wide.network, {"dense": Unroll(4, 3, "block")}, "wide")
    outside = sized(program_of(wide.network, DENSE, "wide"))
    part = find_part("XC7Z020")
    designs = designs_of(outside)
    for name, text in verilog.files(outside, designs):
        (tmp_path / name).write_text(text)
    used, promised = synthesize(tmp_path, outside.name, part.family).used, estimate(outside, designs, part)
    assert (used.dsp, used.bram18) == (promised.dsp, promised.bram18)
    assert promised.bram18 < estimate(inside, designs_of(inside), part).bram18


def test_the_top_function_has_a_port_for_each(wide):
    texts = dict(cpp.files(program_of(wide.network, DENSE, "wide")))
    assert pragmas.lint(texts) == []
    assert "const word<ap_int<8>, 4> *dense_weights_memory)" in texts["wide.h"]
    assert (
        "#pragma HLS INTERFACE m_axi port=dense_weights_memory bundle=dense_weights_memory offset=slave depth=120 "
        f"latency={OUTSIDE_LATENCY}" in texts["wide.cpp"]
    )
    assert "const word<ap_int<8>, 4> word_in = memory[number];" in texts["wide.cpp"]
    # The top function is given them: whoever calls it has the header.
    assert "weights/dense_weights_memory_contents.h" not in texts["wide.cpp"]
    assert (
        "static const known<ap_int<8>, int8_t> dense_weights_memory_contents[120][4]"
        in texts["weights/dense_weights_memory_contents.h"]
    )


PRAGMA = f"bundle=dense_weights_memory offset=slave depth=120 latency={OUTSIDE_LATENCY}"
#: What is replaced, by what, and words of what is found.
BROKEN = {
    "no depth": (" depth=120", "", "needs depth=N"),
    "depth": ("depth=120", "depth=0", "depth=0 is no whole number from 1 on"),
    "latency": (f"latency={OUTSIDE_LATENCY}", "latency=long", "latency=long is no whole number"),
    "offset": ("offset=slave", "offset=some", "offset=some is none of off, direct, slave"),
    "mode": ("m_axi port=dense", "axis port=dense", "is an array outside the chip, which has m_axi"),
    "none": (f"#pragma HLS INTERFACE m_axi port=dense_weights_memory {PRAGMA}", "", "m_axi is missing"),
    "bundle": ("bundle=dense_weights_memory", "bundle=second_weights_memory", "share the bundle"),
    "two users": ("dense_weights(dense_weights_in, dense", "dense_weights(dense_weights_in, second", "is used by"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "words"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_with_a_memory_port_is_found(wide, before, after, words):
    unrolls = DENSE | {"second": Unroll(2, 2, OUTSIDE)}
    texts = dict(cpp.files(program_of(wide.network, unrolls, "wide")))
    assert pragmas.lint(texts) == []
    assert before in texts["wide.cpp"]
    texts["wide.cpp"] = texts["wide.cpp"].replace(before, after, 1)
    assert any(words in one.text for one in pragmas.lint(texts))
