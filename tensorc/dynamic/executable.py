"""Runs a model stage by stage, and has those compiled that it has not met before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from tensorc.dynamic.host import HOST
from tensorc.dynamic.kinds import Binding, Datum, Kind, item_name, kind_of
from tensorc.dynamic.stage import HostCall, Stage, StageSource
from tensorc.errors import UnsupportedError, UserError
from tensorc.ir.graph import Graph, clone
from tensorc.ir.interpreter import evaluate
from tensorc.profiling import Profile
from tensorc.target import Executable, Progress

#: Programs that are kept at most; the one that was used longest ago goes, and is built again if it is met again.
MOST_PROGRAMS = 64

#: Gives the first stage for inputs of these kinds, in the model's order.
Start = Callable[[Sequence[Kind]], StageSource]


class DynamicExecutable(Executable):
    """A model of several stages, or of free shapes. `declared` has each input's name and element type.

    What is specialised is kept in memory, for this object's life; `programs` counts the programs that were built.
    """

    def __init__(self, declared: Sequence[tuple[str, str]], start: Start, build: Callable[[Graph], Executable],
                 threads: int):  # fmt: skip
        self.threads = threads
        self.programs = 0
        #: How the stages so far were done: "program", "numpy" or the names of calls.
        self.ran: set[str] = set()
        self._declared = list(declared)
        self._start = start
        self._build = build
        self._first: _Nodes = OrderedDict()
        self._built: OrderedDict[_Node, None] = OrderedDict()
        #: Held while the fields are looked at or changed; while something is translated or compiled, the other.
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._closed = False

    def run(self, inputs: Sequence[Datum]) -> list[Datum]:
        data: dict[str, Datum] = {}
        kinds = tuple(kind_of(datum, dtype) for datum, (_, dtype) in zip(inputs, self._declared, strict=True))
        for (name, _), datum in zip(self._declared, inputs, strict=True):
            _enter(data, name, datum)
        given = set(data)
        node = self._found(self._first, kinds, lambda: self._start(kinds))
        while True:
            stage = node.stage
            self._run_program(node, data)
            for call in stage.calls:
                self.ran.add(call.op)
                _make(call, data)
            if stage.results is not None:
                return [_result(binding, data, given) for binding in stage.results]
            node = self._next(node, data)

    def profile(self, inputs: Sequence[Datum], seconds: float, measure_ceilings: bool, progress: Progress) -> Profile:
        """Of the program for such inputs, where it is one."""
        kinds = tuple(kind_of(datum, dtype) for datum, (_, dtype) in zip(inputs, self._declared, strict=True))
        node = self._found(self._first, kinds, lambda: self._start(kinds))
        if node.stage.results is None or node.stage.by_numpy or not node.stage.outputs:
            raise UnsupportedError("the model runs in several stages: only single programs are timed")
        data = dict(zip((name for name, _ in self._declared), inputs, strict=True))
        arrays = [data[name] for name in node.stage.inputs]
        return self._program(node).profile(arrays, seconds, measure_ceilings, progress)

    def _run_program(self, node: _Node, data: dict[str, Datum]) -> None:
        stage = node.stage
        if not stage.outputs:
            return
        arrays = [data[name] for name in stage.inputs]
        if stage.by_numpy:
            self.ran.update(["numpy"] if stage.graph.nodes else [])
            names = [value.name for value in stage.graph.inputs]
            outputs = evaluate(stage.graph, dict(zip(names, arrays, strict=True)))
        else:
            self.ran.add("program")
            outputs = self._program(node).run([np.asarray(array, order="C") for array in arrays])
        data.update(zip(stage.outputs, outputs, strict=True))

    def _program(self, node: _Node) -> Executable:
        found = self._kept(node)
        if found is None:
            with self._making:
                found = self._kept(node)
                if found is None:
                    found = self._build(node.graph())
                    self.programs += 1
                    with self._lock:
                        node.executable = found
                        while len(self._built) >= MOST_PROGRAMS:
                            oldest, _ = self._built.popitem(last=False)
                            oldest.executable = None  # whoever runs it just now still holds it
                        self._built[node] = None
        return found

    def _kept(self, node: _Node) -> Executable | None:
        with self._lock:
            if self._closed:
                raise UserError("the model is closed")
            if node in self._built:
                self._built.move_to_end(node)
            return node.executable

    def _found(self, nodes: _Nodes, key: Hashable, make: Callable[[], StageSource]) -> _Node:
        """The node of that key, translated if need be: one at a time, while others run what is there."""
        with self._lock:
            node = nodes.get(key)
        if node is None:
            with self._making:
                with self._lock:
                    node = nodes.get(key)
                node = node or _Node(make())
        with self._lock:
            nodes[key] = node
            nodes.move_to_end(key)
            if len(nodes) > MOST_PROGRAMS:
                nodes.popitem(last=False)
        return node

    def _next(self, node: _Node, data: dict[str, Datum]) -> _Node:
        stage = node.stage
        kinds = tuple(kind_of(data[name]) for call in stage.calls for name in call.outputs if name)
        values = [np.asarray(data[name]) for name in stage.demands]
        key = (kinds, tuple(_value_key(value) for value in values))
        # Copies: these values become constants of programs, and the caller may change its arrays.
        return self._found(node.children, key, lambda: node.source.next(kinds, [value.copy() for value in values]))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for node in self._built:
                node.executable = None
            self._built.clear()
            self._first.clear()


class AheadExecutable(Executable):
    """Programs that were made ahead, by the kinds of the inputs that each is for. One is loaded when it is needed."""

    def __init__(self, programs: Mapping[tuple[Kind, ...], Callable[[], Executable]], inputs: Sequence[Any],
                 threads: int):  # fmt: skip
        self.threads = threads
        self._programs = dict(programs)
        self._inputs = inputs
        self._loaded: dict[tuple[Kind, ...], Executable] = {}
        self._lock = threading.Lock()
        self._closed = False

    def run(self, inputs: Sequence[Datum]) -> list[Datum]:
        return self._program(tuple(map(kind_of, inputs))).run(inputs)

    def profile(self, inputs: Sequence[Datum], seconds: float, measure_ceilings: bool, progress: Progress) -> Profile:
        return self._program(tuple(map(kind_of, inputs))).profile(inputs, seconds, measure_ceilings, progress)

    def _program(self, kinds: tuple[Kind, ...]) -> Executable:
        found = self._loaded.get(kinds)
        if found is None:
            with self._lock:
                if self._closed:
                    raise UserError("the model is closed")
                if kinds not in self._programs:
                    given = ", ".join(f"{row['name']} {kind}" for row, kind in zip(self._inputs, kinds, strict=True))
                    legal = ", ".join(f"{row['name']} {row['shape']}" for row in self._inputs)
                    raise UserError(f"the model was not compiled for {given}; it was for {legal}")
                found = self._loaded.setdefault(kinds, self._programs[kinds]())
        return found

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for executable in self._loaded.values():
                executable.close()
            self._loaded.clear()


class _Node:
    """A stage for data of certain kinds and values, the program if there is one now, and the stages behind it."""

    def __init__(self, source: StageSource):
        self.source = source
        self.stage: Stage = source.stage
        self.executable: Executable | None = None
        self.children: _Nodes = OrderedDict()

    def graph(self) -> Graph:
        """To be compiled, which changes it."""
        return clone(self.stage.graph)


#: The stages that may follow, by what decides among them, the one that was used longest ago first.
_Nodes = OrderedDict[Hashable, _Node]


def _enter(data: dict[str, Datum], name: str, datum: Datum) -> None:
    """Under the names that the frontend gives to the tensors of a datum."""
    data[name] = datum
    if isinstance(datum, (list, tuple)):
        for number, item in enumerate(datum):
            _enter(data, item_name(name, number), item)


def _make(call: HostCall, data: dict[str, Datum]) -> None:
    inputs = [binding.read(data) for binding in call.inputs]
    try:
        made = HOST[call.op](*inputs, **call.attrs)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        first, *_ = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{call.label}: {first}") from error
    results = made if isinstance(made, tuple) else (made,)
    for name, result in zip(call.outputs, results, strict=False):
        if name:
            _enter(data, name, result)


def _result(binding: Binding, data: dict[str, Datum], given: set[str]) -> Datum:
    datum = binding.read(data)
    return np.array(datum) if binding.name in given and isinstance(datum, np.ndarray) else datum


def _value_key(value: np.ndarray) -> Hashable:
    return value.dtype.str, value.shape, value.tobytes()
