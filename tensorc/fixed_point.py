"""Which grid a fixed-point tensor's numbers lie on, told of every value of a graph by interval arithmetic.

Hardware gets its widths from here, and the interpreter its licence: while raw integers have at most 53 bits, it
computes in float64 what integer hardware does, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tensorc.errors import IRError, UnsupportedError
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Graph, Node, Value
from tensorc.ir.ops.curves import MOST_INTEGER_BITS, weight_bits
from tensorc.ir.ops.fixed import MOST_BITS, fixed_limits
from tensorc.ir.ops.fixed_rows import norm_limit, norm_root, softmax_reciprocal
from tensorc.ir.ops.lmul import MANTISSA, greatest

#: A constant with more bits behind the point is taken for a real number.
_MOST_FRACTION = 60
#: Bits at the upper end that are tried to be left out for weights.
_CUT_OFF = 3


def bits_for(low: int, high: int) -> int:
    """Bits of the narrowest integer that holds all of low..high: with a sign if low < 0. At least 1."""
    if low >= 0:
        return max(high.bit_length(), 1)
    return max((-low - 1).bit_length(), high.bit_length()) + 1


class Between:
    """Whole numbers from `low` to `high`, both included, and what an integer must be that holds them."""

    low: int
    high: int

    @property
    def bits(self) -> int:
        """At least 1."""
        return bits_for(self.low, self.high)

    @property
    def signed(self) -> bool:
        return self.low < 0


@dataclass(frozen=True)
class Grid(Between):
    """Numbers raw / (2^fraction * divisor) with whole `raw` from `low` to `high`.

    Only means have a divisor; they are rounded before anything else is done with them.
    """

    fraction: int
    low: int
    high: int
    divisor: int = 1

    def at(self, fraction: int) -> Grid:
        """The same numbers on a finer grid."""
        by = fraction - self.fraction
        return Grid(fraction, self.low << by, self.high << by, self.divisor)

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        """The integers that stand for `numbers` on this grid, int64."""
        return np.asarray(np.rint(numbers * 2.0**self.fraction).astype(np.int64))

    @classmethod
    def of(cls, numbers: np.ndarray) -> Grid | None:
        """The coarsest that holds all of them; None where they are real numbers."""
        numbers = np.asarray(numbers, np.float64).reshape(-1)
        if not np.isfinite(numbers).all():
            return None
        mantissas, exponents = np.frexp(numbers[numbers != 0])
        if not mantissas.size:
            return cls(0, 0, 0)
        whole = (np.abs(mantissas) * 2.0**53).astype(np.int64)
        trailing = np.log2((whole & -whole).astype(np.float64)).astype(int)
        fraction = int((53 - trailing - exponents).max())
        if fraction > _MOST_FRACTION:
            return None
        scaled = numbers * 2.0**fraction
        return cls(fraction, int(scaled.min()), int(scaled.max()))

    @classmethod
    def fit(cls, low: float, high: float, bits: int, signed: bool | None = None) -> Grid:
        """The finest of `bits` bits that reaches from `low` to `high`; with a sign if low < 0 or `signed` says so."""
        signed = low < 0 if signed is None else signed
        least, most = fixed_limits(bits, signed)
        # What is one step too high is rounded to the highest, an error no greater than two roundings.
        needed = max(high / (most + 1), low / least if least else 0.0)
        fraction = 0 if needed <= 0 else min(-math.ceil(math.log2(needed) - 1e-9), _MOST_FRACTION)
        return cls(fraction, least, most)

    @classmethod
    def closest(cls, numbers: np.ndarray, bits: int) -> Grid:
        """Of the grids of signed integers of so many bits the one that `numbers` are nearest to, in squares: numbers
        far out may cost less when they are cut off than the others gain. With two bits -1, 0 and 1: what is multiplied
        by these is added, or not."""
        low, high = (-1, 1) if bits == 2 else fixed_limits(bits, 1)
        finest = cls.fit(float(numbers.min(initial=0)), float(numbers.max(initial=0)), bits, signed=True).fraction
        candidates = [cls(fraction, low, high) for fraction in range(finest, finest + _CUT_OFF + 1)]
        return min(candidates, key=lambda grid: float(np.square(grid.rounded(numbers) - numbers).sum()))

    def rounded(self, numbers: np.ndarray) -> np.ndarray:
        """The nearest on the grid, half of a step rounded up."""
        raw = np.clip(np.floor(np.asarray(numbers, np.float64) * 2.0**self.fraction + 0.5), self.low, self.high)
        return np.asarray(raw * 2.0**-self.fraction)


def grids(graph: Graph, given: Mapping[Value, Grid] | None = None) -> dict[Value, Grid]:
    """The grid of every value that is on one, given those of the graph's inputs. What `fix` and `receive` give always
    is. Raises UnsupportedError where sums are too long to be exact in float64."""
    found: dict[Value, Grid] = dict(given or {})
    for value in graph.constants():
        if value.dtype == "float64" and (grid := _of_constant(value)) is not None:
            found[value] = grid
    for node in graph.nodes:
        if node.body is not None:
            inner = dict(zip(node.body.inputs, node.inputs, strict=True))
            known = grids(node.body, {value: found[outer] for value, outer in inner.items() if outer in found})
            found.update((o, known[b]) for o, b in zip(node.outputs, node.body.outputs, strict=True) if b in known)
        elif (grid := grid_of(node, found)) is not None:
            found[node.output] = grid
    return found


def grid_of(node: Node, known: Mapping[Value, Grid]) -> Grid | None:
    """Of a node's result; None where it is not on a grid."""
    if node.op in ("fix", "receive"):
        return _fixed(node, known.get(node.inputs[0]))
    if node.op == "lookup":
        return known.get(node.inputs[1])
    if node.op == "interpolate":
        return known[node.inputs[1]].at(known[node.inputs[1]].fraction + node.attrs["step"])
    rule = _RULES.get(node.op)
    # Behind the first come indices, too.
    numbers = [value for n, value in enumerate(node.inputs) if value.dtype == "float64" or not n]
    if rule is None or any(value not in known for value in numbers):
        return None
    operands = [known[value] for value in numbers]
    if any(grid.divisor != 1 for grid in operands):
        return None
    grid = rule(node, operands)
    if grid is not None and grid.bits > MOST_BITS:
        raise UnsupportedError(f"%{node.output.name}: {node.op} of fixed-point numbers makes {grid.bits} bits, more "
                               f"than the {MOST_BITS} that are exact: fewer bits, or a rounding between")  # fmt: skip
    return grid


