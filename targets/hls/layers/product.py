"""Convolutions and products by known matrices: a matrix-vector unit of PE x SIMD multipliers (FINN's MVAU).

Each cycle `inputs` (SIMD) elements at each of `places` of a window meet weights of `outputs` (PE) channels, whose
accumulators are registers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from targets.hls.expressions import TRUE, Const, Counter, Element, Expr, Load, Register, Sum, select, total, whole
from targets.hls.layers.columns import ColumnBuffer
from targets.hls.layers.layer import Epilogue, Group, HeadLayer, Unroll, divisors
from targets.hls.layers.lmul import LogWeights, taken
from targets.hls.layers.tensor import Tensor, kind_of
from targets.hls.layers.windows import RowBuffer, Window, pixels, used_loops
from targets.hls.program import (
    MOST_PARTS,
    Channel,
    Kind,
    Lanes,
    Let,
    Memory,
    Nest,
    Process,
    Read,
    State,
    Statement,
    Update,
    When,
)
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node


class Product(HeadLayer):
    """`weights` [groups, outputs of a group, kernel places, inputs of a group] in the order in which they are read."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor, window: Window,
                 weights: np.ndarray):  # fmt: skip
        super().__init__(name, group, head, inputs, output)
        self.window = window
        self.weights = weights
        groups, outputs, _, channels = weights.shape
        self.depthwise = channels == 1 and outputs == 1 and groups > 1
        places = "x".join(map(str, window.kernel))
        what = f"{places} convolution" if head.op.endswith("conv") else "matrix product"
        self.title = f"{output.name}: {'depthwise ' if self.depthwise else ''}{what}"
        self.is_lmul = head.op.startswith("lmul")
        self.title += " by L-Mul" if self.is_lmul else ""
        self.title += f", {_shape(self.inputs[0])} -> {_shape(output)}"

    @property
    def weight_bits(self) -> int:
        return self.weight_kind.bits

    def choices(self) -> list[Unroll]:
        groups, outputs, places, channels = self.weights.shape
        if self.depthwise:
            every = [Unroll(n, n, places=p) for n in divisors(groups) for p in divisors(places)]
        else:
            every = [Unroll(pe, simd, places=p) for pe in divisors(outputs) for simd in divisors(channels)
                     for p in divisors(places)]  # fmt: skip
        if self.is_lmul:  # a place of the kernel at a time
            every = [one for one in every if one.places == 1]
        fits = ColumnBuffer.fits(self.window)
        return [one for one in every if self.multipliers(one) <= MOST_PARTS and (fits or self._sides(one)[0] == 1)]

    def multipliers(self, unroll: Unroll) -> int:
        """And so many weights are read together."""
        return unroll.outputs * unroll.places * (1 if self.depthwise else unroll.inputs)

    def _sides(self, unroll: Unroll) -> tuple[int, int]:
        """Rows and columns of a window that are looked at together: rows first, of which one load gives several."""
        rows = math.gcd(unroll.places, self.window.kernel[0])
        return rows, unroll.places // rows

    def input_lanes(self, unroll: Unroll) -> tuple[int, ...]:
        return (unroll.inputs, *(unroll.outputs for _ in self.inputs[1:]))

    @property
    def weight_kind(self) -> Kind:
        return kind_of(self.group.grids[self.head.inputs[1]])

    @property
    def passes(self) -> int:
        """How often all weights are read for an image."""
        return self.window.out[0] * self.window.out[1]

    def words(self, unroll: Unroll) -> np.ndarray:
        """The weights that are read together, in the order in which they are."""
        pe, simd = unroll.outputs, 1 if self.depthwise else unroll.inputs
        groups, per_group, _, channels = self.weights.shape
        (lines, copies), (high, wide) = self._sides(unroll), self.window.kernel
        # The outputs that are made one after the other, then those side by side.
        outputs = (groups // pe, 1, pe) if self.depthwise else (groups, per_group // pe, pe)
        places = high // lines, lines, wide // copies, copies
        words = self.weights.reshape(*outputs, *places, channels // simd, simd)
        return words.transpose(0, 1, 3, 5, 7, 2, 6, 4, 8).reshape(-1, self.multipliers(unroll))

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        """Weights come by a channel behind those of `inputs`, if there is one."""
        pe, simd = unroll.outputs, 1 if self.depthwise else unroll.inputs
        window, head = self.window, self.head
        grid = self.group.grids[head.output]
        accumulator = State("sum", kind_of(grid), pe)
        lines, copies = self._sides(unroll)
        rows = ColumnBuffer(window, inputs[0], lines, copies) if lines > 1 else RowBuffer(window, inputs[0], copies)
        groups, per_group, _, channels = self.weights.shape

        column = Counter.of("column", window.out[1])
        ky, kx = Counter.of("ky", window.kernel[0] // lines), Counter.of("kx", window.kernel[1] // copies)
        row = Counter.of("row", window.out[0])
        lane = Counter.of("lane", pe, is_lane=True)
        part = Counter.of("part", simd, is_lane=True)
        inputs, streams = inputs[: len(self.inputs)], inputs[len(self.inputs) :]
        if self.depthwise:
            made: tuple[Counter, ...] = (Counter.of("chunk", groups // pe),)
            ends: tuple[Counter, ...] = (ky, kx)
            place: Expr = made[0]
            word: Expr = made[0]
        else:
            which, out = Counter.of("group", groups), Counter.of("filter", per_group // pe)
            inner = Counter.of("chunk", channels // simd)
            made, ends = (which, out), (ky, kx, inner)
            place = which * (per_group // pe) + out
            word = which * (channels // simd) + inner
        loops = (column, *made, *ends)
        place_of = partial(rows.elements, row, whole(ky) * lines, column, whole(kx) * copies, word)
        names, elements = place_of(lane if self.depthwise else part)
        terms: list[Expr] = []
        once: list[Statement] = []
        each: list[Statement] = []
        read: Let | Read
        tables: tuple[Memory, ...]
        if self.is_lmul:
            read = Let("weight", _flat((*made, *ends)))
            most = max(-self.weight_kind.low, self.weight_kind.high, 1)
            width = self.multipliers(unroll)
            logs = LogWeights(partial(self.words, unroll), most, width, self.weights.size // width)
            xs = elements if self.depthwise else [place_of(Const.of(n))[1][0] for n in range(simd)]
            for which_x, x in enumerate(xs):
                parts = list(taken(which_x, x))
                (each if self.depthwise else once).extend(parts)
                product, term = logs.product(which_x, (parts[0], parts[-1]), read.local, lane * len(xs) + which_x)
                each += product
                terms.append(term)
            tables = logs.signs, logs.patterns
        else:
            weights = _Weights(self, unroll, streams, (*made, *ends))
            for copy, x in enumerate(elements):
                number = ((lane * copies + copy) * lines + whole(rows.line)) * simd + part
                one = times(weights.element(whole(number)), x)
                terms.append(_summed(rows.line, _summed(part, one)))
            read, tables = weights.read, weights.memories

        first: Expr = TRUE
        last: Expr = TRUE
        for counter in ends:
            first, last = first & counter.equals(0), last & counter.equals(counter.high)
        before = Register(grid.low, grid.high, accumulator.name, lane)
        epilogue = Epilogue(self.group, head.output, self.output)
        written = epilogue.statements(pe, before, place, row * window.out[1] + column, inputs[1:], outputs)
        end_of_row = column.equals(column.high) & last
        for counter in made:
            end_of_row = end_of_row & counter.equals(counter.high)
        body: list[Statement] = [
            *names,
            read,
            *once,
            Lanes(lane, (*each, Update(accumulator, lane, select(first, 0, before) + total(terms)))),
        ]
        body += written if last == TRUE else [When(last, tuple(written))]
        body += rows.advance(end_of_row)
        steps = rows.steps(Nest("compute", used_loops(loops), tuple(body)))
        memories = (*rows.memories, *tables, *epilogue.memories)
        return Process(self.name, self.title, steps, (*inputs, *streams), tuple(outputs), memories,
                       (accumulator, *rows.registers))  # fmt: skip


class _Weights:
    """Of a product, those that `counters` number: out of its memory, or by a channel that brings them in their order.
    `read` stands before elements of them."""

    def __init__(self, layer: Product, unroll: Unroll, channels: Sequence[Channel], counters: Sequence[Counter]):
        self.kind = layer.weight_kind
        self.memories: tuple[Memory, ...] = ()
        self.read: Let | Read
        if channels:
            self.read = Read(channels[0], "weight_in")
        else:
            width = layer.multipliers(unroll)
            depth = layer.weights.size // width
            self.memories = (Memory("weights", self.kind, width, depth, partial(layer.words, unroll)),)
            self.read = Let("weight", _flat(counters))

    def element(self, lane: Expr) -> Expr:
        if isinstance(self.read, Read):
            return Element(self.kind.low, self.kind.high, self.read.word, lane)
        return Load(self.kind.low, self.kind.high, self.memories[0].name, self.read.local, lane)


def times(weight: Expr, x: Expr) -> Expr:
    """A product; by weights of -1, 0 and 1 it is an addition, a subtraction or nothing (MatMul-free)."""
    if weight.low < -1 or weight.high > 1:
        return weight * x
    return select(weight.equals(0), 0, select(weight < 0, Const.of(0) - x, x))


def _summed(counter: Counter, x: Expr) -> Expr:
    count = counter.high + 1
    return Sum(x.low * count, x.high * count, counter, x) if count > 1 else x


def _flat(counters: Sequence[Counter]) -> Expr:
    """The number of an iteration of these loops."""
    address: Expr = Const.of(0)
    for counter in counters:
        address = address * (counter.high + 1) + counter
    return address


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def convolution(name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor) -> Product:
    weights = group.constant(head.inputs[1])
    assert weights is not None
    raw = group.grids[head.inputs[1]].raw(weights)
    groups = head.attrs["groups"]
    raw = raw.reshape(groups, raw.shape[0] // groups, raw.shape[1], -1).transpose(0, 1, 3, 2)
    return Product(name, group, head, inputs, output, conv_window(head), raw)


def conv_window(head: Node) -> Window:
    """Of a convolution or a pool of images or signals."""
    shape = static_shape(head.inputs[0].shape)
    spatial = len(shape) - 2
    out = static_shape(head.output.shape)[2:]
    kernel = head.attrs["kernel"] if "kernel" in head.attrs else static_shape(head.inputs[1].shape)[2:]

    def pair(values: Sequence[int], filler: int) -> tuple[int, int]:
        first, *second = values
        return first, second[0] if second else filler

    return Window(
        *pixels(shape), pair(kernel, 1), pair(head.attrs["strides"], 1), pair(head.attrs["dilations"], 1),
        pair(head.attrs["pads"][:spatial], 0), pair(out, 1),
    )  # fmt: skip


def matrix_product(name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor) -> Product:
    """Each row of `inputs[0]`, in the order in which its numbers pass, by a matrix."""
    weights = group.constant(head.inputs[1])
    assert weights is not None
    raw = group.grids[head.inputs[1]].raw(weights)
    if not head.attrs["transpose_b"]:
        raw = raw.T
    outputs, depth = raw.shape
    rows = math.prod(static_shape(head.inputs[0].shape)[:-1])
    if rows == 1:  # any order will do, if the weights follow it
        raw = raw[:, inputs[0].order]
    window = Window(rows, 1, depth, out=(rows, 1))
    return Product(name, group, head, inputs, output, window, raw.reshape(1, outputs, 1, depth))
