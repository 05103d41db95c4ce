"""The Verilog of programs, run by Icarus: exact against the graph's interpreter, as fast as the timing model says."""

from __future__ import annotations

import numpy as np
import pytest

from targets.hls.hardware.pipeline import designs_of
from targets.hls.hardware.timing import depths, timing_of, with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.printing import verilog
from targets.hls.simulation import rtl
from tensorc.errors import UserError
from tensorc.ir import Graph, TensorType

pytestmark = pytest.mark.compiler


def assert_exact(network, program, images=2, hesitant=False):
    """Gives the timing, which the Verilog has, too."""
    designs = designs_of(program)
    inputs, wanted = network.vectors(program, images)
    run = rtl.simulate(program, inputs, designs, hesitant)
    for found, expected in zip(run.outputs, wanted, strict=True):
        np.testing.assert_array_equal(found, expected.reshape(images, -1))
    timing = timing_of(program, designs, images=images)
    if not hesitant:
        assert run.ends == timing.ends
    return timing


def test_digits_with_channels_as_they_are(digits):
    unrolls = {"relu0": Unroll(16, 1), "relu1": Unroll(8, 16), "relu2": Unroll(4, 16), "logits_1": Unroll(5, 2),
               "pool1_2": Unroll(8, 8), "pool2_2": Unroll(4, 4)}  # fmt: skip
    assert_exact(digits, digits.program("digits", unrolls))


def test_digits_with_the_least_channels(digits):
    unrolls = {"relu0": Unroll(4, 1), "relu1": Unroll(8, 8), "relu2": Unroll(8, 8), "logits_1": Unroll(2, 4),
               "pool1_2": Unroll(4, 4)}  # fmt: skip
    program = digits.program("digits", unrolls)
    program = with_depths(program, depths(program))
    timing = assert_exact(digits, program)
    # Nothing waits for what is not the slowest.
    assert timing.interval == max(design.cycles() for design in designs_of(program))


# Layers of all kinds ------------------------------------------------------------------------------------

ATTRS = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1}


def conv_graph(shape, weights, **attrs):
    rng = np.random.default_rng(sum(weights))
    graph = Graph("conv")
    x = graph.add_input("x", TensorType("float64", shape))
    constant = graph.constant(rng.standard_normal(weights), name="weights")
    bias = graph.constant(rng.standard_normal((weights[0],) + (1,) * (len(shape) - 2)), name="bias")
    spatial = len(shape) - 2
    known = {"strides": (1,) * spatial, "pads": (0,) * 2 * spatial, "dilations": (1,) * spatial, "groups": 1}
    head = graph.add("conv", [x, constant], {**known, **attrs}, name="head")
    graph.outputs = [graph.add("relu", [graph.add("add", [head, bias])], name="result")]
    return graph, [rng.standard_normal((3, *shape))]


def pool_graph(op, shape, kernel, strides, pads=(0, 0, 0, 0)):
    graph = Graph("pool")
    x = graph.add_input("x", TensorType("float64", shape))
    attrs = {"kernel": kernel, "strides": strides, "pads": pads, "dilations": (1, 1), "ceil": 0}
    attrs |= {"count_include_pad": 1} if op == "avg_pool" else {}
    graph.outputs = [graph.add(op, [x], attrs, name="result")]
    return graph, [np.random.default_rng(1).standard_normal((3, *shape))]


def mean_graph(shape):
    graph = Graph("mean")
    x = graph.add_input("x", TensorType("float64", shape))
    graph.outputs = [graph.add("reduce_mean", [x], {"axes": (2, 3), "keepdims": 1}, name="result")]
    return graph, [np.random.default_rng(2).standard_normal((3, *shape))]


def product_graph(shape, outputs):
    graph = Graph("product")
    rng = np.random.default_rng(3)
    x = graph.add_input("x", TensorType("float64", shape))
    weights = graph.constant(rng.standard_normal((shape[-1], outputs)), name="weights")
    product = graph.add("matmul", [x, weights], {"transpose_b": 0}, name="product")
    graph.outputs = [graph.add("tanh", [product], name="result")]
    return graph, [rng.standard_normal((3, *shape))]


