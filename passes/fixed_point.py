"""Fixed point: every tensor of a graph gets a number of bits and a place for the binary point.

Numbers are rounded (`fix`) where they would be kept: what an anchor, a table or several readers take, and what the
graph gives. A chain of exact arithmetic on one tensor (bias, relu, a factor for each channel) is rounded once, at its
end, as an accumulator is. Functions of one number become tables of all the values that it can have, or of so many that
straight lines between them are near enough. Softmax, normalisations and attention become integer algorithms
(`tensorc.ir.ops.fixed_rows`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from passes.fixed_curves import Curve, Function, fit, sample, saturated
from tensorc.errors import UnsupportedError, UserError
from tensorc.fixed_point import Grid, grid_of, grids
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Graph, Node, Value, clone
from tensorc.ir.ops import OPS, Kind
from tensorc.ir.ops.curves import weight_bits
from tensorc.ir.ops.fixed import fix_numpy
from tensorc.quantization.params import Range, Widths
from tensorc.quantization.widths import Widened

#: Bits of what a table is asked for: 1,024 entries fill one block of memory of 18 bits.
TABLE_BITS = 10
#: Arithmetic whose result is exact on a grid.
_LINEAR = frozenset({"add", "sub", "mul", "max", "min"})
_UNARY = frozenset({"relu", "neg", "abs", "clip"})
#: What only says where numbers are.
_MOVES = frozenset({"reshape", "transpose", "slice", "expand", "concat", "pad", "gather", "gather_elements",
                    "max_pool"})  # fmt: skip
_ANCHORS = frozenset({"conv", "matmul"})


@dataclass(frozen=True)
class FixedPoint(Widened):
    """`bits` for what is computed, `weight_bits` for what is multiplied with it, but for tensors that have `widths` of
    their own; `ranges` by the names of values. With `lmul` products by weights are L-Mul's. The graph is of float64."""

    name: ClassVar[str] = "fixed-point"
    bits: int
    weight_bits: int
    ranges: Mapping[str, Range] = field(default_factory=dict)
    widths: Widths = field(default_factory=Widths)
    lmul: bool = False

    def watched(self, graph: Graph) -> list[Value]:
        return [value for value in graph.values() if value.dtype == "float64"]

    def run(self, graph: Graph) -> bool:
        _Rewriter(self, graph).run()
        return True

    def asked(self, graph: Graph) -> Widths:
        rewriter = _Rewriter(self, clone(graph))
        rewriter.run()
        return Widths(rewriter.values, rewriter.weights)


