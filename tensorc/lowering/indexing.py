"""Graph operators as functions from an output index to an expression.

A fused group is computed without intermediate tensors: to know an element of its result, ask `Elements.at` for it,
and the rules below ask for the elements that it is made of, down to the group's inputs and to whatever the kernel
holds in registers. This is the whole meaning of elementwise, broadcasting and data-moving operators on a target.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tensorc.errors import UnsupportedError
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node, Value
from tensorc.ir.numbers import is_from_integers
from tensorc.ir.ops.trigonometry import TRIGONOMETRIC
from tensorc.ir.types import STORED, bits_of, integer_limits, is_float, is_integer
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.math import Math
from tensorc.lowering.math64 import Math64
from tensorc.lowering.tir import Expr, KernelBuilder, const
from tensorc.lowering.trigonometry import Trigonometry

Index = Sequence[Expr]
Source = Callable[[Index], Expr]
Rule = Callable[["Elements", Node, Index], Expr]

_RULES: dict[str, Rule] = {}


def lowered_ops() -> frozenset[str]:
    """The operators that have a rule here."""
    return frozenset(_RULES)


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(ops, function))
        return function

    return add


def ravel(index: Index, shape: Sequence[int]) -> Expr:
    """Row-major position of `index` in a dense tensor of `shape`."""
    flat: Expr = 0
    for i, extent in zip(index, shape, strict=True):
        flat = i if isinstance(flat, int) and flat == 0 else flat * extent + i
    return flat


def unravel(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    """The index whose row-major position is `flat`."""
    index: list[Expr] = []
    for axis in range(len(shape) - 1, -1, -1):
        extent = shape[axis]
        if extent == 1:
            index.append(0)
        elif all(s == 1 for s in shape[:axis]):
            index.append(flat)
            flat = 0
        else:
            index.append(tir.floor_mod(flat, extent))
            flat = tir.floor_div(flat, extent)
    return index[::-1]


def reshape_index(index: Index, shape: Sequence[int], source: Sequence[int]) -> list[Expr]:
    """The index in a tensor of shape `source` of the element that stands at `index` after a reshape to `shape`.

    The shapes are cut where their leading products meet, so that axes which a reshape keeps cost no arithmetic.
    """
    result: list[Expr] = []
    i = j = 0
    while i < len(shape) or j < len(source):
        ends_i, ends_j = min(i + 1, len(shape)), min(j + 1, len(source))
        left = shape[i] if i < len(shape) else 1
        right = source[j] if j < len(source) else 1
        while left != right:
            if left < right:
                left *= shape[ends_i]
                ends_i += 1
            else:
                right *= source[ends_j]
                ends_j += 1
        result += unravel(ravel(index[i:ends_i], shape[i:ends_i]), source[j:ends_j])
        i, j = ends_i, ends_j
    return result


class Elements:
    """Elements of a group's values, as expressions written into `builder`.

    `sources` gives the values that are not computed here: the group's inputs and what the kernel has computed. A
    value that several rules ask for at one index is computed once for each call of `evaluate`.
    """

    def __init__(self, builder: KernelBuilder, sources: Mapping[Value, Source]):
        self.builder = builder
        self.sources = dict(sources)
        self.math = Math(self._bind)
        self.math64 = Math64(self._bind)
        self._known: dict[tuple[int, ...], tuple[Expr, Any]] = {}

    def define(self, value: Value, element: Expr) -> None:
        """`value`'s element at the index that the kernel is about to store: what its own loops have computed."""
        self.sources[value] = lambda _: element

    def evaluate(self, value: Value, index: Index) -> Expr:
        """The element of `value` at `index`, where the builder stands now."""
        self._known = {}
        return self.at(value, index)

    def at(self, value: Value, index: Index) -> Expr:
        """As `evaluate`, from within a rule: what was computed for this element is shared."""
        if value.constant is not None and value.constant.splat is not None:
            return const(value.constant.splat, value.dtype)
        if value in self.sources:
            return self.sources[value](index)
        key = (id(value), *(i if isinstance(i, int) else id(i) for i in index))
        if key in self._known:
            return self._known[key][0]
        node = value.producer
        if node is None or node.op not in _RULES:
            raise UnsupportedError(f"{node.op if node else 'a constant'} is not lowered to expressions")
        result = _RULES[node.op](self, node, index)
        if len(value.users) > 1:
            result = self._bind(result)
        self._known[key] = (result, index)  # the index is kept alive: its ids are the key
        return result

    def broadcast(self, value: Value, index: Index) -> Expr:
        """An operand's element under numpy's broadcasting to the rank of `index`."""
        shape = value.shape
        tail = index[len(index) - len(shape) :]
        return self.at(value, [0 if extent == 1 else i for i, extent in zip(tail, shape, strict=True)])

    def function(self, name: str, *arguments: Expr) -> Expr:
        """A transcendental function by name: in float64 for float64, else in float32; of the arguments' type."""
        if tir.dtype_of(arguments[0]) == "float64":
            return self.math64.apply(name, *arguments)
        return self.math.in_float32(name, *arguments)

    def _bind(self, expression: Expr) -> Expr:
        return self.builder.keep(expression)


