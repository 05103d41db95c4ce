"""Convolutions and products by known matrices: a matrix-vector unit of PE x SIMD multipliers (FINN's MVAU).

Each cycle `inputs` (SIMD) elements of a window meet weights of `outputs` (PE) channels, whose accumulators are
registers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from targets.hls.expressions import TRUE, Const, Counter, Expr, Load, Register, Sum, select, total, whole
from targets.hls.layers.layer import Epilogue, Group, Layer, Unroll, divisors
from targets.hls.layers.lmul import LogWeights, taken
from targets.hls.layers.tensor import Tensor, kind_of
from targets.hls.layers.windows import RowBuffer, Window, pixels, used_loops
from targets.hls.program import Channel, Lanes, Let, Memory, Nest, Process, State, Statement, Update, When
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node


class Product(Layer):
    """`weights` [groups, outputs of a group, kernel places, inputs of a group] in the order in which they are read."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor, window: Window,
                 weights: np.ndarray):  # fmt: skip
        self.name = name
        self.group = group
        self.head = head
        self.inputs = inputs
        self.output = output
        self.window = window
        self.weights = weights
        groups, outputs, _, channels = weights.shape
        self.depthwise = channels == 1 and outputs == 1 and groups > 1
        places = "x".join(map(str, window.kernel))
        what = f"{places} convolution" if head.op.endswith("conv") else "matrix product"
        self.title = f"{output.name}: {'depthwise ' if self.depthwise else ''}{what}"
        self.title += " by L-Mul" if head.op.startswith("lmul") else ""
        self.title += f", {_shape(self.inputs[0])} -> {_shape(output)}"

    def choices(self) -> list[Unroll]:
        groups, outputs, _, channels = self.weights.shape
        if self.depthwise:
            return [Unroll(n, n) for n in divisors(groups)]
        return [Unroll(pe, simd) for pe in divisors(outputs) for simd in divisors(channels)]

    def input_lanes(self, unroll: Unroll) -> tuple[int, ...]:
        return (unroll.inputs, *(unroll.outputs for _ in self.inputs[1:]))

    def _words(self, unroll: Unroll) -> np.ndarray:
        """The weights that are read together, in the order in which they are."""
        pe, simd = unroll.outputs, unroll.inputs
        groups, per_group, _, channels = self.weights.shape
        if self.depthwise:
            return self.weights.reshape(groups // pe, pe, -1).transpose(0, 2, 1).reshape(-1, pe)
        words = self.weights.reshape(groups, per_group // pe, pe, -1, channels // simd, simd)
        return words.transpose(0, 1, 3, 4, 2, 5).reshape(-1, pe * simd)

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        pe, simd = unroll.outputs, unroll.inputs
        window, head = self.window, self.head
        grid = self.group.grids[head.output]
        accumulator = State("sum", kind_of(grid), pe)
        rows = RowBuffer(window, inputs[0])
        groups, per_group, _, channels = self.weights.shape

        column = Counter.of("column", window.out[1])
        ky, kx = Counter.of("ky", window.kernel[0]), Counter.of("kx", window.kernel[1])
        row = Counter.of("row", window.out[0])
        lane = Counter.of("lane", pe, is_lane=True)
        part = Counter.of("part", simd, is_lane=True)
        weight_kind = kind_of(self.group.grids[head.inputs[1]])
        if self.depthwise:
            outer = (Counter.of("chunk", groups // pe),)
            loops: tuple[Counter, ...] = (column, *outer, ky, kx)
            place: Expr = outer[0]
            word: Expr = outer[0]
            ends: tuple[Counter, ...] = (ky, kx)
            width = pe
            places = rows.place(row, ky, column, kx, word)
            at = Let("weight", _flat((outer[0], ky, kx)))
            x = rows.element(places, lane)
            weight = Load(weight_kind.low, weight_kind.high, "weights", at.local, whole(lane))
            product = times(weight, x)
            xs = [x]
        else:
            which, out = Counter.of("group", groups), Counter.of("filter", per_group // pe)
            inner = Counter.of("chunk", channels // simd)
            loops = (column, which, out, ky, kx, inner)
            place = which * (per_group // pe) + out
            word = which * (channels // simd) + inner
            ends = (ky, kx, inner)
            width = pe * simd
            places = rows.place(row, ky, column, kx, word)
            at = Let("weight", _flat((which, out, ky, kx, inner)))
            x = rows.element(places, part)
            weight = Load(weight_kind.low, weight_kind.high, "weights", at.local, lane * simd + part)
            one = times(weight, x)
            product = Sum(*_interval(one, simd), part, one) if simd > 1 else one
            xs = [rows.element(places, Const.of(n)) for n in range(simd)]
        depth = self.weights.size // width
        tables: tuple[Memory, ...] = (Memory("weights", weight_kind, width, depth, partial(self._words, unroll)),)
        once: list[Statement] = []
        each: list[Statement] = []
        if head.op.startswith("lmul"):
            most = max(-weight_kind.low, weight_kind.high, 1)
            logs = LogWeights(partial(self._words, unroll), most, width, depth)
            terms = []
            for number, x in enumerate(xs):
                names = list(taken(number, x))
                (each if self.depthwise else once).extend(names)
                made, term = logs.product(number, (names[0], names[-1]), at.local, lane * len(xs) + number)
                each += made
                terms.append(term)
            product, tables = total(terms), (logs.signs, logs.patterns)

        first: Expr = TRUE
        last: Expr = TRUE
        for counter in ends:
            first, last = first & counter.equals(0), last & counter.equals(counter.high)
        before = Register(grid.low, grid.high, accumulator.name, lane)
        epilogue = Epilogue(self.group, head.output, self.output)
        written = epilogue.statements(pe, before, place, row * window.out[1] + column, inputs[1:], outputs)
        end_of_row = column.equals(column.high) & last
        for counter in loops[1 : len(loops) - len(ends)]:
            end_of_row = end_of_row & counter.equals(counter.high)
        body: list[Statement] = [
            *places,
            at,
            *once,
            Lanes(lane, (*each, Update(accumulator, lane, select(first, 0, before) + product))),
        ]
        body += written if last == TRUE else [When(last, tuple(written))]
        body += rows.advance(end_of_row)
        steps = rows.steps(Nest("compute", used_loops(loops), tuple(body)))
        memories = (rows.memory, *tables, *epilogue.memories)
        return Process(self.name, self.title, steps, tuple(inputs), tuple(outputs), memories,
                       (accumulator, *rows.registers))  # fmt: skip


def times(weight: Expr, x: Expr) -> Expr:
    """A product; by weights of -1, 0 and 1 it is an addition, a subtraction or nothing (MatMul-free)."""
    if weight.low < -1 or weight.high > 1:
        return weight * x
    return select(weight.equals(0), 0, select(weight < 0, Const.of(0) - x, x))


def _interval(x: Expr, count: int) -> tuple[int, int]:
    return x.low * count, x.high * count


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
