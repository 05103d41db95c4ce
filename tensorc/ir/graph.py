"""The graph: typed values in static single assignment, nodes in topological order.

A `Graph` owns its nodes; a `Value` is defined once, by a node, as a graph input or as a constant, and knows
its users. A node may hold graphs: a fused group has a body, which computes what the group does, a node of control flow
has regions, which are graphs to be compiled like the one around them.
Passes mutate graphs through the few methods here, which keep users and producers in step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tensorc.errors import IRError
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.table import OPS, Attrs, Signature
from tensorc.ir.types import SHORT_NAMES, TensorType, numpy_dtype


class Constant:
    """The data of a constant value, by reference.

    `load` gives the array when it is asked for and is not cached here: weights stay where they are (a mapped
    file, a protobuf) until the moment they are packed into the artifact. Constants of one `origin`, whenever they are
    made of a model, hold the same; None says that nothing is known.
    """

    __slots__ = ("label", "load", "origin", "splat", "type")

    def __init__(self, type: TensorType, load: Callable[[], np.ndarray], label: str = "", splat: Any = None,
                 origin: Hashable = None):  # fmt: skip
        self.type = type
        self.origin = origin
        self.load = load
        self.label = label
        self.splat = splat

    @staticmethod
    def of(array: np.ndarray | Sequence[Any] | float, dtype: str | None = None, label: str = "") -> Constant:
        """An in-memory constant. An array of one repeated element (strides 0) stays that small."""
        data = np.asarray(array, dtype=numpy_dtype(dtype) if dtype else None)
        name = "string" if data.dtype == object else data.dtype.name
        if name not in SHORT_NAMES:
            raise IRError(f"a constant cannot hold {name}")
        splat = None
        if data.size and (data.size == 1 or not any(data.strides)):
            splat = data.reshape(-1)[0] if data.size == 1 else data[(0,) * data.ndim]
        return Constant(TensorType(name, data.shape), lambda: data, label, splat)

    @staticmethod
    def full(type: TensorType, value: Any, label: str = "") -> Constant:
        scalar = np.asarray(value, dtype=numpy_dtype(type.dtype))
        return Constant.of(np.broadcast_to(scalar, static_shape(type.shape)), label=label)

    def derive(self, type: TensorType, change: Callable[[np.ndarray], np.ndarray], label: str = "",
               how: Hashable = None) -> Constant:  # fmt: skip
        """A constant computed from this one when it is loaded. `how`, if it is given, tells all that `change` does."""
        origin = None if self.origin is None or how is None else (self.origin, how)
        return Constant(type, lambda: change(self.load()), label or self.label, origin=origin)

    def numpy(self) -> np.ndarray:
        array = self.load()
        if array.shape != self.type.shape or array.dtype != numpy_dtype(self.type.dtype):
            raise IRError(f"constant {self.label!r} is {array.dtype.name}{array.shape}, its type says {self.type}")
        return array


class Value:
    """One SSA value. `users` holds a node once for each input that reads this value."""

    __slots__ = ("constant", "name", "producer", "type", "users")

    def __init__(self, name: str, type: TensorType, producer: Node | None = None, constant: Constant | None = None):
        self.name = name
        self.type = type
        self.producer = producer
        self.constant = constant
        self.users: list[Node] = []

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operation. Inputs are changed through `set_input` and `Graph.replace`, which keep users in step."""

    __slots__ = ("_inputs", "attrs", "body", "op", "outputs", "regions")

    def __init__(self, op: str, inputs: Sequence[Value], attrs: Attrs, body: Graph | None = None,
                 regions: Sequence[Graph] = ()):  # fmt: skip
        self.op = op
        self.attrs = dict(attrs)
        self.body = body
        self.regions = tuple(regions)
        self.outputs: tuple[Value, ...] = ()
        self._inputs: tuple[Value, ...] = ()
        self.inputs = tuple(inputs)

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self._inputs

    @inputs.setter
    def inputs(self, values: Sequence[Value]) -> None:
        for old in self._inputs:
            old.users.remove(self)
        self._inputs = tuple(values)
        for new in self._inputs:
            new.users.append(self)

    def set_input(self, index: int, value: Value) -> None:
        self.inputs = (*self._inputs[:index], value, *self._inputs[index + 1 :])

    @property
    def output(self) -> Value:
        """The output of a node that has exactly one."""
        (only,) = self.outputs
        return only

    def __repr__(self) -> str:
        return f"{', '.join(map(repr, self.outputs))} = {self.op}({', '.join('%' + v.name for v in self.inputs)})"