def buffer_source(builder: KernelBuilder, buffer: Any, value: Value) -> Source:
    """Reads `value` from a dense row-major buffer."""
    shape = static_shape(value.shape)

    def read(index: Index) -> Expr:
        element = builder.load(buffer, ravel(index, shape))
        return tir.compare("not_equal", element, const(0, "int8")) if value.dtype == "bool" else element

    return read


# Elementwise ----------------------------------------------------------------------------------------------


@rule("exp", "log", "tanh", "erf", "sigmoid", "sin", "cos")
def _transcendental(e: Elements, node: Node, index: Index) -> Expr:
    return e.function(node.op, e.at(node.inputs[0], index))


@rule(*TRIGONOMETRIC)
def _trigonometric(e: Elements, node: Node, index: Index) -> Expr:
    x = e.at(node.inputs[0], index)
    if node.output.dtype == "float64":
        return tir.library(node.op, x)
    result = getattr(Trigonometry(e.builder.keep), node.op)(tir.cast(x, "float32"))
    return tir.cast(result, node.output.dtype)


_INFIX: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "and": partial(tir.logical, "and"),
    "or": partial(tir.logical, "or"),
    "xor": partial(tir.compare, "not_equal"),
    "bit_and": partial(tir.bitwise, "and"),
    "bit_or": partial(tir.bitwise, "or"),
    "bit_xor": partial(tir.bitwise, "xor"),
}
#: Those whose results may be too large for an integer type, and wrap.
_WRAPPING = frozenset({"add", "sub", "mul"})


def _wrapped(e: Elements, op: str, a: Expr, b: Expr, dtype: str) -> Expr:
    """Integer arithmetic modulo the type's range. TVM tells LLVM that 32 bits or more do not overflow, which LLVM uses:
    in more bits they do not, and LLVM takes the wider arithmetic back. 64 bits go by halves."""
    if bits_of(dtype) < 64:
        wide = "uint64" if op == "mul" and dtype == "uint32" else "int64"
        return tir.cast(_INFIX[op](tir.cast(a, wide), tir.cast(b, wide)), dtype)
    keep = e.builder.keep
    a, b = (keep(tir.cast(keep(x), "uint64")) for x in (a, b))
    if op == "mul":
        (low_a, high_a), (low_b, high_b) = _halves(a), _halves(b)
        crossed = keep(_halves(low_a * high_b)[0] + _halves(high_a * low_b)[0])
        result = _added(e, keep(low_a * low_b), tir.shift_left(crossed, 32))
    elif op == "sub":
        result = _added(e, a, tir.bitwise_not(b), carry=1)
    else:
        result = _added(e, a, b)
    return tir.cast(result, dtype)


def _halves(x: Expr) -> tuple[Expr, Expr]:
    return tir.bitwise_and(x, (1 << 32) - 1), tir.shift_right(x, 32)


