"""Elementwise algebra: neutral operands vanish, constants gather on the right and merge, roots and bounds get names."""

from __future__ import annotations

import math

import numpy as np

from passes.rules.matching import combine, negated, private, reciprocal, repeats, uniform
from tensorc.ir.graph import Node, Value
from tensorc.ir.rewriter import Builder, Rule, producer, scalar
from tensorc.ir.types import is_float

#: op -> the right operand that leaves the left one as it is.
NEUTRAL = {
    "add": 0, "sub": 0, "mul": 1, "div": 1, "pow": 1, "max": -math.inf, "min": math.inf, "and": 1, "or": 0,
}  # fmt: skip
ASSOCIATIVE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}

#: Element type -> those whose every value it holds exactly.
_EXACT = {
    "float64": {"float32", "float16", "bfloat16", "int32", "uint32", "int16", "uint16", "int8", "uint8", "bool"},
    "float32": {"float16", "bfloat16", "int16", "uint16", "int8", "uint8", "bool"},
    "float16": {"int8", "uint8", "bool"},
    "bfloat16": {"int8", "uint8", "bool"},
    "int64": {"int32", "uint32", "int16", "uint16", "int8", "uint8", "bool"},
    "int32": {"int16", "uint16", "int8", "uint8", "bool"},
    "int16": {"int8", "uint8", "bool"},
}


def constant_to_the_right(node: Node, build: Builder) -> Value | None:
    left, right = node.inputs
    if left.constant is None or right.constant is not None:
        return None
    return build(node.op, right, left)


def drop_neutral_operand(node: Node, _: Builder) -> Value | None:
    x, constant = node.inputs
    if x.type != node.output.type or not repeats(constant, NEUTRAL[node.op]):
        return None
    return x


def multiply_by_reciprocal(node: Node, build: Builder) -> Value | None:
    """x / c -> x * (1/c). Not where the quotient is rounded to a whole number, which a last place decides on."""
    x, divisor = node.inputs
    if any(user.op == "round" for user in node.output.users):
        return None
    inverse = reciprocal(divisor.constant) if divisor.constant is not None else None
    if inverse is None or x.constant is not None:
        return None
    return build("mul", x, build.constant(inverse))


def add_the_negative(node: Node, build: Builder) -> Value | None:
    """x - c -> x + -c."""
    x, constant = node.inputs
    negative = negated(constant.constant) if constant.constant is not None else None
    if negative is None or x.constant is not None:
        return None
    return build("add", x, build.constant(negative))


def merge_constants(node: Node, build: Builder) -> Value | None:
    """(x op a) op b -> x op (a op b)."""
    inner, outer = producer(node.inputs[0], node.op), node.inputs[1].constant
    if inner is None or outer is None or not private(inner.output, build.graph):
        return None
    x, first = inner.inputs
    if first.constant is None or x.constant is not None:
        return None
    merged = combine(ASSOCIATIVE[node.op], first.constant, outer)
    return build(node.op, x, build.constant(merged)) if merged is not None else None


def merge_signs(node: Node, build: Builder) -> Value | None:
    """x + -y -> x - y, either way round; x - -y -> x + y."""
    orders = (node.inputs, node.inputs[::-1]) if node.op == "add" else (node.inputs,)
    for x, right in orders:
        negation = producer(right, "neg")
        if negation is not None and private(right, build.graph):
            return build("sub" if node.op == "add" else "add", x, negation.inputs[0])
    return None


def drop_double(node: Node, _: Builder) -> Value | None:
    """neg(neg(x)) -> x, and so for every operator that undoes itself."""
    inner = producer(node.inputs[0], node.op)
    return inner.inputs[0] if inner is not None else None


def merge_casts(node: Node, build: Builder) -> Value | None:
    """A cast to the type at hand goes; so does one to a wider type that another cast follows."""
    x = node.inputs[0]
    if x.dtype == node.attrs["to"]:
        return x
    inner = producer(x, "cast")
    if inner is None or inner.inputs[0].dtype not in _EXACT.get(x.dtype, ()):
        return None
    return build("cast", inner.inputs[0], to=node.attrs["to"])


def expand_power(node: Node, build: Builder) -> Value | None:
    """x ** c for the few c that are a product or a root."""
    x, power = node.inputs
    exponent = scalar(power)
    if exponent is None or x.type != node.output.type or x.constant is not None:
        return None
    if exponent == 2:
        return build("mul", x, x)
    if exponent == 3:
        return build("mul", build("mul", x, x), x)
    if not is_float(x.dtype):
        return None
    named = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}.get(exponent)
    return build(named, x) if named else None