def _of_constant(value: Value) -> Grid | None:
    assert value.constant is not None
    splat = value.constant.splat
    return Grid.of(np.asarray(splat)) if splat is not None else Grid.of(value.constant.numpy())


def _fixed(node: Node, x: Grid | None) -> Grid:
    attrs = node.attrs
    low, high = fixed_limits(attrs["width"], attrs["signed"])
    if x is None:
        return Grid(attrs["fraction"], low, high)
    ends = [_rounded(raw, x, attrs["fraction"]) for raw in (x.low, x.high)]
    return Grid(attrs["fraction"], *(min(max(end, low), high) for end in ends))


def _rounded(raw: int, grid: Grid, fraction: int) -> int:
    """floor(raw / (2^f d) * 2^fraction + 1/2), in integers."""
    up = max(fraction - grid.fraction, 0)
    below = (1 << max(grid.fraction - fraction, 0)) * grid.divisor
    return ((raw << up + 1) + below) // (2 * below)


def _aligned(operands: Sequence[Grid]) -> list[Grid]:
    fraction = max(grid.fraction for grid in operands)
    return [grid.at(fraction) for grid in operands]


def _union(_node: Node, operands: Sequence[Grid]) -> Grid:
    aligned = _aligned(operands)
    return Grid(aligned[0].fraction, min(g.low for g in aligned), max(g.high for g in aligned))


def _add(_node: Node, operands: Sequence[Grid]) -> Grid:
    a, b = _aligned(operands)
    return Grid(a.fraction, a.low + b.low, a.high + b.high)


def _sub(_node: Node, operands: Sequence[Grid]) -> Grid:
    a, b = _aligned(operands)
    return Grid(a.fraction, a.low - b.high, a.high - b.low)


def _mul(_node: Node, operands: Sequence[Grid]) -> Grid:
    a, b = operands
    corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return Grid(a.fraction + b.fraction, min(corners), max(corners))


def _neg(_node: Node, operands: Sequence[Grid]) -> Grid:
    (x,) = operands
    return Grid(x.fraction, -x.high, -x.low)


