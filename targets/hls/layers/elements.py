"""What a fused group computes of single elements, as integer expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from targets.hls.expressions import Const, Expr, Load, clamp, greater, select, smaller, within
from targets.hls.program import Kind, Memory
from tensorc.errors import UnsupportedError
from tensorc.fixed_point import Grid
from tensorc.ir.graph import Node, Value
from tensorc.ir.ops.fixed import fixed_limits


@dataclass(frozen=True)
class Number:
    """A raw integer, of which `fraction` bits stand behind the point; divided by `divisor` if it is a mean."""

    raw: Expr
    fraction: int
    divisor: int = 1

    def at(self, fraction: int) -> Expr:
        return self.raw << (fraction - self.fraction)


#: Gives the number that an operand from outside has for the element at hand.
Operand = Callable[[Value], Number]


class Elements:
    """Numbers of a body's values, made of `known` ones; whatever else is needed comes from `operand`. Tables, whose
    numbers `constant` has, become memories, kept in `tables`."""

    def __init__(
        self,
        grids: Mapping[Value, Grid],
        operand: Operand,
        constant: Callable[[Value], np.ndarray | None],
        tables: dict[tuple[Value, str], Memory],
    ):
        self.grids = grids
        self.constant = constant
        self.operand = operand
        self.tables = tables
        self.known: dict[Value, Number] = {}

    def number(self, value: Value) -> Number:
        if value not in self.known:
            self.known[value] = self._made(value)
        return self.known[value]

    def _made(self, value: Value) -> Number:
        if value.constant is not None and value.constant.splat is not None:
            grid = self.grids[value]
            return Number(Const.of(grid.low if grid.low else grid.high), grid.fraction)
        node = value.producer
        if node is None or node.op not in RULES:
            return self.operand(value)
        return RULES[node.op](self, node)

    def operands(self, node: Node) -> list[Number]:
        """On one grid."""
        numbers = [self.number(value) for value in node.inputs]
        if any(number.divisor != 1 for number in numbers):
            raise UnsupportedError(f"%{node.output.name}: {node.op} of a mean that is not rounded")
        fraction = max(number.fraction for number in numbers)
        return [Number(number.at(fraction), fraction) for number in numbers]

    def table(self, value: Value) -> Memory:
        return self._held(value, "", self._raw(value))

    def pieces(self, value: Value) -> tuple[Memory, Memory]:
        """Where pieces of a line begin, and how much they rise."""
        raw = self._raw(value)
        return self._held(value, "", raw[:-1]), self._held(value, "_rise", np.diff(raw))

    def _raw(self, value: Value) -> np.ndarray:
        numbers = self.constant(value)
        assert numbers is not None
        return self.grids[value].raw(numbers)

    def _held(self, value: Value, what: str, raw: np.ndarray) -> Memory:
        if (value, what) not in self.tables:
            number = len({held for held, _ in self.tables} - {value})
            kind = Kind(int(raw.min()), int(raw.max()), self.grids[value].fraction)
            self.tables[value, what] = Memory(f"table{number}{what}", kind, 1, len(raw), raw.reshape(-1, 1))
        return self.tables[value, what]


def _add(elements: Elements, node: Node) -> Number:
    a, b = elements.operands(node)
    return Number(a.raw + b.raw, a.fraction)


def _sub(elements: Elements, node: Node) -> Number:
    a, b = elements.operands(node)
    return Number(a.raw - b.raw, a.fraction)


def _mul(elements: Elements, node: Node) -> Number:
    a, b = (elements.number(value) for value in node.inputs)
    return Number(a.raw * b.raw, a.fraction + b.fraction)


def _max(elements: Elements, node: Node) -> Number:
    a, b = elements.operands(node)
    return Number(greater(a.raw, b.raw), a.fraction)


def _min(elements: Elements, node: Node) -> Number:
    a, b = elements.operands(node)
    return Number(smaller(a.raw, b.raw), a.fraction)


def _neg(elements: Elements, node: Node) -> Number:
    (x,) = elements.operands(node)
    return Number(Const.of(0) - x.raw, x.fraction)


def _abs(elements: Elements, node: Node) -> Number:
    (x,) = elements.operands(node)
    return Number(select(x.raw < 0, Const.of(0) - x.raw, x.raw), x.fraction)


def _relu(elements: Elements, node: Node) -> Number:
    x = elements.number(node.inputs[0])
    return Number(greater(x.raw, 0), x.fraction, x.divisor)


def _clip(elements: Elements, node: Node) -> Number:
    (x,) = elements.operands(node)
    grid = elements.grids[node.output]
    raw = x.at(grid.fraction)
    low, high = (node.attrs[key] for key in ("min", "max"))
    if math.isfinite(low):
        raw = greater(raw, int(low * 2**grid.fraction))
    if math.isfinite(high):
        raw = smaller(raw, int(high * 2**grid.fraction))
    return Number(raw, grid.fraction)


def _fix(elements: Elements, node: Node) -> Number:
    x = elements.number(node.inputs[0])
    low, high = fixed_limits(node.attrs["width"], node.attrs["signed"])
    fraction = node.attrs["fraction"]
    return Number(rounded(x, fraction, low, high), fraction)


def rounded(x: Number, fraction: int, low: int, high: int) -> Expr:
    """floor(x * 2^fraction + 1/2), the nearest number to it of low..high."""
    up = max(fraction - x.fraction, 0)
    drop = max(x.fraction - fraction, 0)
    if x.divisor == 1:
        shifted = x.raw << up if not drop else (x.raw + (1 << drop - 1)) >> drop
    else:
        below = x.divisor << drop
        shifted = floor_divide((x.raw << up + 1) + below, 2 * below)
    return clamp(shifted, low, high)


def floor_divide(x: Expr, by: int) -> Expr:
    """floor(x / by), by a multiplication and a shift.

    With m = ceil(2^s / by), floor(x m / 2^s) is the quotient of every x in 0..n if n (m by - 2^s) < 2^s (Granlund and
    Montgomery 1994). Numbers below zero are raised by a multiple of `by` first.
    """
    raised = -(x.low // by) if x.low < 0 else 0
    x = x + raised * by
    shift = 0
    while x.high * (-(-(1 << shift) // by) * by - (1 << shift)) >= 1 << shift:
        shift += 1
    return ((x * -(-(1 << shift) // by)) >> shift) - raised


def _lookup(elements: Elements, node: Node) -> Number:
    x = elements.number(node.inputs[0])
    memory = elements.table(node.inputs[1])
    address = x.at(node.attrs["fraction"]) - node.attrs["first"]
    kind = memory.kind
    return Number(Load(kind.low, kind.high, memory.name, address, Const.of(0)), kind.fraction)


def _interpolate(elements: Elements, node: Node) -> Number:
    x = elements.number(node.inputs[0])
    (starts, rises), step, grid = elements.pieces(node.inputs[1]), node.attrs["step"], elements.grids[node.output]
    at = within(x.at(node.attrs["fraction"]) - node.attrs["first"], 0, (starts.depth << step) - 1)
    piece = at >> step
    along = within(at - (piece << step), 0, (1 << step) - 1)
    start, rise = (Load(m.kind.low, m.kind.high, m.name, piece, Const.of(0)) for m in (starts, rises))
    return Number(within((start << step) + along * rise, grid.low, grid.high), grid.fraction)


RULES: dict[str, Callable[[Elements, Node], Number]] = {
    "abs": _abs, "add": _add, "clip": _clip, "fix": _fix, "interpolate": _interpolate, "lookup": _lookup,
    "max": _max, "min": _min, "mul": _mul,
    "neg": _neg, "relu": _relu, "sub": _sub,
}  # fmt: skip
