"""Numbers in another order, some of them more than once or not at all: all are kept, then given by address."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from targets.hls.expressions import Const, Counter, Element, Expr, Load
from targets.hls.layers.layer import Layer, Unroll, divisors
from targets.hls.layers.tensor import Tensor
from targets.hls.program import Channel, Kind, Lanes, Memory, Nest, Process, Put, Read, Store, Write


class Rearrange(Layer):
    """Number i of the output is number `source[i]` of the input."""

    def __init__(self, name: str, tensor: Tensor, output: Tensor, source: np.ndarray):
        self.name = name
        self.inputs = (tensor,)
        self.output = output
        self.source = source
        self.title = f"{output.name}: another order"

    def choices(self) -> list[Unroll]:
        """Words whose numbers stay together."""
        lanes = divisors(math.gcd(self.inputs[0].channels, self.output.channels))
        return [Unroll(n, n) for n in lanes if self._words(n) is not None]

    def _words(self, lanes: int) -> np.ndarray | None:
        """The number of the word that each word of the output is."""
        rows = self.source.reshape(-1, lanes)
        together = (rows[:, :1] % lanes == 0).all() and (rows == rows[:, :1] + np.arange(lanes)).all()
        return rows[:, 0] // lanes if together else None

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        lanes, kind = unroll.outputs, inputs[0].kind
        words = self._words(lanes)
        assert words is not None
        memory = Memory("all", kind, lanes, inputs[0].count)
        lane = Counter.of("lane", lanes, is_lane=True)
        word = Counter.of("number", inputs[0].count)
        element = Element(kind.low, kind.high, "word_in", lane)
        fill = Nest("fill", (word,), (Read(inputs[0], "word_in"), Lanes(lane, (Store(memory, word, lane, element),))))
        counters, address = _loops(words)
        memories = [memory]
        if address is None:
            top = Kind(0, int(words.max()))
            memories.append(Memory("addresses", top, 1, len(words), words.reshape(-1, 1)))
            counters = (Counter.of("number", len(words)),)
            address = Load(top.low, top.high, "addresses", counters[0], Const.of(0))
        load = Load(kind.low, kind.high, memory.name, address, lane)
        give = Nest("give", counters, (Lanes(lane, (Put("out", lane, load),)), Write(tuple(outputs), "out")))
        return Process(self.name, self.title, (fill, give), tuple(inputs), tuple(outputs), tuple(memories))


def _loops(words: np.ndarray) -> tuple[tuple[Counter, ...], Expr | None]:
    """Loops and an address that is linear in their counters and runs through `words`; None where there is none."""
    found = linear(words)
    if found is None:
        return (), None
    first, extents = found
    counters = tuple(Counter.of(f"i{number}", extent) for number, (extent, _) in enumerate(reversed(extents)))
    address: Expr = Const.of(first)
    for counter, (_, step) in zip(counters, reversed(extents), strict=True):
        address = address + counter * step
    if not counters:
        counters = (Counter.of("once", 1),)
    return counters, address


def linear(numbers: np.ndarray) -> tuple[int, list[tuple[int, int]]] | None:
    """The first of `numbers`, and (extent, step) of loops that run through them, the innermost first; None where there
    are none."""
    extents: list[tuple[int, int]] = []
    rest = numbers
    while len(rest) > 1:
        step = int(rest[1] - rest[0])
        differs = np.flatnonzero(np.diff(rest) != step)
        run = int(differs[0]) + 1 if differs.size else len(rest)
        if len(rest) % run:
            return None
        blocks = rest.reshape(-1, run)
        if not (blocks == blocks[:, :1] + step * np.arange(run)).all():
            return None
        extents.append((run, step))
        rest = blocks[:, 0]
    return int(numbers[0]), extents
