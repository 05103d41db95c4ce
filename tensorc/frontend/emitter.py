"""Adds IR nodes during import, evaluating at once what is constant.

Exporters surround the computation with arithmetic on shapes; with static input shapes all of it is constant. Folding
here, while the graph is built, means that the rules for ONNX operators may ask for a constant where the IR wants an
attribute. General simplification is left to passes: only a node that changes nothing is not made.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorc.errors import IRError
from tensorc.frontend.limits import MOST_REPEATED, check_computed, check_type
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Constant, Graph, Value
from tensorc.ir.ops import OPS, Kind
from tensorc.ir.ops.quantization import is_kept
from tensorc.ir.ops.table import Attrs
from tensorc.ir.types import TensorType, numpy_dtype

if TYPE_CHECKING:
    from tensorc.frontend.regions import Region

#: Results of up to this many elements are evaluated during import; larger ones stay as they are written.
FOLD_ELEMENTS = 1 << 20

#: Operators that give back the elements they are given, so that one repeated element stays one.
_MOVES = frozenset({"reshape", "transpose", "slice", "expand"})
#: Cheap operators on one large constant (a weight): they are done when the constant is loaded.
_DEFERRED = frozenset({"reshape", "transpose", "cast"})


class Emitter:
    """Appends to `graph`. `name` is the hint for the names of the values that are made from now on."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.name = "v"

    def emit(self, op: str, inputs: Sequence[Value], attrs: Attrs) -> Value:
        row = OPS[op]
        row.check_arity(len(inputs))
        try:
            complete = row.complete(attrs)
        except IRError as error:
            raise AssertionError(f"a rule of the frontend emits {op} wrongly") from error
        (type,) = row.infer([value.type for value in inputs], complete)
        check_type(type, "its result")
        if _changes_nothing(op, inputs, complete, type):
            return inputs[0]
        if type.size == 0:
            return self.constant(_nothing(type))
        constants = [constant for constant in map(_known, inputs) if constant is not None]
        if len(constants) == len(inputs):
            folded = _fold(op, constants, complete, type)
            if folded is not None:
                return self.constant(folded)
        return self.graph.add(op, inputs, complete, name=self.name)

    def control(self, op: str, inputs: Sequence[Value], regions: Sequence[Region], attrs: Attrs) -> list[Value]:
        """A node with regions, its inputs followed by what those capture, and its results."""
        captured = list(dict.fromkeys(value for region in regions for value in region.captured))
        for region in regions:
            own = region.graph.inputs[: len(region.graph.inputs) - len(region.captured)]
            region.graph.inputs = own + [region.capture(value) for value in captured]
        graphs = [region.graph for region in regions]
        node = self.graph.make(op, [*inputs, *captured], attrs, name=self.name, regions=graphs)
        self.graph.nodes.append(node)
        return list(node.outputs)

    def constant(self, constant: Constant) -> Value:
        check_type(constant.type, "its result")
        if constant.splat is not None:  # made here, not read from the model, and as large as somebody wishes
            check_computed(constant.type, MOST_REPEATED)
        return self.graph.add_constant(constant, self.name)


def _nothing(type: TensorType) -> Constant:
    return Constant.of(np.empty(static_shape(type.shape), numpy_dtype(type.dtype)))


def _known(value: Value) -> Constant | None:
    """Without any element a value is as good as constant: no kernel ever sees one."""
    return _nothing(value.type) if value.constant is None and value.type.size == 0 else value.constant


def _changes_nothing(op: str, inputs: Sequence[Value], attrs: Attrs, type: TensorType) -> bool:
    if not inputs or inputs[0].type != type:
        return False
    if op in ("reshape", "expand", "cast"):
        return True
    if op == "transpose":
        return tuple(attrs["perm"]) == tuple(range(type.rank))
    if op == "slice":
        return all(step == 1 for step in attrs["steps"])
    if op == "concat":
        return len(inputs) == 1
    if op == "pad":
        return not any((*attrs["before"], *attrs["after"]))
    return op.startswith("reduce_") and not attrs["axes"]


def _fold(op: str, constants: Sequence[Constant], attrs: Attrs, type: TensorType) -> Constant | None:
    row = OPS[op]
    if constants and all(constant.splat is not None for constant in constants):
        scalars = [np.asarray(c.splat, dtype=numpy_dtype(c.type.dtype)) for c in constants]
        if op in _MOVES:
            return Constant.full(type, scalars[0])
        if row.kind is Kind.ELEMENTWISE and op != "batch_norm":  # whose parameters belong to an axis
            return Constant.full(type, row.evaluate(scalars, attrs)[0])
    if is_kept(op, [constant.type for constant in constants]):
        return None
    if type.size <= FOLD_ELEMENTS or any(constant.type.size == 0 for constant in constants):
        return Constant.of(row.evaluate([constant.numpy() for constant in constants], attrs)[0])
    if op in _DEFERRED:
        (constant,) = constants
        label = f"{constant.label}.{op}"  # its own: the constant may be read as it is, too
        return constant.derive(type, functools.partial(_evaluate_one, op, attrs), label, (op, *sorted(attrs.items())))
    return None


def _evaluate_one(op: str, attrs: Attrs, array: np.ndarray) -> np.ndarray:
    return OPS[op].evaluate([array], attrs)[0]


def scalar_of(value: Value) -> Any | None:
    """The one element of a constant that repeats it, as a Python number, else None."""
    if value.constant is None or value.constant.splat is None:
        return None
    return np.asarray(value.constant.splat).astype(object).item()
