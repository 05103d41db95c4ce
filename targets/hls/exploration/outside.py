"""What a product costs whose weights come from outside the chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd

from targets.hls.exploration.cost import Cost, cost_of
from targets.hls.hardware.estimate import fifo_resources
from targets.hls.hardware.resources import Family, Resources
from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import process_of
from targets.hls.layers.outside import port_lanes, streamed, weights_of
from targets.hls.layers.product import Product
from targets.hls.program import OUTSIDE_LATENCY, Channel, element_bytes


def cost_outside(layer: Product, unroll: Unroll, inputs: Sequence[Channel], output: Channel, family: Family,
                 levels: int, port: int) -> tuple[Cost, float]:  # fmt: skip
    """With what reads the weights and the FIFO behind it; and the bytes a cycle that are asked of memory outside while
    the layer works."""
    weights = streamed(layer, unroll)
    assert weights is not None
    made = port_lanes(layer, unroll, port)
    source, channel = (
        Channel("weights", weights.kind, lanes, weights.words(lanes)) for lanes in (made, weights.channels)
    )
    cost = cost_of(replace(process_of(layer, unroll, [*inputs, channel], [output]), levels=levels), family)
    reading = cost_of(replace(weights_of(layer, unroll, port, [source]), levels=levels), family)
    gear = weights.words(gcd(made, channel.lanes)) if made != channel.lanes else 0
    cycles = max(cost.cycles, reading.cycles, gear)
    # Words that are on their way, at the rate at which they are needed.
    waiting = replace(source, depth=2 + -(-OUTSIDE_LATENCY * source.count // cycles))
    used = cost.used + reading.used + fifo_resources(waiting, family)
    used += Resources(lut=channel.bits, ff=channel.bits) * (made != channel.lanes)
    count = len(layer.inputs)
    found = replace(
        cost, cycles=cycles, first=cost.first * cycles // cost.cycles, tails=cost.tails[:count],
        shares=cost.shares[:count], used=used, energy=cost.energy + reading.energy,
    )  # fmt: skip
    return found, weights.size * element_bytes(weights.kind) / cycles