class Graph:
    """Nodes in topological order, between typed inputs and outputs."""

    def __init__(self, name: str = "main"):
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        #: What the caller calls the inputs and the outputs, where that is known.
        self.labels: tuple[Sequence[str], Sequence[str]] | None = None
        self._names: dict[str, int] = {}

    # Building -------------------------------------------------------------------------------------------

    def unique_name(self, hint: str) -> str:
        """`hint`, made a legal identifier that no other value of this graph bears."""
        legal = "".join(ch if ch.isalnum() or ch in "_./-" else "_" for ch in hint) or "v"
        count = self._names.get(legal)
        self._names[legal] = (count or 0) + 1
        return legal if count is None else self.unique_name(f"{legal}.{count}")

    def add_input(self, name: str, type: TensorType) -> Value:
        value = Value(self.unique_name(name), type)
        self.inputs.append(value)
        return value

    def add_constant(self, constant: Constant, name: str = "c") -> Value:
        return Value(self.unique_name(name), constant.type, constant=constant)

    def constant(self, array: Any, dtype: str | None = None, name: str = "c") -> Value:
        return self.add_constant(Constant.of(array, dtype), name)

    def make(self, op: str, inputs: Sequence[Value], attrs: Attrs | None = None, body: Graph | None = None,
             name: str = "v", regions: Sequence[Graph] = ()) -> Node:  # fmt: skip
        """A node with its outputs typed by the op table, not yet placed in the graph."""
        row = OPS.get(op)
        if row is None:
            raise IRError(f"unknown op {op!r}")
        row.check_arity(len(inputs))
        node = Node(op, inputs, row.complete(attrs or {}), body, regions)
        node.outputs = tuple(Value(self.unique_name(name), type, node) for type in result_types(node))
        return node

    def add(self, op: str, inputs: Sequence[Value], attrs: Attrs | None = None, body: Graph | None = None,
            name: str = "v") -> Value:  # fmt: skip
        """Append a node with one output and return that output."""
        node = self.make(op, inputs, attrs, body, name)
        self.nodes.append(node)
        return node.output

    # Changing -------------------------------------------------------------------------------------------

    def replace(self, old: Value, new: Value) -> None:
        """Every use of `old`, the graph's outputs included, reads `new` instead."""
        if old is new:
            return
        if old.type != new.type:
            raise IRError(f"cannot replace {old!r} by {new!r}: the types differ")
        for user in dict.fromkeys(old.users):
            user.inputs = tuple(new if value is old else value for value in user.inputs)
        self.outputs = [new if value is old else value for value in self.outputs]

    def remove_dead(self) -> bool:
        """Drop the nodes whose results nobody reads; True if any was."""
        live_outputs = set(map(id, self.outputs))
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if any(out.users or id(out) in live_outputs for out in node.outputs):
                kept.append(node)
            else:
                node.inputs = ()
        changed = len(kept) != len(self.nodes)
        self.nodes = kept[::-1]
        return changed

    def sort(self) -> None:
        """Put the nodes in topological order again, keeping today's order where it is free to."""
        position = {id(node): index for index, node in enumerate(self.nodes)}
        done: set[int] = set()
        ordered: list[Node] = []
        for root in self.nodes:
            stack = [root]
            while stack:
                node = stack[-1]
                if id(node) in done:
                    stack.pop()
                    continue
                waiting = [
                    value.producer for value in node.inputs
                    if value.producer is not None and id(value.producer) not in done and id(value.producer) in position
                ]  # fmt: skip
                if waiting:
                    stack.extend(sorted(waiting, key=lambda n: -position[id(n)]))
                else:
                    done.add(id(node))
                    ordered.append(node)
                    stack.pop()
        self.nodes = ordered

    # Reading --------------------------------------------------------------------------------------------

    def constants(self) -> list[Value]:
        """The constants that are read, in the order of first use."""
        found: dict[int, Value] = {}
        for value in self._read_values():
            if value.constant is not None:
                found.setdefault(id(value), value)
        return list(found.values())

    def _read_values(self) -> Iterator[Value]:
        for node in self.nodes:
            yield from node.inputs
        yield from self.outputs

    def values(self) -> Iterable[Value]:
        """Inputs, then every node's outputs, in order."""
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs

    def __str__(self) -> str:
        from tensorc.ir.text import print_graph

        return print_graph(self)


def result_types(node: Node) -> list[TensorType]:
    """The types of a node's outputs, as its inputs, attributes and graphs make them. Raises as type rules do."""
    row, types = OPS[node.op], [value.type for value in node.inputs]
    if node.body is not None:
        return [value.type for value in node.body.outputs]
    if len(node.regions) != row.regions:
        raise IRError(f"{node.op} has {row.regions} regions, not {len(node.regions)}")
    return list(row.infer(types, node.attrs, signatures(node)) if row.regions else row.infer(types, node.attrs))


def signatures(node: Node) -> list[Signature]:
    """The types that each region takes and gives."""
    return [([v.type for v in region.inputs], [v.type for v in region.outputs]) for region in node.regions]


def nested(graph: Graph) -> Iterator[Graph]:
    """`graph`, then the regions of its nodes as they are when it is their turn, and theirs."""
    yield graph
    for node in graph.nodes:
        for region in node.regions:
            yield from nested(region)


def clone(graph: Graph, bindings: Mapping[Value, Value] | None = None) -> Graph:
    """A copy of `graph`; the constants' data are shared."""
    copy = Graph(graph.name)
    copy.labels = graph.labels
    known: dict[int, Value] = {id(old): new for old, new in (bindings or {}).items()}
    for value in graph.inputs:
        known[id(value)] = copy.add_input(value.name, value.type)

    def mapped(value: Value) -> Value:
        if id(value) not in known:
            if value.constant is None:
                raise IRError(f"%{value.name} is used before it is defined")
            known[id(value)] = copy.add_constant(value.constant, value.name)
        return known[id(value)]

    for node in graph.nodes:
        body = clone(node.body) if node.body is not None else None
        regions = [clone(region) for region in node.regions]
        new = Node(node.op, [mapped(v) for v in node.inputs], node.attrs, body, regions)
        new.outputs = tuple(Value(copy.unique_name(v.name), v.type, new) for v in node.outputs)
        known.update((id(old), out) for old, out in zip(node.outputs, new.outputs, strict=True))
        copy.nodes.append(new)
    copy.outputs = [mapped(v) for v in graph.outputs]
    return copy