def moved_graph(shape, axes):
    """A product of what was transposed: numbers are rearranged between."""
    graph, samples = product_graph(shape, 4)
    graph = Graph("moved")
    rng = np.random.default_rng(4)
    x = graph.add_input("x", TensorType("float64", shape))
    turned = graph.add("transpose", [x], {"perm": axes}, name="turned")
    extent = shape[axes[-1]]
    weights = graph.constant(rng.standard_normal((extent, 4)), name="weights")
    graph.outputs = [graph.add("matmul", [turned, weights], {"transpose_b": 0}, name="result")]
    return graph, samples


LAYERS = {
    "padded": (lambda: conv_graph((1, 4, 5, 6), (6, 4, 3, 3), pads=(1, 1, 1, 1)), Unroll(3, 2)),
    "strided": (lambda: conv_graph((1, 2, 7, 6), (4, 2, 3, 2), strides=(2, 3), pads=(2, 0, 1, 1)), Unroll(2, 2)),
    "dilated": (lambda: conv_graph((1, 2, 7, 7), (2, 2, 2, 3), dilations=(3, 2)), Unroll(1, 2)),
    "depthwise": (lambda: conv_graph((1, 6, 5, 4), (6, 1, 3, 3), groups=6, pads=(1, 1, 1, 1)), Unroll(3, 3)),
    "grouped": (lambda: conv_graph((1, 6, 5, 4), (4, 3, 2, 2), groups=2), Unroll(2, 3)),
    "pointwise": (lambda: conv_graph((1, 6, 4, 4), (4, 6, 1, 1)), Unroll(4, 6)),
    "signal": (lambda: conv_graph((1, 3, 12), (4, 3, 5), strides=(2,), pads=(2, 2)), Unroll(2, 1)),
    "max": (lambda: pool_graph("max_pool", (1, 4, 6, 7), (3, 2), (2, 2), (1, 0, 1, 0)), Unroll(2, 2)),
    "mean": (lambda: pool_graph("avg_pool", (1, 4, 6, 6), (3, 3), (3, 3)), Unroll(4, 4)),
    "global": (lambda: mean_graph((1, 4, 3, 5)), Unroll(2, 2)),
    "product": (lambda: product_graph((1, 12), 6), Unroll(3, 4)),
    "rows": (lambda: product_graph((1, 5, 6), 4), Unroll(2, 2)),
    "moved": (lambda: moved_graph((1, 4, 6), (0, 2, 1)), Unroll(2, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(fixed, name):
    make, unroll = LAYERS[name]
    network = fixed(*make())
    for chosen in (None, unroll):
        unrolls = {} if chosen is None else {layer.name: chosen for layer in network.network.layers
                                             if chosen in layer.choices()}  # fmt: skip
        program = network.program("network", unrolls)
        assert_exact(network, program)
    assert_exact(network, program, hesitant=True)


def test_fifos_of_block_ram(residual):
    """They show a word in the cycle behind the one that writes it, as others do."""
    program = residual.program("residual", {})
    deep = with_depths(program, {channel.name: 3000 for channel in program.channels})
    assert {verilog.fifo_storage(channel) for channel in deep.channels} == {"block"}
    assert_exact(residual, deep)
    assert_exact(residual, deep, hesitant=True)


def test_both_simulators_agree(residual):
    program = residual.program("residual", {})
    program = with_depths(program, depths(program))
    inputs, wanted = residual.vectors(program, 3)
    quick, compiled = (rtl.simulate(program, inputs, tool=tool) for tool in ("iverilog", "verilator"))
    np.testing.assert_array_equal(compiled.outputs[0], wanted[0].reshape(3, -1))
    np.testing.assert_array_equal(quick.outputs[0], compiled.outputs[0])
    assert quick.ends == compiled.ends == timing_of(program, images=3).ends


def test_what_can_go_wrong_is_told(residual, monkeypatch):
    program = residual.program("residual", {})
    inputs, _ = residual.vectors(program, 1)
    with pytest.raises(RuntimeError, match="residual: nothing comes out any more at cycle 2001"):
        rtl.simulate(program, inputs, quiet=2000)  # the bypass holds two words
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"running Verilog needs iverilog, .*apt install iverilog"):
        rtl.simulate(program, inputs)


def test_a_residual_network(residual):
    unrolls = {"start": Unroll(2, 1), "second": Unroll(1, 2)}
    program = residual.program("residual", unrolls)
    sized = depths(program)
    timing = assert_exact(residual, with_depths(program, sized), images=3)
    assert timing.interval == max(design.cycles() for design in designs_of(program))
    assert_exact(residual, with_depths(program, sized), hesitant=True)
