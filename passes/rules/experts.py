"""Mixtures of experts as exporters write them -> `experts`, which computes nothing of experts that are not chosen.

Some gather the matrices of the experts that each row chose, [N,K,D,H], which nothing but a product reads. Others
compute every expert for every row, and multiply what each gave by its share, which is zero where it was not chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from passes.rules.matching import private, uniform
from passes.rules.movement import view
from tensorc.ir.dims import is_static, static_shape
from tensorc.ir.graph import Constant, Node, Value
from tensorc.ir.ops import OPS, Kind
from tensorc.ir.rewriter import Builder, Rule, producer, scalar
from tensorc.ir.types import TensorType

# Shares -------------------------------------------------------------------------------------------------


def rank_before_softmax(node: Node, build: Builder) -> Value | None:
    """top_k(softmax(x)) -> top_k(x), the same order; of numbers that softmax makes equal, the greater comes first."""
    softmax = producer(node.inputs[0], "softmax")
    if softmax is None or softmax.attrs["axis"] != node.attrs["axis"]:
        return None
    return build("top_k", softmax.inputs[0], **node.attrs)


def share_among_chosen(node: Node, build: Builder) -> Value | None:
    """p / sum(p) of p picked from softmax(x) -> the softmax of what is picked from x."""
    picked = producer(node.inputs[0], "gather_elements")
    total = producer(node.inputs[1], "reduce_sum")
    softmax = producer(picked.inputs[0], "softmax") if picked is not None else None
    if picked is None or total is None or softmax is None or total.inputs[0] is not picked.output:
        return None
    axis = softmax.attrs["axis"]
    if picked.attrs["axis"] != axis or tuple(total.attrs["axes"]) != (axis,) or not total.attrs["keepdims"]:
        return None
    return build("softmax", build("gather_elements", softmax.inputs[0], picked.inputs[1], axis=axis), axis=axis)


def add_up_by_shares(node: Node, build: Builder) -> Value | None:
    """The sum over k of y [N,K,H] times shares [N,K,1] -> a product: [N,1,K] by [N,K,H]."""
    mul = producer(node.inputs[0], "mul")
    if mul is None or not private(mul.output, build.graph) or mul.output.type.rank < 3:
        return None
    *lead, count, width = mul.output.shape
    rank = len(lead) + 2
    if tuple(node.attrs["axes"]) != (rank - 2,):
        return None
    for y, shares in (mul.inputs, mul.inputs[::-1]):
        if _is_experts(y) and y.type == mul.output.type and shares.shape == (*lead, count, 1):
            rows = int(np.prod(static_shape(tuple(lead))))
            a, b = view(build, shares, (rows, 1, count)), view(build, y, (rows, count, width))
            return view(build, build("matmul", a, b, transpose_b=0), node.output.shape)
    return None


def _is_experts(value: Value) -> bool:
    """Whether it comes of experts, through elementwise arithmetic and views."""
    node = value.producer
    while node is not None and (node.op == "reshape" or OPS[node.op].kind is Kind.ELEMENTWISE):
        node = node.inputs[0].producer
    return node is not None and node.op == "experts"


# Gathered matrices --------------------------------------------------------------------------------------


def multiply_by_chosen(node: Node, build: Builder) -> Value | None:
    """Rows [N...,1,1,D] or [N...,K,1,D] by gathered matrices, [N...,K,D,H]; or any by one that is gathered, [D,H]."""
    x, matrices = node.inputs
    gather = producer(matrices, "gather")
    if gather is None or node.attrs["transpose_b"] or gather.attrs["axis"] != 0 or not is_static(node.output.shape):
        return None
    weights, which = gather.inputs
    if weights.constant is None or weights.type.rank != 3:
        return None
    shape = static_shape(x.shape)
    width, depth = static_shape(node.output.shape)[-1], shape[-1]
    if which.type.size == 1:  # the same for all
        rows = x.type.size // depth
        chosen = build("expand", view(build, which, (1, 1)), shape=(rows, 1))
        return view(build, _chosen(build, view(build, x, (rows, 1, depth)), chosen, weights), node.output.shape)
    taken = static_shape(which.shape)
    rows, each = int(np.prod(taken[:-1])), taken[-1]
    if node.output.shape != (*taken, 1, width) or shape not in ((*taken, 1, depth), (*taken[:-1], 1, 1, depth)):
        return None
    each_row = view(build, x, (rows, each if x.type.size == rows * each * depth else 1, depth))
    return view(build, _chosen(build, each_row, view(build, which, (rows, each)), weights), node.output.shape)


def _chosen(build: Builder, x: Value, which: Value, weights: Value) -> Value:
    experts, _, width = weights.shape
    zeros = build.constant(Constant.full(TensorType(x.dtype, (experts, width)), 0))
    return build("experts", x, which, weights, zeros)


def take_up_bias(node: Node, build: Builder) -> Value | None:
    """experts + gathered rows of a bias."""
    for y, summand in (node.inputs, node.inputs[::-1]):
        experts, gather = _through_views(y, "experts"), _through_views(summand, "gather")
        if experts is None or gather is None or gather.attrs["axis"] != 0 or scalar(experts.inputs[3]) != 0:
            continue
        x, which, weights, zeros = experts.inputs
        bias, asked = gather.inputs
        same = _origin(asked) is _origin(which) and bias.constant is not None and bias.type == zeros.type
        if same and y.type == node.output.type and private(y, build.graph):
            return view(build, build("experts", x, which, weights, bias), node.output.shape)
    return None


def _through_views(value: Value, op: str) -> Node | None:
    while (inner := producer(value, "reshape")) is not None:
        value = inner.inputs[0]
    return producer(value, op)


def _origin(value: Value) -> Value:
    while (inner := producer(value, "reshape", "expand")) is not None:
        value = inner.inputs[0]
    return value


# Every expert computed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gate:
    """Shares of the experts that each row chose; `all_shares` [N...,E] has them among zeros."""

    all_shares: Value
    which: Value
    shares: Value


def choose_before_computing(node: Node, build: Builder) -> Value | None:
    """The sum over all e of f_e(x) times column e of shares [N,E], of which all but K in a row are zero, where the f_e
    differ in constants only -> f of the chosen, and a product with their shares."""
    terms = _terms(node, build)
    columns = [found for term in terms if (found := _column(term)) is not None]
    others = [term for term in terms if _column(term) is None]
    if not columns or any(column.gate is not columns[0].gate for column in columns):
        return None
    gate = _gate(columns[0].gate)
    *lead, count = static_shape(columns[0].gate.shape)
    if gate is None or sorted(column.number for column in columns) != list(range(count)):
        return None
    results = [column.result for column in sorted(columns, key=lambda column: column.number)]
    rows, each = int(np.prod(lead)), static_shape(gate.which.shape)[-1]
    stacker = _Stacker(build, rows, view(build, gate.which, (rows, each)))
    y = stacker.stacked(results)
    if y is None or not stacker.found:
        return None
    shares = view(build, gate.shares, (rows, 1, each))
    result = view(build, build("matmul", shares, y, transpose_b=0), columns[0].result.shape)
    for other in others:
        result = build("add", result, other)
    return result if result.type == node.output.type else None


def _terms(node: Node, build: Builder) -> list[Value]:
    """Of a tree of additions, whose root `node` is; none of one that is part of another."""
    if private(node.output, build.graph) and node.output.users[0].op == "add":
        return []
    found: list[Value] = []
    waiting = list(node.inputs)
    while waiting:
        value = waiting.pop()
        inner = producer(value, "add")
        if inner is not None and private(value, build.graph) and _column(value) is None:
            waiting += inner.inputs
        else:
            found.append(value)
    return found


@dataclass(frozen=True)
class _Column:
    """`result` times column `number` of `gate` [N...,E]."""

    result: Value
    gate: Value
    number: int


def _column(value: Value) -> _Column | None:
    mul = producer(value, "mul")
    if mul is None:
        return None
    for result, factor in (mul.inputs, mul.inputs[::-1]):
        cut = _through_views(factor, "slice")
        if cut is None or result.type != mul.output.type or factor.shape != (*result.shape[:-1], 1):
            continue
        gate = cut.inputs[0]
        if cut.output.shape == (*gate.shape[:-1], 1) and not any(cut.attrs["starts"][:-1]):
            return _Column(result, gate, cut.attrs["starts"][-1])
    return None


def _gate(shares: Value) -> _Gate | None:
    """Of shares that are scattered among zeros, to where top_k says."""
    scatter = _through_views(shares, "scatter")
    if scatter is None or scatter.attrs["reduction"] != "none" or uniform(scatter.inputs[0]) != 0:
        return None
    *lead, count = static_shape(shares.shape)
    which, updates = _not_negative(scatter.inputs[1]), scatter.inputs[2]
    top = _through_views(which, "top_k")
    rows = int(np.prod(lead))
    if top is None or top.attrs["axis"] != len(lead) or top.inputs[0].shape != shares.shape:
        return None
    if static_shape(scatter.inputs[0].shape) != (rows, count, 1):
        return None
    return _Gate(shares, top.output, updates)


def _not_negative(which: Value) -> Value:
    """Indices without where(which < 0, which + E, which), which top_k's need not."""
    outer = _through_views(which, "where")
    return outer.inputs[2] if outer is not None and _through_views(outer.inputs[2], "top_k") is not None else which


