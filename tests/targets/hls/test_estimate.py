"""What a program is said to take against what yosys makes of its Verilog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from targets.hls.hardware.estimate import estimate, memory_resources
from targets.hls.hardware.pipeline import designs_of
from targets.hls.hardware.timing import depths, with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.parts import find_part
from targets.hls.printing import verilog
from targets.hls.program import Kind, Memory
from targets.hls.simulation.synthesis import synthesize
from tensorc.ir import Graph, TensorType


def network_graph(shape=(1, 4, 12, 6), outputs=40, softmax=True):
    """A convolution whose weights fill a block RAM, then a product, and the softmax of its results."""
    rng = np.random.default_rng(5)
    graph = Graph("network")
    x = graph.add_input("x", TensorType("float64", shape))
    weights = graph.constant(rng.standard_normal((outputs, shape[1], 3, 3)), name="weights")
    attrs = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1}
    head = graph.add("relu", [graph.add("conv", [x, weights], attrs)], name="conv")
    mean = graph.add("reduce_mean", [head], {"axes": (2, 3), "keepdims": 0}, name="mean")
    matrix = graph.constant(rng.standard_normal((outputs, 10)), name="matrix")
    product = graph.add("matmul", [mean, matrix], {"transpose_b": 0}, name="product")
    graph.outputs = [graph.add("softmax", [product], {"axis": 1}, name="result") if softmax else product]
    return graph, [rng.standard_normal((8, *shape))]


@pytest.mark.compiler
@pytest.mark.parametrize(("part", "bits", "unroll"), [("XC7Z020", 8, Unroll(4, 2)), ("XCZU7EV", 18, Unroll(2, 2))])
def test_blocks_are_exact_and_logic_is_near(tmp_path: Path, fixed, part, bits, unroll):
    network = fixed(*network_graph(softmax=bits == 8), bits)  # tables of 18 bits keep yosys busy
    layers = network.network.layers
    program = network.program("network", {layer.name: unroll for layer in layers if unroll in layer.choices()})
    designs = designs_of(program)
    program = with_depths(program, depths(program, designs))
    for name, text in verilog.files(program, designs):
        (tmp_path / name).write_text(text)
    used = synthesize(tmp_path, program.name, find_part(part).family).used
    promised = estimate(program, designs, find_part(part))
    assert (promised.dsp, promised.bram18, promised.uram) == (used.dsp, used.bram18, used.uram)
    assert used.dsp >= 8
    assert used.bram18 >= 1
    assert 0.8 * used.lut <= promised.lut <= 1.6 * used.lut
    assert 0.8 * used.ff <= promised.ff <= 1.4 * used.ff


def test_a_rom_with_two_ports_is_one_block():
    rom = Memory("table", Kind(0, 255), 1, 1024, np.zeros((1024, 1), np.int64), "block")
    assert [memory_resources(rom, ports, "xc7").bram18 for ports in range(5)] == [0, 1, 1, 2, 2]
