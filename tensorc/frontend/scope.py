"""What a name of an ONNX graph stands for while the graph is translated.

Sequences and optionals are no values of the IR: which tensors they hold is known when a stage is translated, so that
the operators on them only choose among values and leave nothing to be computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorc.dynamic.kinds import Binding, Kind, SequenceKind, item_name
from tensorc.ir.graph import Constant, Graph, Value
from tensorc.ir.types import TensorType


@dataclass(frozen=True)
class SequenceDatum:
    """`dtype` is that of its tensors, "" when nobody said."""

    items: tuple[Datum, ...]
    dtype: str = ""


class Absent:
    """An optional that holds nothing."""


ABSENT = Absent()

Datum = Value | SequenceDatum | Absent


@dataclass(frozen=True)
class OnHost:
    """What a rule gives for an operator that is done between stages, by `tensorc.dynamic.host`; all outputs are its."""

    op: str
    inputs: Sequence[Datum | None]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Leaf:
    """A tensor that is there when the model runs, under this name."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Kept:
    """A sequence, from one stage to the next."""

    items: tuple[Bound, ...]
    dtype: str


#: What is known of a name between stages.
Bound = Leaf | Constant | Kept | Absent


def bound_of(name: str, kind: Kind) -> Bound:
    """What `name` stands for when data of this kind are given for it."""
    if kind is None:
        return ABSENT
    if isinstance(kind, SequenceKind):
        items = tuple(bound_of(item_name(name, number), item) for number, item in enumerate(kind.items))
        return Kept(items, kind.dtype)
    return Leaf(name, kind)


def entered(bound: Bound, graph: Graph, inputs: dict[str, Value]) -> Datum:
    """The datum in a stage's graph. Tensors that are there become inputs of the graph, once each."""
    if isinstance(bound, Absent):
        return bound
    if isinstance(bound, Kept):
        return SequenceDatum(tuple(entered(item, graph, inputs) for item in bound.items), bound.dtype)
    if isinstance(bound, Constant):
        return graph.add_constant(bound, bound.label or "c")
    if bound.name not in inputs:
        inputs[bound.name] = graph.add_input(bound.name, bound.type)
    return inputs[bound.name]


class Exits:
    """The values that leave a stage's graph, each under one name."""

    def __init__(self, inputs: Mapping[str, Value]):
        self.names: dict[Value, str] = {value: name for name, value in inputs.items()}
        self.outputs: dict[Value, str] = {}

    def kept(self, name: str, datum: Datum) -> Bound:
        """For later stages: constants stay what they are."""
        if isinstance(datum, Absent):
            return datum
        if isinstance(datum, SequenceDatum):
            items = (self.kept(item_name(name, number), item) for number, item in enumerate(datum.items))
            return Kept(tuple(items), datum.dtype)
        if datum.constant is not None:
            return datum.constant
        return Leaf(self._exit(name, datum), datum.type)

    def binding(self, name: str, datum: Datum | None) -> Binding:
        """For the run itself."""
        if datum is None or isinstance(datum, Absent):
            return Binding()
        if isinstance(datum, SequenceDatum):
            return Binding(items=[self.binding(item_name(name, number), d) for number, d in enumerate(datum.items)])
        if datum.constant is not None and datum.dtype == "string":
            return Binding(literal=datum.constant.numpy())
        return Binding(self._exit(name, datum))

    def _exit(self, name: str, value: Value) -> str:
        if value not in self.names:
            self.names[value] = self.outputs[value] = name
        return self.names[value]