class _Stacker:
    """One computation for the chosen in place of one for each expert, whose values are alike but for constants."""

    def __init__(self, build: Builder, rows: int, which: Value):
        self.build = build
        self.rows = rows
        self.which = which
        #: Values of `experts`, which others may be added to.
        self.found: list[Value] = []

    def stacked(self, values: Sequence[Value]) -> Value | None:
        """Values [N...,H] of all experts as one [N,K,H]; None where they differ in more than constants."""
        nodes = [value.producer for value in values]
        first = nodes[0]
        if first is None or any(node is None or (node.op, node.attrs) != (first.op, first.attrs) for node in nodes):
            return None
        if any(value.type != values[0].type for value in values) or len(set(values)) != len(values):
            return None
        operands = [[node.inputs[place] for node in nodes if node is not None] for place in range(len(first.inputs))]
        rule = _STACKED.get(first.op)
        if rule is not None:
            return rule(self, operands, first)
        if OPS[first.op].kind is not Kind.ELEMENTWISE:
            return None
        made = [self._operand(each, values[0]) for each in operands]
        return self.build(first.op, *[one for one in made if one], **first.attrs) if all(made) else None

    def _operand(self, values: Sequence[Value], result: Value) -> Value | None:
        """Of elementwise arithmetic: of the experts, or one number for all."""
        if scalar(values[0]) is not None and values[0].type.size == 1:
            return values[0] if all(scalar(value) == scalar(values[0]) for value in values) else None
        return self.stacked(values) if values[0].type == result.type else None

    def product(self, operands: Sequence[Sequence[Value]], node: Node) -> Value | None:
        inputs, weights = operands
        if any(value.constant is None or value.type.rank != 2 for value in weights):
            return None
        depth = static_shape(inputs[0].shape)[-1]
        if all(value is inputs[0] for value in inputs):
            x: Value | None = view(self.build, inputs[0], (self.rows, 1, depth))
        else:
            x = self.stacked(inputs)
        if x is None:
            return None
        matrices = _stack(self.build, weights, bool(node.attrs["transpose_b"]))
        self.found.append(_chosen(self.build, x, self.which, matrices))
        return self.found[-1]

    def sum(self, operands: Sequence[Sequence[Value]], node: Node) -> Value | None:
        """Of a product and its bias; else of two values of each expert."""
        for values, biases in (operands, operands[::-1]):
            width = static_shape(values[0].shape)[-1]
            if all(bias.constant is not None and bias.type.size in (1, width) for bias in biases):
                y = self.stacked(values)
                experts = producer(y, "experts") if y is not None else None
                if experts is None or scalar(experts.inputs[3]) != 0:
                    return None
                bias = _stack_rows(self.build, biases, width)
                self.found.append(self.build("experts", *experts.inputs[:3], bias))
                return self.found[-1]
        made = [self._operand(each, node.output) for each in operands]
        return self.build("add", *[one for one in made if one]) if all(made) else None


def _stack(build: Builder, values: Sequence[Value], transposed: bool) -> Value:
    arrays = [value.constant.numpy() for value in values if value.constant is not None]
    return build.constant(np.stack([array.T if transposed else array for array in arrays]), name=values[0].name)


def _stack_rows(build: Builder, values: Sequence[Value], width: int) -> Value:
    arrays = [value.constant.numpy().reshape(-1) for value in values if value.constant is not None]
    return build.constant(np.stack([np.broadcast_to(array, width) for array in arrays]), name=values[0].name)


_STACKED: dict[str, Callable[[_Stacker, Sequence[Sequence[Value]], Node], Value | None]] = {
    "add": _Stacker.sum, "matmul": _Stacker.product,
}  # fmt: skip

RULES: dict[str, list[Rule]] = {
    "add": [take_up_bias, choose_before_computing],
    "div": [share_among_chosen],
    "matmul": [multiply_by_chosen],
    "reduce_sum": [add_up_by_shares],
    "top_k": [rank_before_softmax],
}
