"""Dividing the channels of a value by factors, by changing constants that it is made of.

Between what makes a value and the constants there may be what commutes with a positive factor for each channel: relu,
limits (which then are constants for each channel), pooling, other constants that are added. Factors are powers of two:
every number on the way is divided exactly, so no result changes by a bit, unless numbers get too small or too large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from passes.rules.matching import compact, is_small, private, wide
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Graph, Node, Value
from tensorc.ir.types import TensorType

#: What divides by factors, float64 [channels].
Edit = Callable[[np.ndarray], None]
#: Factors are at most so many, and no less than one by so many.
LARGEST = 2.0**10


@dataclass(frozen=True)
class Divisible:
    """A value whose channels can be divided by what `edits` change; `source` is the product with constant weights that
    it comes from, None where it is another constant that takes up the factors."""

    edits: Sequence[Edit]
    source: Node | None

    def divide(self, factors: np.ndarray) -> None:
        for edit in self.edits:
            edit(factors)


def is_weighted(node: Node) -> bool:
    """Whether it is a product of floats with constant weights: the last two axes of a matrix, or filters."""
    if node.op not in ("conv", "matmul") or node.output.dtype != "float32" or node.inputs[1].constant is None:
        return False
    return node.inputs[0].constant is None and (node.op == "conv" or node.inputs[1].type.rank == 2)


def input_axis(node: Node) -> int:
    """Of the channels that a product sums over, in its input."""
    return 1 if node.op == "conv" else node.inputs[0].type.rank - 1


def powers_of_two(factors: np.ndarray) -> np.ndarray:
    """The nearest of those, within limits; 1 where a factor is no positive number."""
    valid = np.isfinite(factors) & (factors > 0)
    exponents = np.round(np.log2(np.where(valid, factors, 1)))
    return np.asarray(np.clip(2.0**exponents, 1 / LARGEST, LARGEST))


def divisible(value: Value, axis: int, graph: Graph, seen: bool = True) -> Divisible | None:
    """None where its channels along `axis` cannot be divided for its readers alone; those of `value` itself are the
    caller's affair (`seen`)."""
    node = value.producer
    if node is None or value.dtype != "float32" or not (seen or private(value, graph)):
        return None
    if is_weighted(node):
        own = 1 if node.op == "conv" else value.type.rank - 1
        return Divisible([_weights(node, graph, inputs=False)], node) if axis == own else None
    if node.op in ("layer_norm", "rms_norm"):
        return _norm(node, axis, graph)
    if node.op in ("relu", "leaky_relu") or (node.op in ("max_pool", "avg_pool") and axis == 1):
        return _behind(node, 0, axis, graph)
    if node.op == "clip":
        return _with(_behind(node, 0, axis, graph), _clip(node, axis, graph))
    if node.op in ("add", "min", "max", "mul"):
        return _elementwise(node, axis, graph)
    return None


def multiply(node: Node, graph: Graph, factors: np.ndarray) -> None:
    """The weights of a product, for inputs whose channels were divided."""
    _weights(node, graph, inputs=True)(1 / factors)


def _behind(node: Node, number: int, axis: int, graph: Graph) -> Divisible | None:
    return divisible(node.inputs[number], axis, graph, seen=False)


def _with(found: Divisible | None, edit: Edit) -> Divisible | None:
    return None if found is None else Divisible([*found.edits, edit], found.source)


def _weights(node: Node, graph: Graph, inputs: bool) -> Edit:
    def edit(factors: np.ndarray) -> None:
        w = node.inputs[1]
        assert w.constant is not None
        if node.op == "conv":
            groups = node.attrs["groups"] if inputs else 1
            rows, columns = static_shape(w.shape)[:2]
            # Channels of the input are numbered through the groups of filters.
            shape = (groups, 1, columns, 1, 1) if inputs else (1, rows, 1, 1, 1)
            divided = np.broadcast_to(factors.reshape(shape[:3]), (groups, rows // groups, columns if inputs else 1))
            shaped = divided.reshape(rows, -1, *[1] * (w.type.rank - 2))
        else:
            shaped = factors.reshape((1, -1) if bool(node.attrs["transpose_b"]) == inputs else (-1, 1))

        def change(data: np.ndarray) -> np.ndarray:
            return np.asarray((data / shaped).astype(np.float32))

        how = ("divided", inputs, factors.tobytes())
        node.set_input(1, graph.add_constant(w.constant.derive(w.type, change, how=how), w.name))

    return edit


def _shaped(factors: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return factors.reshape(tuple(-1 if at == axis else 1 for at in range(rank)))


def _constant(node: Node, number: int, axis: int, graph: Graph) -> Edit:
    """A constant operand, which broadcasts to what the node gives."""

    def edit(factors: np.ndarray) -> None:
        constant = node.inputs[number].constant
        assert constant is not None
        data = wide(constant) / _shaped(factors, axis, node.output.type.rank)
        # A repeated number is as wide as it was, if only in one axis.
        shape = np.broadcast_shapes(data.shape, static_shape(constant.type.shape))
        node.set_input(
            number, graph.add_constant(compact(data, TensorType("float32", shape)), node.inputs[number].name)
        )

    return edit


def _elementwise(node: Node, axis: int, graph: Graph) -> Divisible | None:
    a, b = node.inputs
    if a.type.rank != node.output.type.rank or a.shape[axis] != node.output.shape[axis]:
        return None
    if b.constant is None:
        # Either factor of a product may take them up, only both terms of a sum.
        found = _behind(node, 0, axis, graph) if node.op == "mul" else None
        if found is None and node.op == "mul" and b.type.rank == a.type.rank and b.shape[axis] == a.shape[axis]:
            found = _behind(node, 1, axis, graph)
        return found
    if not is_small(b.constant):
        return None
    if node.op == "mul":
        return Divisible([_constant(node, 1, axis, graph)], None)
    return _with(_behind(node, 0, axis, graph), _constant(node, 1, axis, graph))


def _norm(node: Node, axis: int, graph: Graph) -> Divisible | None:
    """The scale and the bias, where there is one of each for a channel."""
    rank = node.output.type.rank
    if axis != rank - 1 or node.attrs["axis"] % rank != axis or any(v.constant is None for v in node.inputs[1:]):
        return None

    def edit(factors: np.ndarray) -> None:
        for number, value in enumerate(node.inputs[1:], 1):
            assert value.constant is not None
            data = np.broadcast_to(wide(value.constant), static_shape(value.shape)) / factors
            node.set_input(number, graph.add_constant(compact(data, value.type), value.name))

    return Divisible([edit], None)


def _clip(node: Node, axis: int, graph: Graph) -> Edit:
    """Limits of a tensor become limits of its channels."""

    def edit(factors: np.ndarray) -> None:
        rank = node.output.type.rank
        value, old = node.inputs[0], node.output
        for op, limit in (("max", node.attrs["min"]), ("min", node.attrs["max"])):
            if op == "max" and limit == 0:
                value = graph.add("relu", [value], {}, name=old.name)
            elif np.isfinite(limit):
                limits = graph.constant((limit / _shaped(factors, axis, rank)).astype(np.float32)[0])
                value = graph.add(op, [value, limits], {}, name=old.name)
        graph.replace(old, value)

    return edit
