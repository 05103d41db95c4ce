"""Which numbers of a row are the greatest, and numbers that are told by where they stand in a row."""

from __future__ import annotations

from collections.abc import Sequence

from targets.hls.expressions import Const, Counter, Element, Expr, select, within
from targets.hls.layers.kept import keep, load, now
from targets.hls.layers.layer import Epilogue, Group, HeadLayer, Unroll
from targets.hls.layers.tensor import Tensor
from targets.hls.program import Channel, Kind, Let, Memory, Nest, Process, Read, Repeat, State, Statement, Update
from tensorc.ir.graph import Node


class TopK(HeadLayer):
    """A row is read, a number at a time; registers have the best so far in their order, and each number takes its place
    among them at once."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor):
        super().__init__(name, group, head, inputs, output)
        self.title = f"{output.name}: the best {head.attrs['k']} of rows of {inputs[0].channels}"

    def choices(self) -> list[Unroll]:
        return [Unroll()]

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:  # noqa: ARG002
        kind, count, k = inputs[0].kind, self.inputs[0].channels, self.head.attrs["k"]
        largest = self.head.attrs["largest"]
        row, place = Counter.of("row", self.output.size // k), Counter.of("place", count)
        # Below all numbers, or above them: where nothing has been found yet.
        none = kind.low - 1 if largest else kind.high + 1
        best = State("best", Kind(min(none, kind.low), max(none, kind.high)), k)
        places = State("places", Kind(0, count - 1), k)

        x = Let("x", Element(kind.low, kind.high, "word_in", Const.of(0)))
        before = [Let(f"before{n}", select(place.equals(0), none, now(best, n))) for n in range(k)]
        beats = [
            Let(f"beats{n}", one.local < x.local if largest else x.local < one.local) for n, one in enumerate(before)
        ]
        body: list[Statement] = [Read(inputs[0], "word_in"), x, *before, *beats]
        for n in range(k - 1, -1, -1):  # from the last: each takes what the one before it had
            number: Expr = x.local
            at: Expr = place
            if n:
                number = select(beats[n - 1].local, before[n - 1].local, number)
                at = select(beats[n - 1].local, now(places, n - 1), at)
            body.append(Update(best, Const.of(n), select(beats[n].local, number, before[n].local)))
            body.append(Update(places, Const.of(n), select(beats[n].local, at, now(places, n))))
        rank = Nest("rank", (place,), tuple(body))

        slot = Counter.of("slot", k)
        found = now(places, k - 1)
        for n in range(k - 2, -1, -1):
            found = select(slot.equals(n), now(places, n), found)
        epilogue = Epilogue(self.group, self.head.output, self.output)
        give = Nest("give", (slot,), epilogue.statements(1, found, slot, row, inputs[1:], outputs))
        return Process(self.name, self.title, (Repeat(row, (rank, give)),), tuple(inputs), tuple(outputs),
                       epilogue.memories, (best, places))  # fmt: skip


class Pick(HeadLayer):
    """Of each row of the first input the numbers that the second says."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor):
        super().__init__(name, group, head, inputs, output)
        self.title = f"{output.name}: {output.channels} of each row of {inputs[0].channels}"

    def choices(self) -> list[Unroll]:
        return [Unroll()]

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:  # noqa: ARG002
        count, asked = self.inputs[0].channels, self.output.channels
        memory = Memory("row_kept", inputs[0].kind, 1, count)
        row, slot = Counter.of("row", self.output.size // asked), Counter.of("slot", asked)
        at = Let("at", within(Element(inputs[1].kind.low, inputs[1].kind.high, "place_in", Const.of(0)), 0, count - 1))
        epilogue = Epilogue(self.group, self.head.output, self.output)
        written = epilogue.statements(1, load(memory, at.local), slot, row, inputs[2:], outputs)
        give = Nest("pick", (slot,), (Read(inputs[1], "place_in"), at, *written))
        return Process(self.name, self.title, (Repeat(row, (keep(memory, inputs[0]), give)),), tuple(inputs),
                       tuple(outputs), (memory, *epilogue.memories))  # fmt: skip
