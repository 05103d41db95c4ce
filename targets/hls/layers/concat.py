"""Tensors side by side: the channels of one behind those of the other, pixel by pixel."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from targets.hls.expressions import Counter, Element
from targets.hls.layers.layer import Layer, Unroll, divisors
from targets.hls.layers.tensor import Tensor
from targets.hls.program import Channel, Lanes, Nest, Process, Put, Read, Repeat, Write


class Concat(Layer):
    """`inputs` have the same pixels; the output's grid is as fine as the finest of theirs."""

    def __init__(self, name: str, inputs: tuple[Tensor, ...], output: Tensor):
        self.name = name
        self.inputs = inputs
        self.output = output
        self.title = f"{output.name}: {len(inputs)} tensors side by side"

    def choices(self) -> list[Unroll]:
        common = functools.reduce(math.gcd, (tensor.channels for tensor in self.inputs))
        return [Unroll(n, n) for n in divisors(common)]

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        lanes = unroll.outputs
        lane = Counter.of("lane", lanes, is_lane=True)
        nests = []
        for number, (tensor, channel) in enumerate(zip(self.inputs, inputs, strict=True)):
            kind = channel.kind
            raw = Element(kind.low, kind.high, "word_in", lane) << (self.output.kind.fraction - kind.fraction)
            body = (Read(channel, "word_in"), Lanes(lane, (Put("out", lane, raw),)), Write(tuple(outputs), "out"))
            nests.append(Nest(f"part{number}", (Counter.of("chunk", tensor.channels // lanes),), body))
        pixels = Repeat(Counter.of("pixel", self.output.size // self.output.channels), tuple(nests))
        return Process(self.name, self.title, (pixels,), tuple(inputs), tuple(outputs))
