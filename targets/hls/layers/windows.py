"""Rows of a tensor that pass, kept for as long as windows need them.

The input's rows go into a buffer that holds as many as a window is high, each new one in the place of the oldest.
Before each row of results, as many rows are read as the window moves by. Matrices and vectors are images one pixel
wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from targets.hls.expressions import TRUE, Const, Counter, Element, Expr, Load, Register, Select, select, whole
from targets.hls.program import (
    Channel,
    Kind,
    Lanes,
    Let,
    Memory,
    Nest,
    Read,
    Repeat,
    State,
    Statement,
    Step,
    Store,
    Update,
    When,
)
from tensorc.errors import UnsupportedError


@dataclass(frozen=True)
class Window:
    """Over `rows` x `columns` pixels of `channels`; pads are in front and behind."""

    rows: int
    columns: int
    channels: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    out: tuple[int, int] = (1, 1)

    @property
    def span(self) -> int:
        """Rows from the first of a window to its last."""
        return (self.kernel[0] - 1) * self.dilations[0] + 1

    @property
    def before(self) -> int:
        """Rows that are there before the first step reads its own."""
        return min(max(self.span - self.pads[0] - self.strides[0], 0), self.rows)

    @property
    def kept(self) -> int:
        """Rows that the buffer holds: from the first of a window to the last that was read."""
        return max(self.span, self.before + self.strides[0] + self.pads[0])

    @property
    def left(self) -> int:
        """Rows that no window needs any more; they are read all the same."""
        return max(self.rows - self.before - self.out[0] * self.strides[0], 0)


class RowBuffer:
    """The buffer of a window's rows in words of `lanes` elements, and the steps that fill it from `channel`. With
    `copies` of it several places of a window can be read at once, one from each."""

    def __init__(self, window: Window, channel: Channel, copies: int = 1):
        self.window = window
        self.channel = channel
        self.lanes = channel.lanes
        self.words = window.channels // self.lanes
        self.row = window.columns * self.words
        self.size = window.kept * self.row
        self.memories = self._memories(copies, self.lanes, self.size)
        #: Rows of a window that are read at once.
        self.line = Counter.of("line", 1, is_lane=True)
        #: Whether registers say where rows lie.
        self.moves = window.kept > 1 or window.strides[0] > 1
        top = Kind(0, self.size - 1)
        #: Where the next row goes, and where the first row of the window lies.
        self.next = State("rows_next", top, 1)
        self.top = State("rows_top", top, 1)

    def _memories(self, copies: int, lanes: int, size: int) -> tuple[Memory, ...]:
        return tuple(Memory(f"rows{_number(copy)}", self.channel.kind, lanes, size) for copy in range(copies))

    @property
    def registers(self) -> tuple[State, ...]:
        return (self.next, self.top) if self.moves else ()

    def steps(self, compute: Nest) -> tuple[Step, ...]:
        """The whole walk: `compute` makes a row of results, whose number is the counter `row`."""
        window = self.window
        steps: list[Step] = []
        if self.moves:
            first = (-window.pads[0] % window.kept) * self.row
            steps.append(Nest("begin", (Counter.of("once", 1),), (
                Update(self.next, Const.of(0), Const.of(0)), Update(self.top, Const.of(0), Const.of(first)),
            )))  # fmt: skip
        if window.before:
            steps.append(self._fill("fill", window.before, Const.of(0)))
        row = Counter.of("row", window.out[0])
        fill = self._fill("next", window.strides[0], row * window.strides[0] + window.before)
        steps.append(Repeat(row, (fill, compute)))
        if window.left:
            loops = (
                Counter.of("rest", window.left),
                Counter.of("column", window.columns),
                Counter.of("chunk", self.words),
            )
            steps.append(Nest("rest", used_loops(loops), (Read(self.channel, "word_in"),)))
        return tuple(steps)

    def _fill(self, name: str, rows: int, first: Expr) -> Step:
        """Reads `rows` rows, those that there are of them, the `first`th one first."""
        fresh = Counter.of("fresh", rows)
        column, chunk = Counter.of("column", self.window.columns), Counter.of("chunk", self.words)
        place = column * self.words + chunk
        if self.moves:
            place = self._read(self.next) + place
        lane = Counter.of("lane", self.lanes, is_lane=True)
        kind = self.channel.kind
        new = Element(kind.low, kind.high, "word_in", lane)
        stores = tuple(Store(memory, place, lane, new) for memory in self.memories)
        body: list[Statement] = [Read(self.channel, "word_in"), Lanes(lane, stores)]
        if self.moves:
            last = column.equals(column.high) & chunk.equals(chunk.high)
            body.append(When(last, (Update(self.next, Const.of(0), self._moved(self.next, 1)),)))
        exists = first + fresh < self.window.rows
        return Nest(
            name, used_loops((fresh, column, chunk)), tuple(body) if exists == TRUE else (When(exists, tuple(body)),)
        )

    def _read(self, state: State) -> Expr:
        return Register(state.kind.low, state.kind.high, state.name, Const.of(0))

    def _moved(self, state: State, rows: int) -> Expr:
        """What a register that says where a row lies holds `rows` rows on; behind the last row comes the first."""
        address, on = self._read(state), rows % self.window.kept * self.row
        if not on:
            return address
        return Select(0, self.size - 1, address < self.size - on, address + on, address - (self.size - on))

    def advance(self, last: Expr) -> tuple[Statement, ...]:
        """At the end of a row of results: the window moves down."""
        if not self.moves or self.window.strides[0] % self.window.kept == 0:
            return ()
        moved = Update(self.top, Const.of(0), self._moved(self.top, self.window.strides[0]))
        return (moved,) if last == TRUE else (When(last, (moved,)),)

    def elements(
        self, row: Expr, ky: Expr, column: Expr, kx: Expr, chunk: Expr, lane: Expr, outside: int = 0
    ) -> tuple[list[Let], list[Expr]]:
        """Element `lane` of the `chunk`th word of the pixel at place (ky, kx) of the window for the result in `row` and
        `column`; `outside` of the image. From each copy one, of places kx, kx + 1 and so on; and names that they need,
        for statements before them."""
        window, kind = self.window, self.channel.kind
        y = row * window.strides[0] + ky * window.dilations[0] - window.pads[0]
        names: list[Let] = []
        found: list[Expr] = []
        for copy, memory in enumerate(self.memories):
            x = self._x(column, kx, copy)
            inside = Let(f"inside{_number(copy)}", (Const.of(0) <= y) & (y < window.rows) & self._within(x))
            names.append(inside)
            place = x * self.words + chunk
            if self.moves:
                line = Let(f"line{_number(copy)}", self._read(self.top) + ky * (window.dilations[0] * self.row))
                names.append(line)
                place = wrapped(line.local, self.size) + place
            address = Let(f"address{_number(copy)}", place)
            names.append(address)
            loaded = Load(kind.low, kind.high, memory.name, address.local, whole(lane))
            found.append(select(inside.local, loaded, outside))
        return names, found

    def _x(self, column: Expr, kx: Expr, copy: int) -> Expr:
        return column * self.window.strides[1] + (kx + copy) * self.window.dilations[1] - self.window.pads[1]

    def _within(self, x: Expr) -> Expr:
        return (Const.of(0) <= x) & (x < self.window.columns)


def _number(copy: int) -> str:
    """Of a copy, in names."""
    return str(copy or "")


def wrapped(address: Expr, size: int) -> Expr:
    """An address below 2 `size`, which goes on at 0 behind the end."""
    if address.high < size:
        return address
    return Select(0, size - 1, address < size, address, address - size)


def used_loops(loops: Sequence[Counter]) -> tuple[Counter, ...]:
    """Loops of one turn say nothing; one loop is left."""
    return tuple(counter for counter in loops if counter.high) or (loops[0],)


def pixels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns and channels of an image [1, C, H, W] or a signal [1, C, L]. Raises UnsupportedError for more."""
    batch, channels, rows, *columns = shape
    if batch != 1:
        raise UnsupportedError(f"hardware takes one image at a time, not a batch of {batch}: fix the shape by --shape")
    return rows, math.prod(columns), channels