def _abs(_node: Node, operands: Sequence[Grid]) -> Grid:
    (x,) = operands
    low = 0 if x.low <= 0 <= x.high else min(abs(x.low), abs(x.high))
    return Grid(x.fraction, low, max(abs(x.low), abs(x.high)))


def _relu(_node: Node, operands: Sequence[Grid]) -> Grid:
    (x,) = operands
    return Grid(x.fraction, max(x.low, 0), max(x.high, 0))


def _clip(node: Node, operands: Sequence[Grid]) -> Grid | None:
    (x,) = operands
    finite = [node.attrs[key] for key in ("min", "max") if math.isfinite(node.attrs[key])]
    ends = Grid.of(np.asarray(finite))
    if ends is None:
        return None
    x, _ = _aligned([x, ends])
    low, high = (node.attrs[key] * 2.0**x.fraction for key in ("min", "max"))
    return Grid(x.fraction, int(min(max(x.low, low), high)), int(min(max(x.high, low), high)))


def _max(_node: Node, operands: Sequence[Grid]) -> Grid:
    a, b = _aligned(operands)
    return Grid(a.fraction, max(a.low, b.low), max(a.high, b.high))


def _min(_node: Node, operands: Sequence[Grid]) -> Grid:
    a, b = _aligned(operands)
    return Grid(a.fraction, min(a.low, b.low), min(a.high, b.high))


def _same(_node: Node, operands: Sequence[Grid]) -> Grid:
    return operands[0]


def _pad(node: Node, operands: Sequence[Grid]) -> Grid | None:
    filled = Grid.of(np.asarray(node.attrs["value"])) if node.attrs["mode"] == "constant" else operands[0]
    return None if filled is None else _union(node, [operands[0], filled])


def _sum_of(x: Grid, count: int) -> Grid:
    return Grid(x.fraction, x.low * count, x.high * count)


def _avg_pool(node: Node, operands: Sequence[Grid]) -> Grid | None:
    if any(node.attrs["pads"]) and not node.attrs["count_include_pad"]:
        return None
    count = math.prod(node.attrs["kernel"])
    total = _sum_of(_union(node, [operands[0], Grid(operands[0].fraction, 0, 0)]), count)
    return Grid(total.fraction, total.low, total.high, count)


def _reduce_sum(node: Node, operands: Sequence[Grid]) -> Grid:
    return _sum_of(operands[0], _reduced(node))


def _reduce_mean(node: Node, operands: Sequence[Grid]) -> Grid:
    total = _reduce_sum(node, operands)
    return Grid(total.fraction, total.low, total.high, _reduced(node))


def _reduced(node: Node) -> int:
    shape = static_shape(node.inputs[0].shape)
    return math.prod(shape[axis] for axis in node.attrs["axes"])


def _conv(node: Node, operands: Sequence[Grid]) -> Grid:
    weights = node.inputs[1]
    summed = tuple(range(1, weights.type.rank))
    # Padding adds zeros, so a window may hold fewer of the input's numbers than it has places.
    x = _union(node, [operands[0], Grid(operands[0].fraction, 0, 0)])
    return _product(node, x, operands[1], summed, math.prod(static_shape(weights.shape[1:])))


def _matmul(node: Node, operands: Sequence[Grid]) -> Grid:
    depth = static_shape(node.inputs[0].shape)[-1]
    axis = node.inputs[1].type.rank - (1 if node.attrs["transpose_b"] else 2)
    # With zero in its interval, sums of some of the products lie in the interval of all of them.
    x = _union(node, [operands[0], Grid(operands[0].fraction, 0, 0)])
    return _product(node, x, operands[1], (axis,), depth)


def _product(node: Node, x: Grid, w: Grid, summed: tuple[int, ...], depth: int) -> Grid:
    """Sums of products; with known weights no wider than those can make them."""
    constant = node.inputs[1].constant
    if constant is None:
        return _sum_of(_mul(node, [x, w]), depth)
    raw = w.raw(constant.numpy()).astype(np.float64)
    positive, negative = np.maximum(raw, 0).sum(axis=summed), np.minimum(raw, 0).sum(axis=summed)
    high = positive * x.high + negative * x.low
    low = positive * x.low + negative * x.high
    return Grid(x.fraction + w.fraction, int(low.min()), int(high.max()))


