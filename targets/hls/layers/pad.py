"""A constant around a tensor: its numbers pass as they come, with others between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from targets.hls.expressions import TRUE, Const, Counter, Element, Expr, Register
from targets.hls.layers.layer import Layer, Unroll, divisors
from targets.hls.layers.tensor import Tensor
from targets.hls.layers.windows import used_loops
from targets.hls.program import Channel, Lanes, Nest, Process, Put, Read, State, Statement, Update, When, Write


class Pad(Layer):
    """`extents` are those of the input's axes in the order in which it passes, each with how many numbers come
    `before` and behind them; the others are `outside`, raw."""

    def __init__(self, name: str, tensor: Tensor, output: Tensor, extents: Sequence[int], before: Sequence[int],
                 after: Sequence[int], outside: int):  # fmt: skip
        self.name = name
        self.inputs = (tensor,)
        self.output = output
        self.extents = tuple(extents)
        self.before = tuple(before)
        self.after = tuple(after)
        self.outside = outside
        self.title = f"{output.name}: {outside * 2.0**-output.kind.fraction:g} around"

    def choices(self) -> list[Unroll]:
        """Words that are of one kind."""
        return [Unroll(n, n) for n in divisors(math.gcd(self.extents[-1], self.before[-1], self.after[-1]))]

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        """Nothing is written before the image begins to come: what stands in front of it waits for its first word,
        which is held, as each word from then on is until its place."""
        lanes, kind = unroll.outputs, inputs[0].kind
        extents, before, after = ((*row[:-1], row[-1] // lanes) for row in (self.extents, self.before, self.after))
        loops = [Counter.of(f"i{n}", sum(row)) for n, row in enumerate(zip(extents, before, after, strict=True))]
        inside: Expr = TRUE
        at: Expr = Const.of(0)
        last = 0
        for loop, extent, first in zip(loops, extents, before, strict=True):
            inside = inside & (Const.of(first) <= loop) & (loop < first + extent)
            at, last = at * (loop.high + 1) + loop, last * (loop.high + 1) + first + extent - 1
        lane = Counter.of("lane", lanes, is_lane=True)
        held = State("held", kind, lanes)
        shift = self.output.kind.fraction - kind.fraction
        come, kept = Element(kind.low, kind.high, "word_in", lane), Register(kind.low, kind.high, held.name, lane)
        take: tuple[Statement, ...] = (Read(inputs[0], "word_in"), Lanes(lane, (Update(held, lane, come),)))
        steps: list[Nest] = []
        if any(before):
            steps.append(Nest("first", (Counter.of("once", 1),), take))
            give: tuple[Statement, ...] = (Lanes(lane, (Put("out", lane, kept << shift),)), When(at < last, take))
        else:
            give = (take[0], Lanes(lane, (Put("out", lane, come << shift),)))
        if inside != TRUE:
            give = (Lanes(lane, (Put("out", lane, Const.of(self.outside)),)), When(inside, give))
        steps.append(Nest("pass", used_loops(loops), (*give, Write(tuple(outputs), "out"))))
        registers = (held,) if any(before) else ()
        return Process(self.name, self.title, tuple(steps), tuple(inputs), tuple(outputs), (), registers)