def name_reciprocal(node: Node, build: Builder) -> Value | None:
    """1 / x -> reciprocal(x)."""
    one, x = node.inputs
    if not is_float(x.dtype) or x.type != node.output.type or x.constant is not None or not repeats(one, 1):
        return None
    return build("reciprocal", x)


def name_reciprocal_root(node: Node, build: Builder) -> Value | None:
    """reciprocal(sqrt(x)) -> rsqrt(x)."""
    root = producer(node.inputs[0], "sqrt")
    if root is None or not is_float(root.output.dtype) or not private(root.output, build.graph):
        return None
    return build("rsqrt", root.inputs[0])


def multiply_by_reciprocal_root(node: Node, build: Builder) -> Value | None:
    """y / sqrt(x) -> y * rsqrt(x)."""
    y, divisor = node.inputs
    root = producer(divisor, "sqrt")
    if root is None or not is_float(root.output.dtype) or not private(root.output, build.graph):
        return None
    return build("mul", y, build("rsqrt", root.inputs[0]))


def _bounds(node: Node) -> tuple[float, float] | None:
    """(low, high) when `node` does nothing but bound its first input."""
    if node.op == "relu":
        return 0.0, math.inf
    if node.op == "clip":
        return node.attrs["min"], node.attrs["max"]
    bound = scalar(node.inputs[1]) if node.op in ("max", "min") else None
    if bound is None or math.isnan(bound) or node.inputs[0].type != node.output.type:
        return None
    return (bound, math.inf) if node.op == "max" else (-math.inf, bound)


def name_bounds(node: Node, build: Builder) -> Value | None:
    """A bound that bounds nothing goes; one at zero from below is relu."""
    bounds, x = _bounds(node), node.inputs[0]
    if bounds is None or not is_float(x.dtype):
        return None
    low, high = bounds
    if high != math.inf:
        return None
    if low == -math.inf:
        return x
    return build("relu", x) if low == 0 else None


def merge_bounds(node: Node, build: Builder) -> Value | None:
    """Bounds on bounds -> one clip."""
    inner = producer(node.inputs[0], "relu", "clip", "max", "min")
    if inner is None or not is_float(node.output.dtype) or not private(inner.output, build.graph):
        return None
    outside, inside = _bounds(node), _bounds(inner)
    if outside is None or inside is None or outside[0] > outside[1] or inside[0] > inside[1]:
        return None
    low, high = (min(max(bound, outside[0]), outside[1]) for bound in inside)
    return build("clip", inner.inputs[0], min=low, max=high)


def choose_known_branch(node: Node, build: Builder) -> Value | None:
    """where(constant, a, b) -> the branch that is always taken."""
    condition, first, second = node.inputs
    if first is second and first.type == node.output.type:
        return first
    known = uniform(condition)
    if known is None:
        return None
    taken = first if known else second
    return taken if taken.type == node.output.type else build("expand", taken, shape=node.output.shape)


def drop_inverted_condition(node: Node, build: Builder) -> Value | None:
    """where(not c, a, b) -> where(c, b, a)."""
    condition, first, second = node.inputs
    inner = producer(condition, "not")
    return build("where", inner.inputs[0], second, first) if inner is not None else None


RULES: dict[str, list[Rule]] = {
    "add": [constant_to_the_right, drop_neutral_operand, merge_signs, merge_constants],
    "sub": [drop_neutral_operand, merge_signs, add_the_negative],
    "mul": [constant_to_the_right, drop_neutral_operand, merge_constants],
    "div": [drop_neutral_operand, multiply_by_reciprocal_root, multiply_by_reciprocal, name_reciprocal],
    "pow": [drop_neutral_operand, expand_power],
    "max": [constant_to_the_right, drop_neutral_operand, merge_constants, name_bounds, merge_bounds],
    "min": [constant_to_the_right, drop_neutral_operand, merge_constants, name_bounds, merge_bounds],
    "and": [constant_to_the_right, drop_neutral_operand],
    "or": [constant_to_the_right, drop_neutral_operand],
    "xor": [constant_to_the_right],
    "equal": [constant_to_the_right],
    "neg": [drop_double],
    "not": [drop_double],
    "cast": [merge_casts],
    "reciprocal": [name_reciprocal_root],
    "clip": [name_bounds, merge_bounds],
    "relu": [merge_bounds],
    "where": [choose_known_branch, drop_inverted_condition],
}
