"""Rows of a tensor that pass, side by side, for layers that look at several rows of a window at once.

A word holds a pixel of each row that is kept, the oldest first: one load gives a column of a window. A new row comes in
at the end of the words, and the others move up by one, so each row of a window has a place in them that never changes.
"""

from __future__ import annotations

from dataclasses import replace

from targets.hls.expressions import TRUE, Const, Counter, Element, Expr, Load, select, whole
from targets.hls.layers.windows import RowBuffer, Window, used_loops
from targets.hls.program import Channel, Lanes, Let, Memory, Nest, Read, Repeat, Statement, Step, Store, When


class ColumnBuffer(RowBuffer):
    """Gives `lines` rows of a window at once, by their lane counter `line`; for a window with `fits`."""

    def __init__(self, window: Window, channel: Channel, lines: int, copies: int):
        super().__init__(window, channel, copies)
        self.line = Counter.of("line", lines, is_lane=True)
        self.memories = tuple(replace(one, lanes=window.kept * self.lanes, depth=self.row) for one in self.memories)
        self.moves = False

    @staticmethod
    def fits(window: Window) -> bool:
        """Not one that is so much higher than the image that its last rows are never read."""
        return window.span <= window.before + window.strides[0] + window.pads[0]

    def _fill(self, name: str, rows: int, first: Expr) -> Step:
        """Rows follow each other in nests of their own: each finds what the last one left."""
        fresh = Counter.of("fresh", rows)
        column, chunk = Counter.of("column", self.window.columns), Counter.of("chunk", self.words)
        at = Let("at", column * self.words + chunk)
        kind = self.channel.kind
        lane = Counter.of("lane", self.lanes, is_lane=True)
        word = Element(kind.low, kind.high, "word_in", whole(lane))
        exists, over = first + fresh < self.window.rows, Const.of(self.window.rows) <= first + fresh
        body: list[Statement] = [at]
        read: tuple[Statement, ...] = (Read(self.channel, "word_in"), *self._pushed(at.local, lane, word))
        if exists == TRUE:
            body += read
        else:
            body += [When(exists, read), When(over, self._pushed(at.local, lane, Const.of(0)))]
        nest = Nest(name, used_loops((column, chunk)), tuple(body))
        return Repeat(fresh, (nest,)) if fresh.high else nest

    def _pushed(self, at: Expr, lane: Counter, new: Expr) -> tuple[Statement, ...]:
        """All rows move up, a new one comes in; the first copy, which is read, moves last."""
        kind, last = self.channel.kind, self.window.kept - 1
        above = Counter.of("above", last, is_lane=True)
        old = Load(kind.low, kind.high, self.memories[0].name, at, (whole(above) + 1) * self.lanes + whole(lane))

        def store(memory: Memory, line: Expr, value: Expr) -> Store:
            return Store(memory, at, line * self.lanes + whole(lane), value)

        up = tuple(store(memory, whole(above), old) for memory in reversed(self.memories))
        down = tuple(store(memory, Const.of(last), new) for memory in self.memories)
        return Lanes(above, (Lanes(lane, up),)), Lanes(lane, down)

    def elements(
        self, row: Expr, ky: Expr, column: Expr, kx: Expr, chunk: Expr, lane: Expr, outside: int = 0
    ) -> tuple[list[Let], list[Expr]]:
        """As in a buffer of rows, for row `ky` + `line` of the window; `ky` is a multiple of the lines, and a counter
        times that."""
        window, kind = self.window, self.channel.kind
        first = Let("first", row * window.strides[0] + ky * window.dilations[0])
        pad = Const.of(window.pads[0]) - whole(self.line) * window.dilations[0]
        in_rows = (pad <= first.local) & (first.local < pad + window.rows)
        names, found = [first], []
        lines = self.line.high + 1
        for copy, memory in enumerate(self.memories):
            x = self._x(column, kx, copy)
            number = str(copy or "")
            inside = Let(f"inside{number}", self._within(x))
            address = Let(f"address{number}", x * self.words + chunk)
            names += [inside, address]
            value: Expr | None = None
            for start in range(0, window.kernel[0], lines):
                place = (whole(self.line) + start) * (window.dilations[0] * self.lanes) + whole(lane)
                loaded = Load(kind.low, kind.high, memory.name, address.local, place)
                value = loaded if value is None else select(ky < start, value, loaded)
            assert value is not None
            found.append(select(inside.local & in_rows, value, outside))
        return names, found
