"""Layers that multiply by L-Mul: exact in C and in Verilog, without a DSP block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from targets.hls.hardware.estimate import estimate
from targets.hls.hardware.pipeline import designs_of
from targets.hls.hardware.timing import depths, timing_of, with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.parts import find_part
from targets.hls.printing import verilog
from targets.hls.simulation import csim, fibers, rtl
from targets.hls.simulation.synthesis import synthesize
from tensorc.driver import compile_model
from tensorc.ir import Graph, TensorType
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target

IMAGES = 6
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def layers(fixed):
    """A convolution, a depthwise one, and a matrix."""
    rng = np.random.default_rng(2)
    graph = Graph("lmul")
    x = graph.add_input("x", TensorType("float64", (1, 2, 4, 3)))

    def conv(value, name, shape, pad, groups=1):
        weights = graph.constant(rng.standard_normal(shape) * (rng.random(shape) < 0.8), name=f"{name}.weights")
        attrs = {"strides": (1, 1), "pads": (pad,) * 4, "dilations": (1, 1), "groups": groups}
        return graph.add("conv", [value, weights], attrs, name=f"{name}.conv")

    first = graph.add("relu", [conv(x, "first", (4, 2, 3, 3), 1)], name="first")
    second = conv(first, "second", (4, 1, 2, 2), 0, 4)
    flat = graph.add("reshape", [second], {"shape": (1, 24)})
    matrix = graph.constant(rng.standard_normal((24, 3)), name="last.weights")
    graph.outputs = [graph.add("matmul", [flat, matrix], name="last")]
    return fixed(graph, [rng.standard_normal((IMAGES, 1, 2, 4, 3))], lmul=True)


UNROLLS = {"little": {}, "more": {"first": Unroll(2, 2), "second_conv": Unroll(2, 2), "last": Unroll(3, 4)}}


@pytest.mark.compiler
@pytest.mark.parametrize("unrolls", UNROLLS.values(), ids=UNROLLS)
def test_layers_are_exact(layers, unrolls, project):
    assert unrolls.keys() <= {layer.name for layer in layers.network.layers}
    program = layers.program("lmul", unrolls)
    program = with_depths(program, depths(program))
    inputs, (wanted,) = layers.vectors(program, IMAGES)
    run = rtl.simulate(program, inputs)
    np.testing.assert_array_equal(run.outputs[0].reshape(IMAGES, -1), wanted)
    assert run.ends == timing_of(program, images=IMAGES).ends
    np.testing.assert_array_equal(csim.run(project(program), inputs)[0], wanted)
    with fibers.compiled(program) as simulation:
        outcome = simulation.run(inputs)
    assert not outcome.deadlock
    np.testing.assert_array_equal(outcome.outputs[0], wanted)


@pytest.mark.compiler
def test_there_is_no_dsp_block(fixed, tmp_path: Path):
    rng = np.random.default_rng(1)
    graph = Graph("matrix")
    x = graph.add_input("x", TensorType("float64", (1, 4)))
    graph.outputs = [graph.add("matmul", [x, graph.constant(rng.standard_normal((4, 2)), name="w")], name="y")]
    made = fixed(graph, [rng.standard_normal((4, 1, 4))], lmul=True)
    program, part = made.program("matrix", {"y": Unroll(2, 1)}), find_part("xc7z020")
    designs = designs_of(program)
    for name, text in verilog.files(program, designs):
        (tmp_path / name).write_text(text)
    promised, used = estimate(program, designs, part), synthesize(tmp_path, "matrix", part.family).used
    assert (used.dsp, used.bram18) == (promised.dsp, promised.bram18) == (0, 0)


@pytest.mark.compiler
def test_the_jet_tagger_in_c_by_the_command_line(tmp_path: Path):
    how = Quantization("fixed8:lmul", EXAMPLES / "fpga" / "jets_calibration.npz")
    report = compile_model(EXAMPLES / "fpga" / "jets.onnx", CompileOptions(target="c", quantize=how), tmp_path / "j.c")
    text = (tmp_path / "j.c").read_text()
    assert "signs" in text
    assert report.manifest["quantized"]["accuracy"]
    executable = find_target("c").open(tmp_path / "j.c")
    heldout = np.load(EXAMPLES / "fpga" / "jets_heldout.npz")
    rows = heldout["features"][:300].astype(np.float32)
    read = [executable.run([row.reshape(1, -1)])[0].argmax() for row in rows]
    executable.close()
    assert np.mean(np.array(read) == heldout["labels"][:300]) > 0.7