def _added(e: Elements, a: Expr, b: Expr, carry: int = 0) -> Expr:
    """a + b + carry of unsigned 64 bits, modulo 2^64."""
    (low_a, high_a), (low_b, high_b) = _halves(a), _halves(b)
    low = e.builder.keep(low_a + low_b + const(carry, "uint64"))
    high = e.builder.keep(high_a + high_b + tir.shift_right(low, 32))
    return e.builder.keep(tir.bitwise_or(tir.shift_left(high, 32), _halves(low)[0]))


def _operands(e: Elements, node: Node, index: Index) -> list[Expr]:
    """Through slots where TVM would make 0 of 0 * x, 0 / x or x - x, whatever x is."""
    hidden = is_float(node.output.dtype) and (
        len(set(node.inputs)) == 1 or any(v.constant is not None and not v.constant.splat for v in node.inputs)
    )
    elements = (e.broadcast(v, index) for v in node.inputs)
    return [e.builder.keep(element) if hidden else element for element in elements]


@rule(*_INFIX)
def _infix(e: Elements, node: Node, index: Index) -> Expr:
    a, b = _operands(e, node, index)
    if node.op in _WRAPPING and is_integer(node.output.dtype):
        return _wrapped(e, node.op, a, b, node.output.dtype)
    return _INFIX[node.op](a, b)


@rule("bit_not")
def _bit_not(e: Elements, node: Node, index: Index) -> Expr:
    return tir.bitwise_not(e.builder.keep(e.at(node.inputs[0], index)))


@rule("bit_shift")
def _bit_shift(e: Elements, node: Node, index: Index) -> Expr:
    dtype = node.output.dtype
    x, count = (e.builder.keep(e.broadcast(v, index)) for v in node.inputs)
    # Counts are kept inside the type, beyond which machines disagree; in 32 bits at least, as C has it.
    wide = dtype if bits_of(dtype) >= 32 else "int32"
    last = const(bits_of(dtype) - 1, dtype)
    inside = tir.compare("less_equal", count, last)
    if not dtype.startswith("uint"):
        inside = tir.logical("and", inside, tir.compare("greater_equal", count, const(0, dtype)))
    kept = e.builder.keep(tir.select(inside, count, const(0, dtype)))
    shifted = tir.shift(tir.cast(x, wide), tir.cast(kept, wide), bool(node.attrs["left"]))
    outside: Expr = const(0, dtype)
    if not dtype.startswith("uint") and not node.attrs["left"]:
        outside = tir.select(tir.compare("less", x, outside), const(-1, dtype), outside)
    return tir.select(inside, e.builder.keep(tir.cast(shifted, dtype)), outside)


@rule("max", "min")
def _extremum(e: Elements, node: Node, index: Index) -> Expr:
    """nan if either operand is, as numpy has it and TVM's own maximum has not."""
    a, b = (e.builder.keep(e.broadcast(v, index)) for v in node.inputs)
    beyond = tir.compare("less" if node.op == "max" else "greater", a, b)
    if is_float(node.output.dtype):
        beyond = tir.logical("or", beyond, tir.is_nan(b))
    return tir.select(beyond, b, a)


@rule("pow")
def _pow(e: Elements, node: Node, index: Index) -> Expr:
    x, exponent = node.inputs
    constant = exponent.constant
    if constant is not None and constant.splat is not None and is_float(x.dtype):
        written = _power_of(e, e.broadcast(x, index), float(constant.splat), node.output.dtype)
        if written is not None:
            return written
    a, b = (e.broadcast(v, index) for v in node.inputs)
    if not is_float(x.dtype):
        return _integer_power(e, a, b, node.output.dtype)
    return e.function("pow", a, b)


def _power_of(e: Elements, x: Expr, exponent: float, dtype: str) -> Expr | None:
    """A power with a small constant exponent as products, which are faster and exact to a few roundings."""
    one = const(1, dtype)
    if exponent == 0.5:
        return tir.intrinsic("sqrt", x)
    if exponent not in range(-4, 5):
        return None
    x = e.builder.keep(x)
    result = one
    for _ in range(abs(int(exponent))):
        result = x if result is one else result * x
    return one / result if exponent < 0 else result


