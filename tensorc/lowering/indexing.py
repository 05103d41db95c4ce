"""Graph operators as functions from an output index to an expression.

A fused group is computed without intermediate tensors: to know an element of its result, ask `Elements.at` for it,
and the rules below ask for the elements that it is made of, down to the group's inputs and to whatever the kernel
holds in registers. This is the whole meaning of elementwise, broadcasting and data-moving operators on a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensorc.errors import UnsupportedError
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node, Value
from tensorc.ir.types import is_float
from tensorc.lowering import tir
from tensorc.lowering.math import Math
from tensorc.lowering.tir import Expr, KernelBuilder, const

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
            index.append(flat % extent if isinstance(flat, int) else tir.floor_mod(flat, extent))
            flat = flat // extent if isinstance(flat, int) else tir.floor_div(flat, extent)
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

    def _bind(self, expression: Expr) -> Expr:
        return self.builder.keep(expression)


def buffer_source(builder: KernelBuilder, buffer: Any, value: Value) -> Source:
    """Reads `value` from a dense row-major buffer."""
    shape = static_shape(value.shape)

    def read(index: Index) -> Expr:
        element = builder.load(buffer, ravel(index, shape))
        return element != 0 if value.dtype == "bool" else element

    return read


# Elementwise ----------------------------------------------------------------------------------------------


def _needs_float32(node: Node) -> None:
    if node.inputs[0].dtype == "float64":
        raise UnsupportedError(f"{node.op} of float64 is not lowered; cast to float32")


@rule("exp", "log", "tanh", "erf", "sigmoid", "sin", "cos")
def _transcendental(e: Elements, node: Node, index: Index) -> Expr:
    _needs_float32(node)
    return e.math.in_float32(node.op, e.at(node.inputs[0], index))


@rule("pow")
def _pow(e: Elements, node: Node, index: Index) -> Expr:
    _needs_float32(node)
    a, b = (e.broadcast(v, index) for v in node.inputs)
    return e.math.in_float32("pow", a, b)


_INFIX: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": tir.maximum,
    "min": tir.minimum,
    "and": lambda a, b: tir.logical("and", a, b),
    "or": lambda a, b: tir.logical("or", a, b),
    "xor": lambda a, b: tir.cast(a, "int8") != tir.cast(b, "int8"),
}


@rule(*_INFIX)
def _infix(e: Elements, node: Node, index: Index) -> Expr:
    a, b = (e.broadcast(v, index) for v in node.inputs)
    return _INFIX[node.op](a, b)


@rule("div")
def _div(e: Elements, node: Node, index: Index) -> Expr:
    a, b = (e.broadcast(v, index) for v in node.inputs)
    if is_float(node.output.dtype):
        return a / b
    one = const(1, node.output.dtype)
    return tir.truncated_div(a, tir.select(tir.compare("equal", b, const(0, node.output.dtype)), one, b))


@rule("mod")
def _mod(e: Elements, node: Node, index: Index) -> Expr:
    a, b = (e.broadcast(v, index) for v in node.inputs)
    if is_float(node.output.dtype):
        quotient = a / b
        return a - tir.intrinsic("trunc" if node.attrs["fmod"] else "floor", quotient) * b
    return tir.truncated_mod(a, b) if node.attrs["fmod"] else tir.floor_mod(a, b)


@rule("equal", "less", "less_equal", "greater", "greater_equal")
def _compare(e: Elements, node: Node, index: Index) -> Expr:
    a, b = (e.broadcast(v, index) for v in node.inputs)
    return tir.compare(node.op, a, b)


@rule("where")
def _where(e: Elements, node: Node, index: Index) -> Expr:
    condition, yes, no = (e.broadcast(v, index) for v in node.inputs)
    return tir.select(condition, yes, no)


def _number(node: Node, value: float) -> Expr:
    return const(value, node.output.dtype)


def _bounded(node: Node, x: Expr, low: float, high: float) -> Expr:
    return tir.minimum(tir.maximum(x, _number(node, low)), _number(node, high))


def _sign(node: Node, x: Expr) -> Expr:
    zero = _number(node, 0)
    below = tir.select(tir.compare("less", x, zero), _number(node, -1), zero)
    return tir.select(tir.compare("greater", x, zero), _number(node, 1), below)


def _leaky_relu(node: Node, x: Expr) -> Expr:
    return tir.select(tir.compare("less", x, _number(node, 0)), x * _number(node, node.attrs["alpha"]), x)


_INTRINSICS = {"abs": "abs", "ceil": "ceil", "floor": "floor", "round": "nearbyint", "sqrt": "sqrt"}
_UNARY: dict[str, Callable[[Node, Expr], Expr]] = {
    "neg": lambda n, x: _number(n, 0) - x,
    "reciprocal": lambda n, x: _number(n, 1) / x,
    "rsqrt": lambda n, x: _number(n, 1) / tir.intrinsic("sqrt", x),
    "relu": lambda n, x: tir.maximum(x, _number(n, 0)),
    "clip": lambda n, x: _bounded(n, x, n.attrs["min"], n.attrs["max"]),
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
    return tir.intrinsic(_INTRINSICS[node.op], e.at(node.inputs[0], index))


@rule("not")
def _not(e: Elements, node: Node, index: Index) -> Expr:
    return tir.logical("not", e.at(node.inputs[0], index))


@rule("gelu", "silu", "elu", "softplus")
def _activation(e: Elements, node: Node, index: Index) -> Expr:
    _needs_float32(node)
    dtype = node.output.dtype
    x = e.builder.keep(tir.cast(e.at(node.inputs[0], index), "float32"))

    def f(value: float) -> Expr:
        return const(value, "float32")

    if node.op == "silu":
        result = x * e.math.sigmoid(x)
    elif node.op == "elu":
        below = f(node.attrs["alpha"]) * (e.math.exp(tir.minimum(x, f(0))) - f(1))
        result = tir.select(tir.compare("greater", x, f(0)), x, below)
    elif node.op == "softplus":  # log(1 + e^x) without overflow: max(x, 0) + log(1 + e^-|x|)
        result = tir.maximum(x, f(0)) + e.math.log(f(1) + e.math.exp(f(0) - tir.intrinsic("abs", x)))
    elif node.attrs["approximate"] == "tanh":
        inner = f(0.7978845608028654) * (x + f(0.044715) * x * x * x)
        result = f(0.5) * x * (f(1) + e.math.tanh(inner))
    else:
        result = f(0.5) * x * (f(1) + e.math.erf(x * f(0.7071067811865476)))
    return tir.cast(result, dtype)


@rule("cast")
def _cast(e: Elements, node: Node, index: Index) -> Expr:
    x = e.at(node.inputs[0], index)
    if node.attrs["to"] == "bool":
        return x != const(0, node.inputs[0].dtype)
    return tir.cast(x, node.attrs["to"])


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
        element = e.at(part, [*index[:axis], inside, *index[axis + 1 :]])
        result = element if result is None else tir.select(position < begin, result, element)
        begin += extent
    return result


def _clamp(position: Expr, extent: int) -> Expr:
    if isinstance(position, int):
        return min(max(position, 0), extent - 1)
    return tir.minimum(tir.maximum(position, 0), extent - 1)


@rule("pad")
def _pad(e: Elements, node: Node, index: Index) -> Expr:
    (x,) = node.inputs
    mode = node.attrs["mode"]
    inside: Expr = None
    source: list[Expr] = []
    for i, before, after, extent in zip(
        index, node.attrs["before"], node.attrs["after"], static_shape(x.shape), strict=True
    ):
        position = i - before if before else i
        if not before and after <= 0:
            source.append(position)
            continue
        if mode == "reflect":
            position = tir.intrinsic("abs", position)
            position = (extent - 1) - tir.intrinsic("abs", position - (extent - 1))
        elif mode == "wrap":
            position = tir.floor_mod(position + extent, extent)
        elif mode == "constant":
            here = tir.logical("and", position >= 0, position < extent)
            inside = here if inside is None else tir.logical("and", inside, here)
        source.append(_clamp(position, extent))
    element = e.at(x, source)
    if inside is None:
        return element
    return tir.select(inside, element, const(node.attrs["value"], x.dtype))


@rule("range")
def _range(_: Elements, node: Node, index: Index) -> Expr:
    dtype = node.attrs["dtype"]
    return const(node.attrs["start"], dtype) + tir.cast(index[0], dtype) * const(node.attrs["step"], dtype)


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
    element = e.at(x, [n, channel, *spatial])
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
    _needs_float32(node)
    (x,) = node.inputs
    channels, size = static_shape(x.shape)[1], node.attrs["size"]
    before = (size - 1) // 2
    squares: Expr = const(0, "float32")
    for offset in range(-before, size - before):
        channel = index[1] + offset
        element = e.builder.keep(e.at(x, [index[0], _clamp(channel, channels), *index[2:]]))
        inside = tir.logical("and", channel >= 0, channel < channels)
        squares = squares + tir.select(inside, element * element, const(0, "float32"))
    base = const(node.attrs["bias"], "float32") + const(node.attrs["alpha"] / size, "float32") * squares
    factor = e.math.exp(const(-node.attrs["beta"], "float32") * e.math.log(base))
    return e.at(x, index) * factor