class _Rewriter:
    """Goes through the nodes in order; `known` has the grids of what they read from then on, `values` and `weights` the
    bits that were given to tensors."""

    def __init__(self, how: FixedPoint, graph: Graph):
        self.how = how
        self.graph = graph
        self.known: dict[Value, Grid] = {}
        self.kept = set(graph.outputs)
        self.values: dict[str, int] = {}
        self.weights: dict[str, int] = {}

    def run(self) -> None:
        old, self.graph.nodes = self.graph.nodes, []
        for value in self.graph.inputs:
            if value.dtype == "float64":
                self.round(value)
            else:
                self.receive(value, Grid(0, 0, self.told(value) - 1))
        for node in old:
            self.rewrite(node)
        self.graph.sort()
        self.graph.remove_dead()

    def rewrite(self, node: Node) -> None:
        if node.op in _ANCHORS:
            self.round_weights(node, 1)
            if self.how.lmul and node.inputs[1].constant is not None:
                node = self.instead(node, f"lmul_{node.op}", list(node.inputs), node.attrs)
        elif node.op == "experts":
            self.round_experts(node)
        elif node.op == "div" and node.inputs[1].constant is not None:
            node = self.as_product(node)
        if node.op in _ROWS:
            node = _ROWS[node.op](self, node)
        if node.op in _LINEAR:
            self.round_operands(node)
        elif node.op == "clip":
            self.round_limits(node)
        elif node.op == "pad" and node.attrs["mode"] == "constant":
            self.fit_pad(node)
        elif _is_function(node):
            node = self.as_table(node)
        self.graph.nodes.append(node)
        result, grid = node.output, grid_of(node, self.known)
        if grid is None:
            types = ", ".join(map(repr, node.inputs))
            raise UnsupportedError(f"%{result.name}: {node.op} of {types} has no fixed-point form")
        self.known[result] = grid
        if node.op == "pad":
            self.round(result)  # what stands around may be greater than what is inside
        elif node.op not in (*_MOVES, "lookup", "fixed_top_k") and (grid.divisor != 1 or self.is_kept(result)):
            self.round(result)

    def is_kept(self, value: Value) -> bool:
        """Whether its numbers lie somewhere before they are read."""
        if value in self.kept or len(value.users) != 1:
            return True
        (user,) = value.users
        if user.op in _UNARY:
            return False
        return user.op not in _LINEAR or all(other is value or other.constant is None for other in user.inputs)

    def bits(self, name: str) -> int:
        """Of the tensor `name`."""
        return self.values.setdefault(name, self.how.widths.values.get(name, self.how.bits))

    def round(self, value: Value) -> None:
        """Readers get `value` as numbers of its bits; it is as wide already where its grid says so."""
        grid, bits = self.known.get(value), self.bits(value.name)
        wanted = self.fitted(value.name)
        if grid is not None and grid.divisor == 1 and grid.bits <= bits and grid.fraction <= wanted.fraction:
            return
        self.receive(value, wanted)

    def receive(self, value: Value, wanted: Grid) -> None:
        readers = list(value.users)
        op = "fix" if value.producer is not None else "receive"
        node = self.graph.make(op, [value], _attrs(wanted), name=f"{value.name}.fixed")
        self.graph.nodes.append(node)
        for reader in dict.fromkeys(readers):
            if reader is not node:
                reader.inputs = tuple(node.output if read is value else read for read in reader.inputs)
        self.graph.outputs = [node.output if output is value else output for output in self.graph.outputs]
        self.known[node.output] = grid_of(node, self.known) or wanted

    def told(self, value: Value) -> int:
        """How many experts the whole numbers of an input choose among."""
        counts = [0]
        for user in value.users:
            if user.op == "experts" and user.inputs[1] is value:
                counts.append(static_shape(user.inputs[2].shape)[0])
            elif value.dtype in ("int32", "int64") and user.op in ("reshape", "expand"):
                counts.append(self.told(user.output))
            else:
                raise UnsupportedError(f"%{value.name}: {user.op} of {value.type} has no fixed-point form")
        return max(counts)

    def fitted(self, name: str) -> Grid:
        if name not in self.how.ranges:
            raise UserError(f"calibration: it has no range of %{name}")
        range = self.how.ranges[name]
        return Grid.fit(range.low, range.high, self.bits(name))

    def round_weights(self, node: Node, place: int) -> None:
        weights = node.inputs[place]
        if weights.constant is None:
            return
        numbers = weights.constant.numpy()
        bits = self.weights.setdefault(weights.name, self.how.widths.weights.get(weights.name, self.how.weight_bits))
        rounded = Grid.closest(numbers, bits).rounded(numbers)
        value = self.graph.constant(rounded, name=weights.name)
        grid = Grid.of(rounded)
        assert grid is not None
        self.known[value] = grid
        node.set_input(place, value)

    def round_experts(self, node: Node) -> None:
        """Their biases are as fine as the products are that they are added to."""
        x, _, _, bias = node.inputs
        self.round_weights(node, 2)
        weights = self.known.get(node.inputs[2])
        if weights is None or bias.constant is None:
            raise UnsupportedError(f"%{node.output.name}: experts that are computed have no fixed-point form")
        numbers = bias.constant.numpy()
        fraction = self.known[x].fraction + weights.fraction
        most = math.ceil(float(np.abs(numbers).max(initial=0)) * 2.0**fraction) + 1
        node.set_input(3, self.constant(numbers, Grid(fraction, -most, most), bias.name))

    def round_operands(self, node: Node) -> None:
        """Constants of elementwise arithmetic: what is added is as fine as what it is added to."""
        for place, value in enumerate(node.inputs):
            if value.constant is None or value in self.known:
                continue
            numbers = value.constant.numpy()
            low, high = float(numbers.min(initial=0)), float(numbers.max(initial=0))
            grid = Grid.fit(low, high, self.how.weight_bits, signed=True)
            if node.op != "mul":
                others = [self.known[other] for other in node.inputs if other in self.known]
                fraction = max((other.fraction for other in others), default=grid.fraction)
                most = max(abs(low), abs(high)) * 2.0**fraction
                grid = Grid(fraction, -math.ceil(most) - 1, math.ceil(most) + 1)
            node.set_input(place, self.constant(numbers, grid, value.name))

    def constant(self, numbers: np.ndarray, grid: Grid, name: str) -> Value:
        fixed = fix_numpy(numbers, grid.bits, grid.fraction, 1)
        value = self.graph.constant(fixed, name=name)
        self.known[value] = Grid.of(fixed) or grid
        return value

    def round_limits(self, node: Node) -> None:
        step = 2.0 ** -self.known[node.inputs[0]].fraction
        for key in ("min", "max"):
            if math.isfinite(node.attrs[key]):
                node.attrs[key] = round(node.attrs[key] / step) * step

    def fit_pad(self, node: Node) -> None:
        """What stands around is as fine as what is inside; what is cut off is so first."""
        widths = {key: node.attrs[key] for key in ("before", "after")}
        cut = {key: tuple(min(each, 0) for each in row) for key, row in widths.items()}
        if any(map(any, cut.values())) and any(each > 0 for row in widths.values() for each in row):
            node.set_input(0, self.made(node.output.name, "pad", [node.inputs[0]], **cut, mode="constant", value=0.0))
            node.attrs |= {key: tuple(max(each, 0) for each in row) for key, row in widths.items()}
        step = 2.0 ** -self.known[node.inputs[0]].fraction
        node.attrs["value"] = float(np.floor(node.attrs["value"] / step + 0.5) * step)

    def as_product(self, node: Node) -> Node:
        """A division by a constant."""
        x, by = node.inputs
        assert by.constant is not None
        factor = self.graph.constant(1 / by.constant.numpy(), name=by.name)
        return self.instead(node, "mul", [x, factor], {})

    def as_table(self, node: Node) -> Node:
        """A function of one number. Where that has few bits the table has all results, rounded; else it has lines
        between some of them, off by half a step before they are rounded, if so many entries are enough, or the operand
        is rounded to few bits, if that is nearer."""
        x, wanted = node.inputs[0], self.fitted(node.output.name)
        grid = self.known[x]

        def function(numbers: np.ndarray) -> np.ndarray:
            return np.asarray(OPS[node.op].evaluate([numbers], node.attrs)[0], np.float64)

        if not _has_few_values(grid):
            curve = fit(function, grid, wanted, 1 << TABLE_BITS)
            if curve.error <= self.error_of_index(grid, saturated(function, wanted)):
                return self.as_curve(node, curve)
            x = self.index(x)
            grid = self.known[x]
        numbers = np.arange(grid.low, grid.high + 1) * 2.0**-grid.fraction
        table = self.table(node, fix_numpy(function(numbers), wanted.bits, wanted.fraction, wanted.signed))
        return self.instead(node, "lookup", [x, table], {"fraction": grid.fraction, "first": grid.low})

    def table(self, node: Node, entries: np.ndarray) -> Value:
        value = self.graph.constant(entries, name=f"{node.op}.table")
        grid = Grid.of(entries)
        assert grid is not None
        self.known[value] = grid
        return value

    def error_of_index(self, grid: Grid, function: Function) -> float:
        """Of a table for an operand of this grid that is rounded to few bits first."""
        values, coarse = sample(grid) * 2.0**-grid.fraction, self.coarser(grid)
        index = fix_numpy(values, coarse.bits, coarse.fraction, coarse.signed)
        return float(np.abs(function(index) - function(values)).max())

    def as_curve(self, node: Node, curve: Curve) -> Node:
        (x,) = node.inputs
        name = node.output.name
        table = self.table(node, curve.table)
        if not curve.bent:
            return self.instead(node, "interpolate", [x, table], curve.attrs)

        far = self.made(name, "abs", [x])
        near = self.made(name, "clip", [far], min=0.0, max=curve.last * 2.0**-curve.fraction)
        rest = self.made(name, "interpolate", [near, table], **curve.attrs)
        return self.instead(node, "add", [self.made(name, "relu", [x]), rest], {})

    def made(self, name: str, op: str, inputs: list[Value], **attrs: object) -> Value:
        """The result of a step of what becomes of the value `name`."""
        step = self.graph.make(op, inputs, attrs, name=f"{name}.{op}")
        self.graph.nodes.append(step)
        grid = grid_of(step, self.known)
        assert grid is not None
        self.known[step.output] = grid
        return step.output

    def index(self, x: Value) -> Value:
        """The value as numbers that a table may have an entry for each of."""
        grid = self.known[x]
        if _has_few_values(grid):
            return x
        source = x.producer.inputs[0] if x.producer is not None and x.producer.op == "fix" else x
        coarse = self.graph.make("fix", [source], _attrs(self.coarser(grid)), name=f"{source.name}.index")
        self.graph.nodes.append(coarse)
        self.known[coarse.output] = grid_of(coarse, self.known) or self.coarser(grid)
        return coarse.output

    def coarser(self, grid: Grid) -> Grid:
        drop = grid.bits - TABLE_BITS
        return Grid(grid.fraction - drop, *((-(1 << TABLE_BITS - 1), (1 << TABLE_BITS - 1) - 1) if grid.signed
                                            else (0, (1 << TABLE_BITS) - 1)))  # fmt: skip

    def as_softmax(self, node: Node) -> Node:
        """Rows lie along the last axis; it is channels that are last where tensors are streams."""
        x, axis, name = self.index(node.inputs[0]), node.attrs["axis"], node.output.name
        attrs = {"fraction": self.known[x].fraction, "width": self.bits(name)}
        axes = [*(other for other in range(x.type.rank) if other != axis), axis]
        if axis == axes[axis]:
            return self.instead(node, "fixed_softmax", [x], attrs)
        rows = self.made(name, "fixed_softmax", [self.made(name, "transpose", [x], perm=tuple(axes))], **attrs)
        return self.instead(node, "transpose", [rows], {"perm": tuple(int(place) for place in np.argsort(axes))})

    def as_top_k(self, node: Node) -> Node:
        axis, last = node.attrs["axis"], node.inputs[0].type.rank - 1
        if axis != last:
            raise UnsupportedError(f"%{node.output.name}: top_k along axis {axis} of {node.inputs[0].type} has no "
                                   f"fixed-point form, only along the last axis")  # fmt: skip
        return self.instead(node, "fixed_top_k", [node.inputs[0]], {key: node.attrs[key] for key in ("k", "largest")})

    def as_norm(self, node: Node) -> Node:
        """Normalised numbers have as many bits behind the point as others have in all; scale and bias are arithmetic
        like other."""
        x, scale, *bias = node.inputs
        attrs = {"axis": node.attrs["axis"], "epsilon": node.attrs["epsilon"], "centred": int(node.op == "layer_norm"),
                 "fraction": self.known[x].fraction, "result": self.bits(node.output.name)}  # fmt: skip
        normal = self.graph.make("fixed_norm", [x], attrs, name=f"{node.output.name}.normal")
        made = [normal]
        if bias:
            made.append(self.graph.make("mul", [normal.output, scale], {}, name=f"{node.output.name}.product"))
            last = self.instead(node, "add", [made[-1].output, *bias], {})
        else:
            last = self.instead(node, "mul", [normal.output, scale], {})
        for step in made:
            self.rewrite(step)
        return last

    def as_attention(self, node: Node) -> Node:
        """Scores are as fine as a table of their exponentials may be long."""
        q, k, v, *masks = node.inputs
        if any(x not in self.known for x in (q, k, v)):
            raise UnsupportedError(f"%{node.output.name}: attention to constants has no fixed-point form")
        grids = [self.known[x] for x in (q, k, v)]
        wanted = self.fitted(node.output.name)
        p = weight_bits(static_shape(k.shape)[1], wanted.bits + 1)
        scores = math.floor(math.log2((1 << TABLE_BITS) / ((p + 1) * math.log(2))))
        attrs = {
            "scale": node.attrs["scale"], "fractions": tuple(grid.fraction for grid in grids), "scores": scores,
            "bits": wanted.bits, "width": wanted.bits, "result": wanted.fraction, "signed": int(wanted.signed),
        }  # fmt: skip
        if masks:
            most = static_shape(q.shape)[3] * abs(node.attrs["scale"])
            for grid in grids[:2]:
                most *= max(-grid.low, grid.high) * 2.0**-grid.fraction
            masks = [self.mask(node, masks[0], 2 * most + (p + 1) * math.log(2) + 1, scores)]
        return self.instead(node, "fixed_attention", [q, k, v, *masks], attrs)

    def mask(self, node: Node, mask: Value, enough: float, fraction: int) -> Value:
        """As scores are. What takes away so much that nothing is left of a weight takes away just `enough`."""
        if mask.constant is None:
            raise UnsupportedError(f"%{node.output.name}: attention with a computed mask has no fixed-point form")
        enough = math.ceil(enough)
        rounded = np.rint(np.clip(mask.constant.numpy(), -enough, enough) * 2.0**fraction) * 2.0**-fraction
        value = self.graph.constant(rounded, name=mask.name)
        grid = Grid.of(rounded)
        assert grid is not None
        self.known[value] = grid
        return value

    def instead(self, node: Node, op: str, inputs: list[Value], attrs: Mapping[str, object]) -> Node:
        """A node whose result is read where that of `node` was, and bears its name."""
        new = self.graph.make(op, inputs, attrs, name=node.output.name)
        new.output.name, node.output.name = node.output.name, new.output.name
        if node.output in self.kept:
            self.kept.add(new.output)
        self.graph.replace(node.output, new.output)
        node.inputs = ()
        return new


_ROWS = {
    "attention": _Rewriter.as_attention, "layer_norm": _Rewriter.as_norm, "rms_norm": _Rewriter.as_norm,
    "softmax": _Rewriter.as_softmax, "top_k": _Rewriter.as_top_k,
}  # fmt: skip


def _has_few_values(grid: Grid) -> bool:
    return grid.high - grid.low < 1 << TABLE_BITS


def _is_function(node: Node) -> bool:
    """Of one number, and not linear in parts."""
    return OPS[node.op].kind is Kind.ELEMENTWISE and len(node.inputs) == 1 and node.op not in (*_UNARY, "fix")


def _attrs(grid: Grid) -> dict[str, int]:
    return {"width": grid.bits, "fraction": grid.fraction, "signed": int(grid.signed)}


def fixed_grids(graph: Graph) -> dict[Value, Grid]:
    """As `tensorc.fixed_point.grids`; the graph's inputs are rounded before anything reads them."""
    return grids(graph)
