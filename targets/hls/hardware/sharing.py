"""Which products of a process are made by one multiplier.

The nests of a process never overlap, so it needs as many multipliers as its most demanding nest, not as all together:
multiplier k makes the k-th product of each nest, the widest first. Products that are too small for a DSP block are
not shared: what would choose their operands costs as much as they do.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

from targets.hls.expressions import Binary, Const
from targets.hls.hardware.datapath import Op
from targets.hls.hardware.pipeline import Design, Place, designed
from targets.hls.hardware.resources import Family, dsp_of_product
from targets.hls.program import Process


@dataclass(frozen=True)
class Operand:
    """What enters a multiplier at one side, or leaves it."""

    bits: int
    signed: bool

    def __or__(self, other: Operand) -> Operand:
        """Wide enough for both."""
        signed = self.signed or other.signed
        return Operand(max(one.bits + (signed and not one.signed) for one in (self, other)), signed)


@dataclass(frozen=True, eq=False)
class Multiplier:
    """`users`: the products that it makes, at most one of each nest; the first operand of each enters at `a`."""

    a: Operand
    b: Operand
    result: Operand
    users: tuple[tuple[Place, Op], ...]

    def dsp(self, family: Family) -> int:
        a, b = self.a, self.b
        return dsp_of_product(a.bits, a.signed, b.bits, b.signed, family, self.result.bits)


def wider_first(product: Op) -> tuple[Op, Op]:
    a, b = product.args
    return (a, b) if a.bits >= b.bits else (b, a)


def shared_multipliers(design: Design) -> tuple[Multiplier, ...]:
    """Those that several nests use, the widest first."""
    return tuple(multiplier for multiplier in _multipliers(design) if len(multiplier.users) > 1)


def multipliers_needed(process: Process) -> int:
    """The most products, small ones too, of any nest; 0 where no two nests have any."""
    if sum(_multiplies(nest.body) for nest in process.nests()) < 2:
        return 0
    counts = [sum(op.kind == "mul" for op in place.pipeline.path.ops) for place in designed(process).places]
    return max(counts) if sum(count > 0 for count in counts) > 1 else 0


def _multiplies(parts: object) -> bool:
    """Whether statements or expressions have a product of what is not known."""
    if isinstance(parts, Binary) and parts.op == "mul" and not isinstance(parts.a, Const):
        return not isinstance(parts.b, Const) or _multiplies(parts.a)
    if isinstance(parts, tuple):
        return any(map(_multiplies, parts))
    return is_dataclass(parts) and any(_multiplies(getattr(parts, field.name)) for field in fields(parts))


def _multipliers(design: Design) -> Iterator[Multiplier]:
    waiting = [_products(place) for place in design.places]
    while any(waiting):
        users = tuple(products.pop(0) for products in waiting if products)
        columns = zip(*([*_operands(op), Operand(op.bits, op.signed)] for _, op in users), strict=True)
        a, b, result = (functools.reduce(operator.or_, column) for column in columns)
        yield Multiplier(a, b, result, users)


def _products(place: Place) -> list[tuple[Place, Op]]:
    """Of a nest, in the order in which multipliers take them."""
    found = [op for op in place.pipeline.path.ops if op.kind == "mul" and _is_for_a_block(op)]
    return [(place, op) for op in sorted(found, key=lambda op: [-operand.bits for operand in _operands(op)])]


def _operands(product: Op) -> tuple[Operand, Operand]:
    a, b = wider_first(product)
    return Operand(a.bits, a.signed), Operand(b.bits, b.signed)


def _is_for_a_block(product: Op) -> bool:
    a, b = _operands(product)
    return dsp_of_product(a.bits, a.signed, b.bits, b.signed, result=product.bits) > 0