def _integer_power(e: Elements, a: Expr, b: Expr, dtype: str) -> Expr:
    """By squaring, modulo the type's range as multiplication is. Negative exponents drop the fraction."""
    zero, one = const(0, dtype), const(1, dtype)
    power, b = e.builder.keep(a), e.builder.keep(b)
    # Beyond 63 only the bases -1, 0 and 1 do not overflow: the exponent's parity is all that matters.
    parity = tir.bitwise_and(b, 1)
    odd = tir.compare("not_equal", parity, zero)
    left = e.builder.keep(tir.select(tir.compare("greater", b, const(63, dtype)), parity + const(62, dtype), b))
    result: Expr = one
    for bit in range(6):
        taken = tir.compare("not_equal", tir.bitwise_and(left, 1 << bit), zero)
        result = e.builder.keep(_wrapped(e, "mul", result, tir.select(taken, power, one), dtype))
        power = e.builder.keep(_wrapped(e, "mul", power, power, dtype))
    if dtype.startswith("uint"):
        return result
    a = e.builder.keep(a)
    minus = const(-1, dtype)
    unit = tir.logical("or", tir.compare("equal", a, one), tir.compare("equal", a, minus))
    below = tir.select(unit, tir.select(odd, a, one), zero)
    return tir.select(tir.compare("less", b, zero), below, result)


def _divisor(e: Elements, a: Expr, b: Expr, dtype: str) -> tuple[Expr, Expr, Expr]:
    """Operands that a division instruction survives, and whether the divisor was zero.

    Zero and the smallest integer by -1 trap: the first is replaced by 1, the second by dividing -a by 1.
    """
    b = e.builder.keep(b)
    zero, one = const(0, dtype), const(1, dtype)
    nothing = tir.compare("equal", b, zero)
    safe = tir.select(nothing, one, b)
    if not dtype.startswith("uint"):
        negated = tir.compare("equal", b, const(-1, dtype))
        a = e.builder.keep(a)
        a, safe = tir.select(negated, _wrapped(e, "sub", zero, a, dtype), a), tir.select(negated, one, safe)
    return e.builder.keep(a), e.builder.keep(safe), nothing


@rule("div")
def _div(e: Elements, node: Node, index: Index) -> Expr:
    a, b = _operands(e, node, index)
    dtype = node.output.dtype
    if is_float(dtype):
        return a / b
    dividend, divisor, nothing = _divisor(e, a, b, dtype)
    return tir.select(nothing, const(0, dtype), tir.truncated_div(dividend, divisor))


@rule("mod")
def _mod(e: Elements, node: Node, index: Index) -> Expr:
    a, b = (e.builder.keep(e.broadcast(v, index)) for v in node.inputs)
    dtype, truncate = node.output.dtype, bool(node.attrs["fmod"])
    if is_float(dtype):
        return tir.cast(_float_mod(e, a, b, truncate), dtype)
    dividend, divisor, _ = _divisor(e, a, b, dtype)  # whatever is divided by 1 or -1 leaves nothing
    rest = e.builder.keep(tir.truncated_mod(dividend, divisor))
    if truncate or dtype.startswith("uint"):
        return rest
    zero = const(0, dtype)
    differs = tir.compare("not_equal", tir.compare("less", rest, zero), tir.compare("less", divisor, zero))
    corrected = tir.logical("and", tir.compare("not_equal", rest, zero), differs)
    return tir.select(corrected, rest + divisor, rest)


def _float_mod(e: Elements, a: Expr, b: Expr, truncate: bool) -> Expr:
    """In float64 by the C library, whose remainder is exact, however large the quotient."""
    a, b = (e.builder.keep(tir.cast(v, "float64")) for v in (a, b))
    rest = e.math64.apply("fmod", a, b)
    if truncate:
        return rest
    zero = const(0, "float64")
    differs = tir.compare("not_equal", tir.compare("less", rest, zero), tir.compare("less", b, zero))
    remains = tir.select(differs, e.builder.keep(rest + b), rest)
    # The sign of zero is the divisor's too.
    return tir.select(tir.compare("equal", rest, zero), e.math64.apply("copysign", zero, b), remains)


