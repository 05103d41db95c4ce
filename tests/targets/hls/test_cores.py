"""Cores: stages one after the other, which share their multipliers; products that several cores compute together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from targets.hls.exploration.cores import leaves, with_cores
from targets.hls.hardware.estimate import estimate
from targets.hls.hardware.pipeline import designed, designs_of
from targets.hls.hardware.sharing import Operand, multipliers_needed, shared_multipliers
from targets.hls.hardware.timing import timing_of, with_depths
from targets.hls.layers.layer import Unroll
from targets.hls.layers.split import split, ways
from targets.hls.parts import find_part
from targets.hls.printing import cpp, verilog
from targets.hls.program import Process, Program
from targets.hls.simulation import csim, fibers, rtl
from targets.hls.simulation.synthesis import synthesize
from tensorc.ir import Graph, TensorType

IMAGES = 2
CORES = {"core0": ["first", "second_0", "last"], "core1": ["second_1"]}


def network_graph() -> tuple[Graph, list[np.ndarray]]:
    """A convolution, a depthwise one with a bypass around it, and a projection."""
    rng = np.random.default_rng(6)
    graph = Graph("mixed")
    x = graph.add_input("x", TensorType("float64", (1, 3, 4, 5)))

    def conv(value, name, shape, pad=0, groups=1):
        weights = graph.constant(rng.standard_normal(shape), name=f"{name}.weights")
        attrs = {"strides": (1, 1), "pads": (pad,) * 4, "dilations": (1, 1), "groups": groups}
        return graph.add("conv", [value, weights], attrs, name=name)

    first = graph.add("relu", [conv(x, "first.conv", (4, 3, 1, 1))], name="first")
    second = graph.add("add", [conv(first, "second.conv", (4, 1, 3, 3), 1, 4), first], name="second")
    graph.outputs = [graph.add("relu", [conv(second, "last.conv", (2, 4, 1, 1))], name="last")]
    return graph, [rng.standard_normal((3, 1, 3, 4, 5))]


@pytest.fixture(scope="module")
def mixed(fixed):
    return fixed(*network_graph())


def program_of_cores(network, cores=CORES, deep=True) -> Program:
    """Split in two, then merged; if `deep`, every channel holds all that passes it."""
    parts = split(network.network, {"second": 2})
    known = {layer.name: layer for layer in parts.layers}
    unrolls = {name: Unroll(1, 3) for name in ("first",)} | {"last": Unroll(2, 2)}
    assert all(unroll in known[name].choices() for name, unroll in unrolls.items())
    program = type(network)(network.graph, parts, network.samples).program("mixed", unrolls)
    program = with_cores(program, cores)
    return with_depths(program, {channel.name: channel.count for channel in program.channels}) if deep else program


@pytest.mark.compiler
def test_cores_are_exact_in_c_and_in_verilog_in_the_cycles_that_were_foretold(mixed, project):
    program = program_of_cores(mixed)
    designs = designs_of(program)
    inputs, wanted = mixed.vectors(program, IMAGES)
    for hesitant in (False, True):
        run = rtl.simulate(program, inputs, designs, hesitant)
        for found, expected in zip(run.outputs, wanted, strict=True):
            np.testing.assert_array_equal(found, expected.reshape(IMAGES, -1))
        if not hesitant:
            timing = timing_of(program, designs, images=IMAGES)
            assert (run.latency, run.interval) == (timing.latency, timing.interval)
    for found, expected in zip(csim.run(project(program), inputs), wanted, strict=True):
        np.testing.assert_array_equal(found, expected.reshape(IMAGES, -1))
    with fibers.compiled(program) as simulation:
        outcome = simulation.run(inputs)
    assert not outcome.deadlock
    for found, expected in zip(outcome.outputs, wanted, strict=True):
        np.testing.assert_array_equal(found, expected.reshape(IMAGES, -1))


@pytest.mark.compiler
def test_dsp_blocks_of_a_core_are_those_of_its_greatest_stage(mixed, tmp_path: Path):
    program = program_of_cores(mixed, deep=False)
    designs = designs_of(program)
    for name, text in verilog.files(program, designs):
        (tmp_path / name).write_text(text)
    part = find_part("XC7Z020")
    used, promised = synthesize(tmp_path, program.name, part.family).used, estimate(program, designs, part)
    assert (used.dsp, used.bram18) == (promised.dsp, promised.bram18)
    apart = program_of_cores(mixed, {})
    # The last layer has four products, the others fewer.
    assert (promised.dsp, estimate(apart, designs_of(apart), part).dsp) == (4 + 1, 3 + 1 + 1 + 4)


def test_a_multiplier_is_as_wide_as_all_that_it_makes(mixed):
    core = program_of_cores(mixed).processes[0]
    assert [stage.name for stage in core.stages] == CORES["core0"]
    found = shared_multipliers(designed(core))
    assert [len(multiplier.users) for multiplier in found] == [3, 2, 2]
    for multiplier in found:
        for _, product in multiplier.users:
            sides = sorted((Operand(x.bits, x.signed) for x in product.args), key=lambda side: -side.bits)
            assert all(have | need == have for have, need in zip((multiplier.a, multiplier.b), sides, strict=True))
    assert multipliers_needed(core) == 4
    assert multipliers_needed(core.stages[0]) == 0
    assert Operand(8, False) | Operand(7, True) == Operand(9, True)


def test_channels_within_a_core_hold_whole_tensors(mixed):
    parts = split(mixed.network, {"second": 2})
    program = type(mixed)(mixed.graph, parts, mixed.samples).program("mixed")
    merged = with_cores(program, CORES)
    depths = {channel.name: channel.depth for channel in merged.channels}
    within = [channel for process in merged.processes for channel in process.own]
    assert within == []  # what stands between takes all words through processes of their own
    whole = with_cores(program, {"core0": ["first", "second_all", "second_all1"]})
    (core,) = [process for process in whole.processes if process.stages]
    assert [channel.name for channel in core.own] == ["second_all_in", "second_all1_in"]
    assert {channel.depth for channel in whole.channels if channel.name.startswith("second_all")} == {4 * 4 * 5}
    assert set(depths.values()) == {2}


def test_stages_have_an_order_in_which_all_their_words_are_there(mixed):
    seen: set[str] = {"first_in"}
    for process in leaves(program_of_cores(mixed)):
        assert {channel.name for channel in process.inputs} <= seen
        seen |= {channel.name for channel in process.outputs}


def test_the_code_of_a_core_is_a_list_of_its_stages(mixed):
    text = dict(cpp.files(program_of_cores(mixed)))["mixed.cpp"]
    body = text[text.index("static void core0(") :]
    calls = [line.split("(")[0].strip() for line in body[: body.index("}")].splitlines() if line.endswith(");")]
    assert [call for call in calls if call in CORES["core0"]] == CORES["core0"]
    assert "#pragma HLS ALLOCATION operation instances=mul limit=4" in body


def test_what_cannot_be_merged_or_split_is_refused(mixed):
    network = mixed.network
    assert {layer.name: ways(layer) for layer in network.layers if layer.name != "last_fixed_1_ordered"} == {
        "first": [1, 2, 4], "second": [1, 2, 4], "last": [1, 2],
    }  # fmt: skip
    with pytest.raises(ValueError, match="second cannot be split into 3 parts"):
        split(network, {"second": 3})
    program = mixed.program("mixed")
    with pytest.raises(ValueError, match="core cannot have the stage third"):
        with_cores(program, {"core": ["first", "third"]})
    with pytest.raises(ValueError, match="core: second reads what a later stage writes"):
        with_cores(program, {"core": ["second", "first"]})


def test_names_of_stages_are_kept_apart(mixed):
    core: Process = program_of_cores(mixed).processes[0]
    names = [memory.name for memory in core.memories] + [state.name for state in core.registers]
    assert len(set(names)) == len(names)
