"""Exponentials and reciprocals in hardware: the tables and the steps of `tensorc.ir.ops.curves`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from targets.hls.expressions import Const, Expr, LeadingBit, Load, ShiftBy, smaller, within
from targets.hls.program import Kind, Let, Memory
from tensorc.ir.ops.curves import Reciprocal, exponentials


def table_of(name: str, numbers: np.ndarray) -> Memory:
    return Memory(name, Kind(int(numbers.min()), int(numbers.max())), 1, len(numbers), numbers.reshape(-1, 1))


def read(table: Memory, address: Expr) -> Expr:
    return Load(table.kind.low, table.kind.high, table.name, address, Const.of(0))


class Weights:
    """exp(-d / 2^fraction) for whole d up to `most`."""

    def __init__(self, fraction: int, bits: int, most: int):
        self.one = 1 << bits
        self.table = table_of("exponentials", exponentials(fraction, bits)[: most + 1])

    def of(self, distance: Expr) -> Expr:
        return read(self.table, smaller(distance, self.table.depth - 1))


@dataclass(frozen=True)
class Inverse:
    """What `lets` name: the result is y / 2^(fraction + power)."""

    lets: tuple[Let, ...]
    y: Expr
    power: Expr
    memories: tuple[Memory, ...]


def inverse(curve: Reciprocal, x: Let) -> Inverse:
    """1 / x or 1 / sqrt(x), step by step as `Reciprocal.of`."""
    values, slopes = table_of("inverses", curve.values[:-1]), table_of("inverse_slopes", curve.slopes)
    number = x.local
    bit = LeadingBit(max(number.low.bit_length() - 1, 0), number.high.bit_length() - 1, number)
    power = Let("power", bit >> int(curve.root))
    one, low = 1 << curve.mantissa, curve.within
    mantissa = Let("mantissa", ShiftBy(
        one, (4 if curve.root else 2) * one - 1, number << curve.mantissa, power.local << int(curve.root)
    ))  # fmt: skip
    m = mantissa.local
    piece = Let("piece", (m >> low) - (1 << curve.pieces))
    along = Let("along", within(m - ((m >> low) << low), 0, (1 << low) - 1))
    line = read(values, piece.local) << low, read(slopes, piece.local) * along.local
    ends = int(curve.values.min()) << low, int(curve.values.max()) << low
    y = Let("inverse", within(line[0] + line[1], *ends))
    return Inverse((power, mantissa, piece, along, y), y.local, power.local, (values, slopes))


def shifted(x: Expr, count: Expr) -> Expr:
    """To the right by `count`, rounding down."""
    if isinstance(count, Const):
        return x >> count.value
    return ShiftBy(min(x.low, x.low >> count.low), max(x.high, x.high >> count.low), x, count)


def halved(x: Expr, shift: int) -> Expr:
    """x / 2^shift, rounded: half is rounded up."""
    return (x + (1 << shift - 1)) >> shift if shift > 0 else x << -shift