@rule("equal", "less", "less_equal", "greater", "greater_equal")
def _compare(e: Elements, node: Node, index: Index) -> Expr:
    # In slots, or TVM would prove that what is the same expression is equal to itself: nan is not.
    a, b = (e.builder.keep(e.broadcast(v, index)) for v in node.inputs)
    return tir.compare(node.op, a, b)


@rule("where")
def _where(e: Elements, node: Node, index: Index) -> Expr:
    condition, yes, no = (e.builder.keep(e.broadcast(v, index)) for v in node.inputs)
    return tir.select(condition, yes, no)


def _number(node: Node, value: float) -> Expr:
    return const(value, node.output.dtype)


def _at_least(node: Node, x: Expr, low: float) -> Expr:
    """Written so that nan stays nan, which the machine's maximum instruction does with its operands in this order."""
    return tir.select(tir.compare("less", x, _number(node, low)), _number(node, low), x)


def _bounded(node: Node, x: Expr, low: float, high: float) -> Expr:
    # Bounds that every number keeps are left out: TVM takes the least int64 for minus infinity, and what is bounded
    # above for less than that.
    dtype = node.output.dtype
    lowest, highest = integer_limits(dtype) if is_integer(dtype) else (-math.inf, math.inf)
    low = min(low, high)  # where they cross, everything is `high`
    value = _at_least(node, x, low) if low > lowest else x
    if high >= highest:
        return value
    return tir.select(tir.compare("greater", x, _number(node, high)), _number(node, high), value)


def _sign(node: Node, x: Expr) -> Expr:
    zero, one = _number(node, 0), _number(node, 1)
    below = x if node.output.dtype.startswith("uint") else tir.select(tir.compare("less", x, zero), zero - one, x)
    return tir.select(tir.compare("greater", x, zero), one, below)


def _neg(node: Node, x: Expr) -> Expr:
    dtype = node.output.dtype
    if is_float(dtype):
        return x * _number(node, -1)  # the sign of zero counts
    return tir.cast(const(0, "int64") - tir.cast(x, "int64"), dtype)  # in more bits, as `_wrapped`


def _leaky_relu(node: Node, x: Expr) -> Expr:
    return tir.select(tir.compare("less", x, _number(node, 0)), x * _number(node, node.attrs["alpha"]), x)


@rule("abs")
def _abs(e: Elements, node: Node, index: Index) -> Expr:
    x, dtype = e.at(node.inputs[0], index), node.output.dtype
    if is_float(dtype):
        return tir.intrinsic("abs", x)
    if dtype.startswith("uint"):
        return x
    x = e.builder.keep(x)
    return tir.select(tir.compare("less", x, const(0, dtype)), _wrapped(e, "sub", const(0, dtype), x, dtype), x)


_INTRINSICS = {"ceil": "ceil", "floor": "floor", "round": "nearbyint", "sqrt": "sqrt"}
_UNARY: dict[str, Callable[[Node, Expr], Expr]] = {
    "neg": _neg,
    "reciprocal": lambda n, x: _number(n, 1) / x,
    "rsqrt": lambda n, x: _number(n, 1) / tir.intrinsic("sqrt", x),
    "relu": lambda n, x: _at_least(n, x, 0),
    "hard_sigmoid": lambda n, x: _bounded(n, x * _number(n, n.attrs["alpha"]) + _number(n, n.attrs["beta"]), 0, 1),
    "hard_swish": lambda n, x: x * _bounded(n, x * _number(n, 1 / 6) + _number(n, 0.5), 0, 1),
    "leaky_relu": _leaky_relu,
    "sign": _sign,
}


@rule(*_UNARY)
def _unary(e: Elements, node: Node, index: Index) -> Expr:
    return _UNARY[node.op](node, e.builder.keep(e.at(node.inputs[0], index)))


@rule(*_INTRINSICS)
def _intrinsic(e: Elements, node: Node, index: Index) -> Expr:
    # Through a slot: TVM takes a vector of nearbyint apart into lanes, and loses what an index in it is bound to.
    return tir.intrinsic(_INTRINSICS[node.op], e.builder.keep(e.at(node.inputs[0], index)))


