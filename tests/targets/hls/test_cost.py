"""The cost of a process, read off its program, against the datapath that it becomes."""

from __future__ import annotations

import pytest

from targets.hls.exploration.cost import cost_of
from targets.hls.hardware.estimate import resources_of
from targets.hls.hardware.pipeline import designed
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import program_of
from targets.hls.program import Kind, Memory

UNROLLS = {
    "none": {},
    "some": {"relu0": Unroll(4, 1), "relu1": Unroll(8, 4), "relu2": Unroll(4, 8), "pool1_2": Unroll(2, 2)},
    "tables in LUTs": {"relu1": Unroll(8, 4, "distributed")},
}


@pytest.mark.parametrize("unrolls", UNROLLS.values(), ids=UNROLLS)
def test_cycles_are_those_of_the_pipelines(digits, residual, unrolls):
    for fixed in (digits, residual):
        for process in fixed.program("net", unrolls).processes:
            exact, cost = designed(process).cycles(), cost_of(process)
            assert abs(cost.cycles - exact) <= max(4, 0.02 * exact), process.title
            assert 0 < cost.first <= cost.cycles
            assert all(0 < tail <= cost.cycles for tail in cost.tails)


@pytest.mark.parametrize("family", ["xc7", "xcup"])
@pytest.mark.parametrize("unrolls", UNROLLS.values(), ids=UNROLLS)
def test_it_is_what_the_datapath_takes(digits, residual, unrolls, family):
    """Of layers: blocks are equal; logic is near."""
    for fixed in (digits, residual):
        layers = {layer.name for layer in fixed.network.layers}
        for process in fixed.program("net", unrolls).processes:
            if process.name not in layers:
                continue
            exact, used = resources_of(designed(process), family), cost_of(process, family).used
            assert (used.dsp, used.bram18, used.uram) == (exact.dsp, exact.bram18, exact.uram), process.title
            assert 0.8 * exact.lut - 40 <= used.lut <= 1.4 * exact.lut + 40, process.title
            assert 0.7 * exact.ff - 40 <= used.ff <= 1.4 * exact.ff + 40, process.title


def test_more_side_by_side_is_faster_and_larger(digits):
    (layer,) = (layer for layer in digits.network.layers if layer.name == "relu1")
    costs = []
    for unroll in (Unroll(1, 1), Unroll(4, 4), Unroll(16, 16)):
        program = program_of(digits.network, {layer.name: unroll}, "net")
        costs.append(next(cost_of(process) for process in program.processes if process.name == layer.name))
    assert [cost.used.dsp for cost in costs] == [1, 16, 256]
    assert costs[0].cycles > 10 * costs[1].cycles > 100 * costs[2].cycles
    assert costs[0].used.lut < costs[1].used.lut < costs[2].used.lut
    # A weight is read as often, but an input is read for fewer products.
    assert costs[0].energy > costs[1].energy > costs[2].energy


def test_tables_in_luts_take_no_block(digits):
    (layer,) = (layer for layer in digits.network.layers if layer.name == "relu1")

    def cost(unroll):
        program = program_of(digits.network, {layer.name: unroll}, "net")
        return next(cost_of(process) for process in program.processes if process.name == layer.name)

    block, moved = cost(Unroll(1, 1)), cost(Unroll(1, 1, "distributed"))
    assert block.used.bram18 > moved.used.bram18
    assert block.distributed.used == moved.used
    assert block.cycles == moved.cycles


def test_contents_are_made_when_they_are_asked_for():
    made = []
    memory = Memory("m", Kind(0, 1), 1, 4, lambda: made.append(1))
    assert memory.is_constant
    assert not made
    assert memory.data is memory.data
    assert made == [1]
