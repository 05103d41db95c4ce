"""Activations that exporters spell out: GELU in both forms, SiLU.

A product is read as a number times a bag of factors, so that every association of `x * 0.5 * (1 + erf(...))` is the
same to a rule. Only products that nobody else reads are opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from passes.rules.matching import private
from tensorc.ir.graph import Graph, Node, Value
from tensorc.ir.rewriter import Builder, Rule, producer, scalar
from tensorc.ir.types import is_float

_CUBIC = 0.044715


@dataclass(frozen=True)
class Product:
    """number * factors[0] * factors[1] * ..."""

    number: float
    factors: tuple[Value, ...]

    def is_of(self, number: float, *factors: Value) -> bool:
        """Whether this is that product; numbers in a model are rounded, to float16 perhaps."""
        same = sorted(map(id, self.factors)) == sorted(map(id, factors))
        return same and math.isclose(self.number, number, rel_tol=1e-3)


def product(value: Value, graph: Graph) -> Product:
    """`value` as a product, opened whoever reads it; its operands are opened where this product alone reads them."""
    node = producer(value, "mul")
    if node is None:
        return Product(1.0, (value,))
    number, factors = 1.0, list[Value]()
    for operand in node.inputs:
        known = scalar(operand)
        if known is not None:
            number *= known
            continue
        part = product(operand, graph) if private(operand, graph) else Product(1.0, (operand,))
        number *= part.number
        factors.extend(part.factors)
    return Product(number, tuple(factors))


def recognize_gelu(node: Node, build: Builder) -> Value | None:
    """0.5 * x * (1 + erf(x / sqrt 2)), or the same with tanh(sqrt(2/pi) * (x + 0.044715 x^3)) -> gelu."""
    whole = product(node.output, build.graph)
    if len(whole.factors) != 2 or not is_float(node.output.dtype):
        return None
    for x, gate in (whole.factors, whole.factors[::-1]):
        opened = _one_plus(gate, build.graph)
        if opened is None or x.type != node.output.type:
            continue
        number, curve = opened
        if math.isclose(whole.number * number, 0.5, rel_tol=1e-3):
            form = _form(curve, x, build.graph)
            return build("gelu", x, approximate=form) if form is not None else None
    return None


def _one_plus(value: Value, graph: Graph) -> tuple[float, Value] | None:
    """(c, f) when `value` is c * (1 + f) in the shape c * f + c."""
    add = producer(value, "add")
    constant = scalar(add.inputs[1]) if add is not None else None
    if add is None or constant is None or not (private(value, graph) and private(add.inputs[0], graph)):
        return None
    summand = product(add.inputs[0], graph)
    if len(summand.factors) != 1 or not summand.is_of(constant, *summand.factors):
        return None
    return constant, summand.factors[0]


def _form(curve: Value, x: Value, graph: Graph) -> str | None:
    """Which of gelu's two curves over `x` this is."""
    node = producer(curve, "erf", "tanh")
    if node is None or not private(curve, graph) or not private(node.inputs[0], graph):
        return None
    argument = product(node.inputs[0], graph)
    if node.op == "erf":
        return "none" if argument.is_of(math.sqrt(0.5), x) else None
    for factor in argument.factors:
        cubic = argument.is_of(math.sqrt(2 / math.pi), factor) and _is_sum(factor, x, (x, x, x), graph)
        cubic |= argument.is_of(math.sqrt(2 / math.pi), x, factor) and _is_sum(factor, None, (x, x), graph)
        if cubic:
            return "tanh"
    return None


def _is_sum(value: Value, first: Value | None, powers: tuple[Value, ...], graph: Graph) -> bool:
    """Whether `value` is first + 0.044715 * powers, for one reader; None stands for the number 1."""
    add = producer(value, "add")
    if add is None or not private(value, graph):
        return False
    for one, other in (add.inputs, add.inputs[::-1]):
        matches = scalar(one) == 1 if first is None else one is first
        if matches and private(other, graph) and product(other, graph).is_of(_CUBIC, *powers):
            return True
    return False


def recognize_silu(node: Node, build: Builder) -> Value | None:
    """x * sigmoid(x) -> silu(x)."""
    for x, gate in (node.inputs, node.inputs[::-1]):
        sigmoid = producer(gate, "sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x and private(gate, build.graph):
            return build("silu", x)
    return None


RULES: dict[str, list[Rule]] = {"mul": [recognize_gelu, recognize_silu]}
