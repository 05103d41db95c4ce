"""The cost of a process, read off its program, against the datapath that it becomes."""

from __future__ import annotations

import pytest

from targets.hls.cost import channel_cost, cost_of
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import program_of
from targets.hls.pipeline import designed
from targets.hls.program import Channel, Kind, Memory

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


def test_products_are_those_of_the_datapath(digits):
    unrolls = UNROLLS["some"]
    for process in digits.program("net", unrolls).processes:
        products = sum(sum(op.kind == "mul" for op in place.pipeline.path.ops) for place in designed(process).places)
        assert cost_of(process).used.dsp == products, process.title


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


def test_a_deep_channel_is_block_memory():
    channel = Channel("c", Kind(0, 255), 4, 1000)
    assert channel_cost(channel, 2).bram18 == 0
    assert channel_cost(channel, 1000).bram18 == 2


def test_contents_are_made_when_they_are_asked_for():
    made = []
    memory = Memory("m", Kind(0, 1), 1, 4, lambda: made.append(1))
    assert memory.is_constant
    assert not made
    assert memory.data is memory.data
    assert made == [1]