@rule("not")
def _not(e: Elements, node: Node, index: Index) -> Expr:
    # Through a slot, or TVM would turn the negation of x < y into y <= x: nan gives neither.
    return tir.compare("equal", e.builder.keep(tir.cast(e.at(node.inputs[0], index), "int8")), const(0, "int8"))


@rule("gelu", "silu", "elu", "softplus")
def _activation(e: Elements, node: Node, index: Index) -> Expr:
    dtype = node.output.dtype
    wide = "float64" if dtype == "float64" else "float32"
    x = e.builder.keep(tir.cast(e.at(node.inputs[0], index), wide))

    def f(value: float) -> Expr:
        return const(value, wide)

    if node.op == "silu":
        result = x * e.function("sigmoid", x)
    elif node.op == "elu":
        above = tir.compare("greater", x, f(0))
        below = f(node.attrs["alpha"]) * e.function("expm1", tir.select(above, f(0), x))
        result = tir.select(above, x, below)
    elif node.op == "softplus":  # log(1 + e^x) without overflow: max(x, 0) + log(1 + e^-|x|)
        small = e.function("log1p", e.function("exp", f(0) - tir.intrinsic("abs", x)))
        result = tir.maximum(x, f(0)) + small
    elif node.attrs["approximate"] == "tanh":
        inner = f(0.7978845608028654) * (x + f(0.044715) * x * x * x)
        result = f(0.5) * x * (f(1) + e.function("tanh", inner))
    else:
        result = f(0.5) * x * (f(1) + e.function("erf", x * f(0.7071067811865476)))
    return tir.cast(result, dtype)


#: Added to a float32 between -2**22 and 2**22 it leaves no bits for a fraction: the sum is rounded to even, and its
#: bits are these and the whole number.
_WHOLE = 1.5 * 2**23
_WHOLE_BITS = 0x4B400000


@rule("cast")
def _cast(e: Elements, node: Node, index: Index) -> Expr:
    clip = node.inputs[0].producer
    if clip is not None and clip.output not in e.sources and node.attrs["to"] == "int32" and _is_limited_round(clip):
        return tir.reinterpret(_whole(e, clip, index), "int32") - const(_WHOLE_BITS, "int32")
    return convert(e.builder.keep, e.at(node.inputs[0], index), node.inputs[0].dtype, node.attrs["to"])


@rule("clip")
def _clip(e: Elements, node: Node, index: Index) -> Expr:
    if _is_limited_round(node):
        return e.builder.keep(_whole(e, node, index)) - const(_WHOLE, "float32")
    x = e.builder.keep(e.at(node.inputs[0], index))
    return _bounded(node, x, node.attrs["min"], node.attrs["max"])


def _is_limited_round(clip: Node) -> bool:
    """Whether `clip` puts whole limits to round(x), and x is a number. That is what quantizing sums of products is: the
    limits come first, and rounding and both conversions are one addition."""
    rounding = clip.inputs[0].producer
    if clip.op != "clip" or rounding is None or rounding.op != "round" or clip.output.dtype != "float32":
        return False
    low, high = clip.attrs["min"], clip.attrs["max"]
    whole = -(2**22) < low <= high < 2**22 and low == int(low) and high == int(high)
    return whole and is_from_integers(rounding.inputs[0])


def _whole(e: Elements, clip: Node, index: Index) -> Expr:
    """A float32 whose bits are `_WHOLE_BITS` and the whole number that `clip` makes of a rounded one."""
    rounding = clip.inputs[0].producer
    assert rounding is not None
    low, high = const(clip.attrs["min"], "float32"), const(clip.attrs["max"], "float32")
    x = e.builder.keep(e.at(rounding.inputs[0], index))
    return tir.minimum(tir.maximum(x, low), high) + const(_WHOLE, "float32")


