"""Lower precision: what a model has most of is kept in 16 bits; sums, and all that is computed, stay in float32.

The constant weights of products and the tables that rows are gathered from become bfloat16 or float16, which kernels
widen as they read. With `inputs` the left operands of products are rounded too, once, where they are made: for
machines that multiply pairs of bfloat16. On others that costs time: MobileNetV2, ResNet-50 and BERT-base took 1.1 to
1.3 times as long with inputs in bfloat16 as in float32 (an AVX-512 core without AVX512-BF16, 21 November 2026).

Inputs and outputs of the graph keep their types. The graph is in canonical form.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from passes.rules.matching import is_output, private
from tensorc.errors import TensorcWarning
from tensorc.ir.graph import Constant, Graph, Node, Value
from tensorc.ir.types import TensorType, numpy_dtype
from tensorc.pipeline import Pass

#: Weights are taken for such from this many elements on: fewer are not worth a conversion.
_LEAST = 256
_MOVES = frozenset({"reshape", "transpose"})
#: Images of fewer channels do not have them side by side.
_CHANNELS = 16


@dataclass(frozen=True)
class LowerPrecision(Pass):
    """To `dtype`, bfloat16 or float16. Weights that have no finite number in it stay, and a warning names them."""

    name: ClassVar[str] = "precision"
    dtype: str
    inputs: bool = False

    def run(self, graph: Graph) -> bool:
        narrow: dict[Value, Value | None] = {}
        products = [node for node in graph.nodes if node.op in ("conv", "matmul") and _has_weights(node)]
        tables = [node for node in graph.nodes if node.op == "gather" and _is_weights(node.inputs[0])]
        for value in (*(node.inputs[1] for node in products), *(node.inputs[0] for node in tables)):
            if value not in narrow:
                narrow[value] = self._narrowed(graph, value)
        for node in products:
            lowered = narrow[node.inputs[1]]
            if lowered is not None:
                node.set_input(1, lowered)
        for node in tables:
            lowered = narrow[node.inputs[0]]
            if lowered is not None:
                rows = graph.add("gather", [lowered, node.inputs[1]], node.attrs, name=node.output.name)
                graph.replace(node.output, graph.add("cast", [rows], {"to": "float32"}, name=node.output.name))
        if self.inputs:
            lowered_products = [node for node in products if node.inputs[1].dtype == self.dtype and _has_pairs(node)]
            for x in dict.fromkeys(node.inputs[0] for node in lowered_products):
                if x.constant is None:
                    self._round(graph, x)
        changed = any(value is not None for value in narrow.values())
        if changed:
            graph.sort()
            graph.remove_dead()
        return changed

    def _narrowed(self, graph: Graph, value: Value) -> Value | None:
        assert value.constant is not None
        if self.dtype == "float16" and (beyond := _beyond(value.constant)):
            warnings.warn(
                f"%{value.name} stays in float32: {beyond} of its elements are beyond float16, which ends at 65504 "
                "(bfloat16 has them)", TensorcWarning, stacklevel=2,
            )  # fmt: skip
            return None
        dtype = numpy_dtype(self.dtype)
        constant = value.constant.derive(
            TensorType(self.dtype, value.shape), lambda data: data.astype(dtype), how=("precision", self.dtype)
        )
        return graph.add_constant(constant, f"{value.name}.{self.dtype}")

    def _round(self, graph: Graph, x: Value) -> None:
        """Let all who read `x` read what `dtype` has of it, so that it lies in memory once."""
        users = list(dict.fromkeys(x.users))
        source, moves = x, []
        while (
            source.producer is not None and source.producer.op in _MOVES and private(source.producer.inputs[0], graph)
        ):
            moves.append(source.producer)
            source = source.producer.inputs[0]
        rounded = graph.add("cast", [source], {"to": self.dtype}, name=f"{x.name}.{self.dtype}")
        for move in reversed(moves):  # where it is computed, not where it is moved afterwards
            rounded = graph.add(move.op, [rounded], move.attrs, name=f"{x.name}.{self.dtype}")
        wide = graph.add("cast", [rounded], {"to": "float32"}, name=x.name)
        for user in users:
            user.inputs = tuple(wide if value is x else value for value in user.inputs)
        assert not is_output(wide, graph)


def _is_weights(value: Value) -> bool:
    constant = value.constant
    return constant is not None and value.dtype == "float32" and constant.splat is None and constant.type.size >= _LEAST


def _has_weights(node: Node) -> bool:
    """Those of a matrix product are one matrix, which kernels read packed. Those of depthwise convolutions are few, and
    widened for a few products each: they would only take time."""
    weights = node.inputs[1]
    if not _is_weights(weights):
        return False
    return weights.type.rank == 2 if node.op == "matmul" else node.attrs["groups"] == 1 or weights.shape[1] > 1


def _has_pairs(node: Node) -> bool:
    """Whether neighbours in memory are multiplied by neighbours."""
    x = node.inputs[0]
    return bool(x.shape[1] >= _CHANNELS if node.op == "conv" else x.shape[-1] % 2 == 0)


def _beyond(constant: Constant) -> int:
    """How many finite numbers float16 has no finite one for."""
    data = constant.numpy()
    with np.errstate(over="ignore"):
        return int((np.isfinite(data) & ~np.isfinite(data.astype(np.float16))).sum())


@dataclass(frozen=True)
class WidenApart(Pass):
    """Each reader of a value in 16 bits has a conversion to float32 of its own, which its kernel does as it reads."""

    name: ClassVar[str] = "widen-apart"

    def run(self, graph: Graph) -> bool:
        changed = False
        for node in [node for node in graph.nodes if widens(node)]:
            wide = node.output
            for user in list(dict.fromkeys(wide.users))[1:]:
                own = graph.add("cast", node.inputs, node.attrs, name=wide.name)
                user.inputs = tuple(own if value is wide else value for value in user.inputs)
                changed = True
        if changed:
            graph.sort()
        return changed


def widens(node: Node) -> bool:
    """An exact conversion of 16 bits to float32: to read one instead of the other costs next to nothing."""
    return node.op == "cast" and node.inputs[0].dtype in ("bfloat16", "float16") and node.output.dtype == "float32"