def _lmul(node: Node, operands: Sequence[Grid]) -> Grid:
    """Sums of products that are not exact: by what the greatest gives."""
    x, w = operands
    weights = node.inputs[1]
    filters = node.op == "lmul_conv"
    depth = math.prod(static_shape(weights.shape[1:] if filters else node.inputs[0].shape[-1:]))
    most = depth * greatest(*(max(-grid.low, grid.high, 1) for grid in (x, w)))
    return Grid(x.fraction + w.fraction + MANTISSA, -most if x.signed or w.signed else 0, most)


def _experts(_node: Node, operands: Sequence[Grid]) -> Grid:
    x, weights, bias = operands
    return _add(_node, [_sum_of(_mul(_node, [x, weights]), static_shape(_node.inputs[0].shape)[-1]), bias])


def _fixed_top_k(node: Node, _operands: Sequence[Grid]) -> Grid:
    return Grid(0, 0, static_shape(node.inputs[0].shape)[-1] - 1)


def _fixed_softmax(node: Node, operands: Sequence[Grid]) -> Grid:
    _same_fractions(node, operands, (node.attrs["fraction"],))
    count, width = static_shape(node.output.shape)[-1], node.attrs["width"]
    bits, reciprocal = weight_bits(count, width + 1), softmax_reciprocal(width)
    total = 2 * bits + 1 + count.bit_length()
    _fits(node, max(total + reciprocal.mantissa - bits, bits + 1 + reciprocal.fraction + 2))
    return Grid(width, *fixed_limits(width, 0))


def _fixed_norm(node: Node, operands: Sequence[Grid]) -> Grid:
    (x,) = operands
    _same_fractions(node, operands, (node.attrs["fraction"],))
    count, result = math.prod(static_shape(node.output.shape)[node.attrs["axis"] :]), node.attrs["result"]
    root, limit = norm_root(count, result), norm_limit(count, result)
    centred = x.bits + 1 + count.bit_length()
    _fits(node, max(2 * centred + root.mantissa, centred + root.fraction + 1))
    return Grid(result, -limit, limit)


def _fixed_attention(node: Node, operands: Sequence[Grid]) -> Grid:
    q, k, v, *_ = operands
    attrs = node.attrs
    _same_fractions(node, operands, (*attrs["fractions"], attrs["scores"])[: len(operands)])
    depth, keys = static_shape(node.inputs[0].shape)[3], static_shape(node.inputs[1].shape)[1]
    p, reciprocal = weight_bits(keys, attrs["bits"] + 1), softmax_reciprocal(attrs["bits"])
    _fits(node, max(q.bits + k.bits + depth.bit_length() + 16, p + 1 + keys.bit_length() + v.bits,
                    p + 1 + keys.bit_length() + reciprocal.mantissa, p + 1 + v.bits + reciprocal.fraction))  # fmt: skip
    return Grid(attrs["result"], *fixed_limits(attrs["width"], attrs["signed"]))


def _same_fractions(node: Node, operands: Sequence[Grid], said: Sequence[int]) -> None:
    for value, grid, fraction in zip(node.inputs, operands, said, strict=True):
        if grid.fraction > fraction:
            raise IRError(f"%{value.name} has {grid.fraction} bits behind the point, {node.op} takes {fraction}")


def _fits(node: Node, bits: int) -> None:
    if bits > MOST_INTEGER_BITS:
        raise UnsupportedError(f"%{node.output.name}: {node.op} makes numbers of {bits} bits, more than the "
                               f"{MOST_INTEGER_BITS} of integers: fewer bits, or shorter rows")  # fmt: skip


Rule = Callable[[Node, Sequence[Grid]], Grid | None]
_RULES: dict[str, Rule] = {
    "abs": _abs, "add": _add, "avg_pool": _avg_pool, "clip": _clip, "concat": _union, "conv": _conv, "expand": _same,
    "experts": _experts, "fixed_attention": _fixed_attention, "fixed_norm": _fixed_norm,
    "fixed_softmax": _fixed_softmax, "fixed_top_k": _fixed_top_k, "gather": _same, "gather_elements": _same,
    "lmul_conv": _lmul, "lmul_matmul": _lmul,
    "matmul": _matmul, "max": _max, "max_pool": _same, "min": _min, "mul": _mul, "neg": _neg,
    "pad": _pad, "reduce_max": _same, "reduce_mean": _reduce_mean, "reduce_min": _same, "reduce_sum": _reduce_sum,
    "relu": _relu, "reshape": _same, "slice": _same, "sub": _sub, "transpose": _same,
}  # fmt: skip