@rule("cast_float8")
def _cast_float8(e: Elements, node: Node, index: Index) -> Expr:
    x = node.inputs[0]
    saturate, round_mode = bool(node.attrs["saturate"]), node.attrs["round_mode"]
    return convert(e.builder.keep, e.at(x, index), x.dtype, node.attrs["to"], saturate, round_mode)


@rule("bitcast")
def _bitcast(e: Elements, node: Node, index: Index) -> Expr:
    x, target = e.at(node.inputs[0], index), node.attrs["to"]
    if node.inputs[0].dtype == "bool":
        x = tir.cast(x, "uint8")
    if target == "bool":
        return tir.compare("not_equal", e.builder.keep(tir.cast(x, "uint8")), const(0, "uint8"))
    held = STORED.get(target, target)
    return x if tir.dtype_of(x) == held else tir.reinterpret(x, held)


# Moving elements ------------------------------------------------------------------------------------------


@rule("reshape")
def _reshape(e: Elements, node: Node, index: Index) -> Expr:
    (x,) = node.inputs
    return e.at(x, reshape_index(index, static_shape(node.output.shape), static_shape(x.shape)))


@rule("transpose")
def _transpose(e: Elements, node: Node, index: Index) -> Expr:
    source: list[Expr] = [0] * len(index)
    for position, axis in enumerate(node.attrs["perm"]):
        source[axis] = index[position]
    return e.at(node.inputs[0], source)


@rule("slice")
def _slice(e: Elements, node: Node, index: Index) -> Expr:
    starts, steps = node.attrs["starts"], node.attrs["steps"]
    return e.at(node.inputs[0], [i * step + start for i, start, step in zip(index, starts, steps, strict=True)])


@rule("expand")
def _expand(e: Elements, node: Node, index: Index) -> Expr:
    return e.broadcast(node.inputs[0], index)


@rule("concat")
def _concat(e: Elements, node: Node, index: Index) -> Expr:
    axis = node.attrs["axis"]
    position = index[axis]
    result: Expr = None
    begin = 0
    for part in node.inputs:
        extent = static_shape(part.shape)[axis]
        # Both sides of a select are read: the position is kept inside the part whose turn it may not be.
        inside = _clamp(position - begin, extent)
        element = e.builder.keep(e.at(part, [*index[:axis], inside, *index[axis + 1 :]]))
        result = element if result is None else tir.select(position < begin, result, element)
        begin += extent
    return result


def _clamp(position: Expr, extent: int) -> Expr:
    return tir.minimum(tir.maximum(position, 0), extent - 1)


@rule("pad")
def _pad(e: Elements, node: Node, index: Index) -> Expr:
    (x,) = node.inputs
    mode = node.attrs["mode"]
    inside: Expr = None
    source: list[Expr] = []
    for i, before, after, whole in zip(
        index, node.attrs["before"], node.attrs["after"], static_shape(x.shape), strict=True
    ):
        cut = max(-before, 0)  # negative widths crop, and what is left is padded
        extent = whole - cut - max(-after, 0)
        position = i - before + cut if before > 0 else i
        if before <= 0 and after <= 0:
            source.append(position + cut)
            continue
        if mode == "reflect" and extent > 1:
            period = 2 * (extent - 1)
            position = e.builder.bind(tir.floor_mod(position, period))
            position = tir.minimum(position, period - position)
        elif mode == "wrap":
            position = tir.floor_mod(position, extent)
        elif mode == "constant":
            here = tir.logical("and", position >= 0, position < extent)
            inside = here if inside is None else tir.logical("and", inside, here)
        source.append(_clamp(position, extent) + cut)
    element = e.at(x, source)
    if inside is None:
        return element
    return tir.select(inside, e.builder.keep(element), const(node.attrs["value"], x.dtype))


@rule("range")
def _range(_: Elements, node: Node, index: Index) -> Expr:
    dtype = node.attrs["dtype"]
    wide = "float32" if dtype == "float16" else dtype
    start, step = const(node.attrs["start"], wide), const(node.attrs["step"], wide)
    return tir.cast(start + tir.cast(index[0], wide) * step, dtype)


