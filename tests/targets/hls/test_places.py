"""Convolutions that look at several places of a window at once: exact through the whole chain, and cheaper for it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.hls.exploration.cost import cost_of
from targets.hls.hardware.estimate import estimate, resources_of
from targets.hls.hardware.pipeline import designed, designs_of
from targets.hls.hardware.timing import depths, timing_of, with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.layers.product import Product
from targets.hls.parts import find_part
from targets.hls.printing import verilog
from targets.hls.simulation import csim, rtl
from targets.hls.simulation.pragmas import lint_project
from targets.hls.simulation.synthesis import synthesize
from tensorc.driver import compile_model
from tensorc.ir import Graph, TensorType
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target


def graph_of(shape, weights, **attrs):
    rng = np.random.default_rng(sum(weights))
    spatial = len(shape) - 2
    graph = Graph("conv")
    x = graph.add_input("x", TensorType("float64", shape))
    constant = graph.constant(rng.standard_normal(weights), name="weights")
    bias = graph.constant(rng.standard_normal((weights[0],) + (1,) * spatial), name="bias")
    known = {"strides": (1,) * spatial, "pads": (0,) * 2 * spatial, "dilations": (1,) * spatial, "groups": 1}
    head = graph.add("conv", [x, constant], {**known, **attrs}, name="head")
    graph.outputs = [graph.add("relu", [graph.add("add", [head, bias])], name="result")]
    return graph, [rng.standard_normal((3, *shape))]


#: Some rows, all of them, some columns of all of them, all.
CASES = {
    "stem": (lambda: graph_of((1, 3, 13, 12), (4, 3, 7, 7), strides=(2, 2), pads=(3, 3, 3, 3)),
             [Unroll(2, 3, places=7), Unroll(4, 1, places=49)]),
    "even": (lambda: graph_of((1, 2, 9, 8), (3, 2, 4, 4), strides=(1, 2), pads=(2, 1, 1, 2)),
             [Unroll(1, 1, places=2), Unroll(3, 2, places=8), Unroll(1, 2, places=16)]),
    "dilated": (lambda: graph_of((1, 2, 9, 9), (2, 2, 2, 3), dilations=(3, 2), pads=(1, 0, 2, 0)),
                [Unroll(1, 1, places=3), Unroll(2, 2, places=2), Unroll(1, 2, places=6)]),
    "far apart": (lambda: graph_of((1, 2, 11, 7), (2, 2, 2, 2), strides=(4, 3)), [Unroll(1, 2, places=4)]),
    "depthwise": (lambda: graph_of((1, 6, 5, 4), (6, 1, 3, 3), groups=6, pads=(1, 1, 1, 1)),
                  [Unroll(3, 3, places=3), Unroll(2, 2, places=9)]),
    "grouped": (lambda: graph_of((1, 6, 5, 4), (4, 3, 2, 2), groups=2), [Unroll(2, 1, places=4)]),
    "signal": (lambda: graph_of((1, 3, 14), (4, 3, 6), strides=(2,), pads=(2, 3)),
               [Unroll(2, 3, places=2), Unroll(1, 1, places=6)]),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request, fixed):
    make, unrolls = CASES[request.param]
    network = fixed(*make())
    (layer,) = (layer for layer in network.network.layers if isinstance(layer, Product))
    assert all(unroll in layer.choices() for unroll in unrolls)
    return network, layer, unrolls


def programs(case):
    network, layer, unrolls = case
    for unroll in unrolls:
        program = network.program("net", {layer.name: unroll})
        yield unroll, with_depths(program, depths(program))


@pytest.mark.compiler
def test_the_chain_is_exact(case, project):
    for number, (_, program) in enumerate(programs(case)):
        designs = designs_of(program)
        inputs, wanted = case[0].vectors(program, 2)
        run = rtl.simulate(program, inputs, designs)
        np.testing.assert_array_equal(run.outputs[0], wanted[0].reshape(2, -1))
        assert run.ends == timing_of(program, designs, images=2).ends
        if not number:
            folder = project(program)
            with csim.compiled(folder, sanitize=True) as simulation:
                found = simulation.run(inputs)
            np.testing.assert_array_equal(found[0], wanted[0].reshape(2, -1))
            assert lint_project(folder) == []
            # Rows are pushed up in place: Vitis must be told that no iteration reads what another one wrote.
            assert "#pragma HLS DEPENDENCE variable=rows type=inter" in (folder / "firmware/net.cpp").read_text()


def test_a_place_more_is_as_many_cycles_fewer(case):
    """Cycles and products by the costs that search goes by are those of the design."""
    network, layer, unrolls = case
    for unroll in unrolls:
        taken = {}
        for places in (1, unroll.places):
            program = network.program("net", {layer.name: Unroll(unroll.outputs, unroll.inputs, places=places)})
            process = next(one for one in program.processes if one.name == layer.name)
            design, cost = designed(process), cost_of(process)
            assert cost.cycles == design.cycles()
            used = resources_of(design, "xc7")
            assert (cost.used.dsp, cost.used.bram18) == (used.dsp, used.bram18)
            assert used.dsp == layer.multipliers(Unroll(unroll.outputs, unroll.inputs, places=places))
            compute = next(nest for nest in process.nests() if nest.name == "compute")
            taken[places] = compute.trip
        assert taken[1] == taken[unroll.places] * unroll.places


@pytest.mark.compiler
@pytest.mark.parametrize(("shape", "weights", "attrs", "unroll"), [
    ((1, 3, 9, 200), (4, 3, 7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3)}, Unroll(1, 3, places=7)),
    ((1, 16, 6, 40), (4, 16, 3, 3), {"pads": (1, 1, 1, 1)}, Unroll(1, 4, places=9)),
], ids=["lines", "copies"])  # fmt: skip
def test_blocks_are_as_many_as_promised(tmp_path, fixed, shape, weights, attrs, unroll):
    network = fixed(*graph_of(shape, weights, **attrs))
    program = network.program("net", {network.network.layers[0].name: unroll})
    designs = designs_of(program)
    for name, text in verilog.files(program, designs):
        (tmp_path / name).write_text(text)
    used = synthesize(tmp_path, program.name, "xc7").used
    promised = estimate(program, designs, find_part("XC7Z020"))
    assert (used.dsp, used.bram18) == (promised.dsp, promised.bram18)
    assert used.bram18 > 1


def test_a_kernel_that_is_higher_than_the_image_has_no_rows_at_once(fixed):
    network = fixed(*graph_of((1, 1, 3, 4), (1, 1, 9, 3), pads=(2, 0, 6, 0)))
    (layer,) = network.network.layers
    assert {unroll.places for unroll in layer.choices()} == {1}


@pytest.mark.compiler
@pytest.mark.filterwarnings("ignore:ranges are those of random inputs")
def test_search_chooses_places_and_the_project_holds(tmp_path):
    weights = np.random.default_rng(0).standard_normal((2, 1, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])], "stem",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 3, 3))], [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "stem.onnx")
    options = CompileOptions(target="hls:xc7z020", quantize=Quantization("fixed6", None), objective="throughput")
    compile_model(tmp_path / "stem.onnx", options, tmp_path / "project")
    layers = json.loads((tmp_path / "project/schedule.json").read_text())["layers"]
    assert max(layer["places"] for layer in layers.values()) == 9
    checks = find_target("hls").check(tmp_path / "project", None, None, lambda *_: None)
    assert [check.name for check in checks if not check.ok] == []
