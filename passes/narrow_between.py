"""Narrow between: what lies in memory between kernels is in 16 bits; what is computed within them stays in float32.

For machines on which time goes by bytes moved, and whose fastest products are of 16-bit numbers: a GPU. The graph is
fused. A body whose result lies in memory ends in a conversion, one that reads it begins with the exact conversion back,
and views between them change type with what they show. Inputs and outputs of the graph keep their types, and so do the
values that regions read and give.

The numeric policy: sums, statistics, exponentials and every other step within a kernel are in float32, each value is
rounded once, where a kernel leaves it. These stay in float32 in memory too:

- what sums are made of: results of reductions, unless products read them (and then nothing else). They are few,
  and their squares, epsilons and reciprocals are beyond 16 bits soon.
- what whole numbers, truth values and angles are made of: values that are compared, rounded, converted to integers,
  sorted or given to sine and cosine; and what integers are converted to.
- in float16, whose numbers end at 65504: what is computed from a constant beyond that (masks of -1e9 or -3.4e38,
  which are added to scores) until a softmax, a norm, a bounded function or a comparison forgets its size; and what an
  exponential, a power or a square gives.
- values that a kernel reads as other than elements to be widened: the parameters of norms, what is scattered, scanned
  or sorted.

Other activations are taken to be within float16, as in every engine that computes in it; bfloat16 has float32's range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.fusion import WIDENING, is_view
from tensorc.ir import OPS, Graph, Kind, Node, Value
from tensorc.ir.types import TensorType, is_float, numpy_dtype
from tensorc.pipeline import Pass

_LARGEST = float(np.finfo(np.float16).max)
_HEADS = (Kind.ANCHOR, Kind.REDUCTION)
#: Heads whose results may be rounded. Those that add up alone, without weights, are the reductions of the policy.
_NORMALISING = frozenset({"layer_norm", "log_softmax", "rms_norm", "softmax"})
_STATISTICS = frozenset({"reduce_max", "reduce_mean", "reduce_min", "reduce_prod", "reduce_sum"})
_PRODUCTS = frozenset({"attention", "conv_blocked", "matmul", "matmul_coded", "matmul_packed"})
#: Those of which any operand may be widened as it is read; of other heads the first.
_WIDENING_ALL = frozenset({"attention", "matmul"})
#: Whose operands are to be exact.
_EXACT = frozenset({
    "bitcast", "ceil", "cos", "equal", "floor", "greater", "greater_equal", "less", "less_equal", "mod", "quantize",
    "round", "sin", "tan",
})  # fmt: skip
#: Whose results are no larger for it that an operand is large: of those operands, by number; None of all.
_FORGETTING: dict[str, tuple[int, ...] | None] = {
    "attention": (0, 1, 3), "div": (1,), "erf": None, "hard_sigmoid": None, "layer_norm": (0,), "log": None,
    "reciprocal": None, "rms_norm": (0,), "rsqrt": None, "sigmoid": None, "sign": None, "softmax": None, "tanh": None,
}  # fmt: skip
#: Whose results are large without a large operand.
_GROWING = frozenset({"exp", "pow"})
#: What only moves elements, of whatever type.
_MOVING = frozenset({
    "block", "concat", "expand", "gather", "gather_elements", "gather_nd", "reshape", "slice", "transpose", "unblock",
    "unfold",
})  # fmt: skip


@dataclass(frozen=True)
class NarrowBetween(Pass):
    """To `dtype`, bfloat16 or float16."""

    name: ClassVar[str] = "narrow-between"
    dtype: str

    def run(self, graph: Graph) -> bool:
        narrow = self._narrow_values(graph)
        if not narrow:
            return False
        #: Value -> what stands in its place.
        given: dict[Value, Value] = {}
        nodes: list[Node] = []
        for node in graph.nodes:
            inputs = [given.get(value, value) for value in node.inputs]
            if node.body is not None and not narrow.isdisjoint((*node.inputs, *node.outputs)):
                body = self._narrowed(node, narrow)
                new = graph.make("group", inputs, {}, body, name=node.outputs[0].name)
            elif node.body is None and node.outputs[0] in narrow:
                parts = [self._constant(graph, value) if value.constant is not None else value for value in inputs]
                new = graph.make(node.op, parts, node.attrs, name=node.output.name)
            else:
                node.inputs = tuple(inputs)
                nodes.append(node)
                continue
            given.update(zip(node.outputs, new.outputs, strict=True))
            nodes.append(new)
            node.inputs = ()
        graph.outputs = [given.get(value, value) for value in graph.outputs]
        graph.nodes = nodes
        return True

    def _constant(self, graph: Graph, value: Value) -> Value:
        assert value.constant is not None
        dtype = numpy_dtype(self.dtype)
        constant = value.constant.derive(
            TensorType(self.dtype, value.shape), lambda data: data.astype(dtype), how=("precision", self.dtype)
        )
        return graph.add_constant(constant, f"{value.name}.{self.dtype}")

    # Which values -----------------------------------------------------------------------------------------

    def _narrow_values(self, graph: Graph) -> set[Value]:
        """Those that may be; of values that lie in one another, all or none."""
        outputs = set(graph.outputs)
        large = _large_values(graph) if self.dtype == "float16" else set()
        kept = {
            value
            for value in graph.values()
            if value in outputs or value in large or value.dtype != "float32" or not self._may_be(value)
        }
        constants: dict[Value, bool] = {}
        changed = True
        while changed:
            changed = False
            for node in filter(is_view, graph.nodes):
                family = {value for value in (*node.inputs, node.output) if value.constant is None}
                parts = [value for value in node.inputs if value.constant is not None]
                bound = self.dtype == "float16" and any(_is_large(value, constants) for value in parts)
                if (bound or not kept.isdisjoint(family)) and not kept.issuperset(family):
                    kept |= family
                    changed = True
        return {value for node in graph.nodes for value in node.outputs if value not in kept}

    def _may_be(self, value: Value) -> bool:
        """Whether its kernel can leave it and all who read it can take it in 16 bits."""
        node = value.producer
        if node is None or (node.body is None and not is_view(node)):
            return False
        if node.body is not None and not (len(node.outputs) == 1 and self._leaves(node, node.body)):
            return False
        return all(is_view(user) or (user.body is not None and _takes(user, user.body, value)) for user in value.users)

    def _leaves(self, node: Node, body: Graph) -> bool:
        head = next((inner for inner in body.nodes if OPS[inner.op].kind in _HEADS), None)
        if head is not None and head.op in _STATISTICS:
            if not node.output.users or not all(_multiplies(user) for user in node.output.users):
                return False
        elif head is not None and head.op not in WIDENING | _NORMALISING:
            return False
        last = _before_moves(body.outputs[0])
        if last.producer is None:
            return True
        op, operands = last.producer.op, last.producer.inputs
        if op == "range" or (op == "cast" and not is_float(operands[0].dtype)):
            return False
        return self.dtype != "float16" or not (op in _GROWING or (op == "mul" and operands[0] is operands[1]))

    # Bodies -----------------------------------------------------------------------------------------------

    def _narrowed(self, node: Node, narrow: set[Value]) -> Graph:
        """The body of a group whose inputs and output among `narrow` are in 16 bits."""
        old = node.body
        assert old is not None
        ends = node.outputs[0] in narrow
        body = Graph(old.name)
        known: dict[Value, Value] = {}
        floats = [is_float(value.dtype) for value in node.inputs]
        held = [value in narrow or value.dtype == self.dtype for value in node.inputs]
        # What is only moved is not converted back and forth.
        moved = ends and held == floats and bool(old.nodes) and not old.constants()
        moved = moved and all(step.op in _MOVING for step in old.nodes)
        for outer, inner in zip(node.inputs, old.inputs, strict=True):
            dtype = self.dtype if outer in narrow else inner.dtype
            known[inner] = body.add_input(inner.name, TensorType(dtype, inner.shape))
        for outer, inner in zip(node.inputs, old.inputs, strict=True):
            if outer in narrow and not moved:
                known[inner] = body.add("cast", [known[inner]], {"to": "float32"}, name=inner.name)
        for step in old.nodes:
            for value in step.inputs:
                if value not in known:
                    assert value.constant is not None
                    known[value] = body.add_constant(value.constant, value.name)
            made = body.make(step.op, [known[value] for value in step.inputs], step.attrs, name=step.outputs[0].name)
            body.nodes.append(made)
            known.update(zip(step.outputs, made.outputs, strict=True))
        body.outputs = [known[value] for value in old.outputs]
        if ends and not moved:
            body.outputs = [body.add("cast", body.outputs, {"to": self.dtype}, name=old.outputs[0].name)]
        return body


def _takes(node: Node, body: Graph, value: Value) -> bool:
    """Whether a kernel of `body` can widen `value` as it reads it, and nothing exact is made of that."""
    frontier = [inner for outer, inner in zip(node.inputs, body.inputs, strict=True) if outer is value]
    seen = set(frontier)
    while frontier:
        at = frontier.pop()
        for user in at.users:
            numbers = [number for number, operand in enumerate(user.inputs) if operand is at]
            if OPS[user.op].kind in _HEADS:
                if not all(_widens_operand(user, number) for number in numbers):
                    return False
                continue  # what follows is made of the head's results, which are float32
            if user.op in _EXACT or (user.op == "cast" and not is_float(user.output.dtype)):
                return False
            for result in user.outputs:
                if result not in seen:
                    seen.add(result)
                    frontier.append(result)
    return True


def _widens_operand(head: Node, number: int) -> bool:
    return head.op in WIDENING | _NORMALISING | _STATISTICS and (number == 0 or head.op in _WIDENING_ALL)


def _multiplies(user: Node) -> bool:
    return user.body is not None and any(inner.op in _PRODUCTS for inner in user.body.nodes)


def _before_moves(value: Value) -> Value:
    """What `value` is, moved."""
    while value.producer is not None and (value.producer.op in _MOVING):
        value = value.producer.inputs[0]
    return value


# Range ----------------------------------------------------------------------------------------------------


def _large_values(graph: Graph) -> set[Value]:
    """What is computed between kernels from constants beyond float16, as far as it may be as large."""
    large: set[Value] = set()
    constants: dict[Value, bool] = {}

    def spread(node: Node) -> None:
        forgotten = _FORGETTING.get(node.op, ())
        if node.op == "clip" and max(abs(node.attrs["min"]), abs(node.attrs["max"])) <= _LARGEST:
            forgotten = None
        if forgotten is None:
            return
        for number, value in enumerate(node.inputs):
            if number not in forgotten and (value in large or _is_large(value, constants)):
                large.update(result for result in node.outputs if is_float(result.dtype))
        if node.op == "pad" and is_float(node.output.dtype) and _beyond(np.asarray(node.attrs["value"], np.float64)):
            large.add(node.output)

    for node in graph.nodes:
        if node.body is None:
            if not node.regions:
                spread(node)
            continue
        for outer, inner in zip(node.inputs, node.body.inputs, strict=True):
            if outer in large or _is_large(outer, constants):
                large.add(inner)
        for step in node.body.nodes:
            spread(step)
        large.update(out for out, inner in zip(node.outputs, node.body.outputs, strict=True) if inner in large)
    return large


def _is_large(value: Value, known: dict[Value, bool]) -> bool:
    """Whether `value` is a constant with finite numbers beyond float16."""
    constant = value.constant
    if constant is None or value.dtype not in ("float32", "float64", "bfloat16"):
        return False
    if value not in known:
        data = constant.numpy() if constant.splat is None else np.asarray(constant.splat)
        known[value] = _beyond(data.astype(np.float64, copy=False) if data.dtype != np.float32 else data)
    return known[value]


def _beyond(data: np.ndarray) -> bool:
    magnitudes = np.abs(data)
    return bool(((magnitudes > _LARGEST) & (magnitudes < np.inf)).any())