def _row(e: Elements, position: Expr, extent: int) -> Expr:
    """An index that was data: negative ones count from the end; kept inside, whatever the data hold."""
    row = e.builder.bind(tir.cast(position, "int32"))
    return _clamp(tir.select(row < 0, row + extent, row), extent)


@rule("gather")
def _gather(e: Elements, node: Node, index: Index) -> Expr:
    x, indices = node.inputs
    axis, rank = node.attrs["axis"], len(indices.shape)
    position = _row(e, e.at(indices, index[axis : axis + rank]), static_shape(x.shape)[axis])
    return e.at(x, [*index[:axis], position, *index[axis + rank :]])


@rule("unfold")
def _unfold(e: Elements, node: Node, index: Index) -> Expr:
    axis = node.attrs["axis"]
    position = index[axis] * node.attrs["stride"] + index[axis + 1] * node.attrs["dilation"]
    return e.at(node.inputs[0], [*index[:axis], position, *index[axis + 2 :]])


@rule("gather_elements")
def _gather_elements(e: Elements, node: Node, index: Index) -> Expr:
    x, indices = node.inputs
    axis = node.attrs["axis"]
    position = _row(e, e.at(indices, index), static_shape(x.shape)[axis])
    return e.at(x, [*index[:axis], position, *index[axis + 1 :]])


@rule("gather_nd")
def _gather_nd(e: Elements, node: Node, index: Index) -> Expr:
    x, indices = node.inputs
    batch = node.attrs["batch_dims"]
    shape, depth = static_shape(x.shape), static_shape(indices.shape)[-1]
    outer = len(indices.shape) - 1
    rows = [
        _row(e, e.at(indices, [*index[:outer], d]), shape[batch + d])
        for d in range(depth)
    ]  # fmt: skip
    return e.at(x, [*index[:batch], *rows, *index[outer:]])


@rule("block")
def _block(e: Elements, node: Node, index: Index) -> Expr:
    (x,) = node.inputs
    block, groups = node.attrs["block"], node.attrs["groups"]
    channels = static_shape(x.shape)[1]
    each = channels // groups
    n, outer, *spatial, inner = index
    if each % block == 0:
        return e.at(x, [n, outer * block + inner, *spatial])
    per_group = -(-each // block)
    within = tir.floor_mod(outer, per_group) * block + inner
    channel = tir.floor_div(outer, per_group) * each + tir.minimum(within, each - 1)
    element = e.builder.keep(e.at(x, [n, channel, *spatial]))
    return tir.select(within < each, element, const(0, x.dtype))


@rule("unblock")
def _unblock(e: Elements, node: Node, index: Index) -> Expr:
    (x,) = node.inputs
    block = static_shape(x.shape)[-1]
    channels, groups = node.attrs["channels"], node.attrs["groups"]
    each = channels // groups
    n, channel, *spatial = index
    if each % block == 0:
        outer, inner = tir.floor_div(channel, block), tir.floor_mod(channel, block)
    else:
        within = tir.floor_mod(channel, each)
        outer = tir.floor_div(channel, each) * -(-each // block) + tir.floor_div(within, block)
        inner = tir.floor_mod(within, block)
    return e.at(x, [n, outer, *spatial, inner])


@rule("lrn")
def _lrn(e: Elements, node: Node, index: Index) -> Expr:
    (x,) = node.inputs
    channels, size = static_shape(x.shape)[1], node.attrs["size"]
    before = (size - 1) // 2
    dtype = "float64" if x.dtype == "float64" else "float32"
    squares: Expr = const(0, dtype)
    for offset in range(-before, size - before):
        channel = index[1] + offset
        element = e.builder.keep(tir.cast(e.at(x, [index[0], _clamp(channel, channels), *index[2:]]), dtype))
        inside = tir.logical("and", channel >= 0, channel < channels)
        squares = squares + tir.select(inside, element * element, const(0, dtype))
    base = const(node.attrs["bias"], dtype) + const(node.attrs["alpha"] / size, dtype) * squares
    factor = e.function("exp", const(-node.attrs["beta"], dtype) * e.function("log", base))
    return tir.cast(tir.cast(e.at(x, index), dtype) * factor, x.dtype)
