"""Wide moves: what a thread's vector loop loads and stores in memory, several neighbouring elements at once.

A GPU's thread moves up to 16 bytes by one instruction, and its compiler does not find such moves by itself: it would
have to know how pointers and offsets are aligned. Here a loop over neighbouring elements is taken apart: loads go
before it, from memory to an array of the thread's own, and stores behind it. Moved is what surely happens, at an index
that is the lane added to something that does not change with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tvm import ir, sym
from tvm import tirx as T  # noqa: N812  (as in `tir`)
from tvm_ffi import structural_map, structural_walk

from tensorc.lowering.tir import Buffer, Expr, _bytes, _index

#: Bytes that one instruction moves at most.
WIDEST = 16


def widen(statements: Sequence[Any], lane: Any, lanes: int, analyzer: sym.Analyzer, memory: Collection[str],
          declare: Callable[[str, int], Buffer]) -> tuple[list[Any], list[Any], list[Any]]:  # fmt: skip
    """The statements of a loop of `lane` over `lanes` as those before it, in it and behind it.

    `memory` has the names of the buffers whose first element is at a multiple of `WIDEST` bytes; `declare` makes an
    array of the thread's own. The device has functions `tc_load<N>(to, from)` and `tc_store<N>(to, from)`.
    """
    if any(isinstance(statement, T.Evaluate) for statement in statements):  # calls may write anything
        return [], list(statements), []
    return _Widening(statements, lane, lanes, analyzer, memory, declare).parts()


class _Widening:
    def __init__(self, statements: Sequence[Any], lane: Any, lanes: int, analyzer: sym.Analyzer,
                 memory: Collection[str], declare: Callable[[str, int], Buffer]):  # fmt: skip
        self.statements = statements
        self.lane, self.lanes = lane, lanes
        self.analyzer = analyzer
        self.memory = memory
        self.declare = declare
        self.written = _buffers(statements, T.BufferStore)
        self.read = _buffers(statements, ir.TensorLoad)
        #: Names of the variables that are another in each step, or are not known before the loop.
        self.changing = {str(lane.name)}
        self.before: list[Any] = []
        self.after: list[Any] = []
        self.staged: list[tuple[str, Expr, Buffer]] = []

    def parts(self) -> tuple[list[Any], list[Any], list[Any]]:
        inside = [moved for statement in self.statements for moved in self._moved(statement)]
        return self.before, inside, self.after

    def _moved(self, statement: Any) -> Iterator[Any]:
        """What is left of a statement in the loop."""
        if isinstance(statement, T.Bind):
            if self._is_constant(statement.value):
                self.before.append(statement)
                return
            self.changing.add(str(statement.var.name))
            yield T.Bind(statement.var, self._loaded(statement.value))
        elif isinstance(statement, T.BufferStore):
            yield self._stored(statement)
        else:
            yield statement

    def _loaded(self, expression: Expr) -> Expr:
        """With the loads that can be moved."""
        return structural_map(expression, (ir.TensorLoad, self._load))

    def _load(self, load: Any) -> Expr:
        name = _buffer(load)
        if name not in self.memory or name in self.written:
            return load
        base, together = self._run(load, str(load.source.dtype))
        if together < 2:
            return load
        for other, at, stage in self.staged:
            if other == name and self.analyzer.can_prove_equal(at, base):
                return T.BufferLoad(stage, [self.lane])
        stage = self._stage(load.source)
        self.staged.append((name, base, stage))
        self.before += self._move("tc_load", stage, 0, load.source, base, together)
        return T.BufferLoad(stage, [self.lane])

    def _stored(self, store: Any) -> Any:
        name = str(store.buffer.name)
        value = self._loaded(store.value)
        once = self.written.count(name) == 1 and name not in self.read
        base, together = self._run(store, str(store.buffer.dtype)) if name in self.memory and once else (0, 1)
        if together < 2:
            return T.BufferStore(store.buffer, value, [self._loaded(store.indices[0])])
        stage = self._stage(store.buffer)
        self.after += self._move("tc_store", store.buffer, base, stage, 0, together)
        return T.BufferStore(stage, value, [self.lane])

    def _stage(self, buffer: Buffer) -> Buffer:
        stage = self.declare(str(buffer.dtype), self.lanes)
        self.before.insert(0, T.AllocBuffer(stage))
        return stage

    def _move(self, name: str, to: Buffer, to_base: Expr, source: Buffer, base: Expr, together: int) -> Iterator[Any]:
        for first in range(0, self.lanes, together):
            places = [T.address_of(T.BufferLoad(buffer, [_index(at + first)])) for buffer, at in
                      ((to, to_base), (source, base))]  # fmt: skip
            yield T.Evaluate(T.call_extern("void", f"{name}<{together}>", *places))

    def _run(self, access: Any, dtype: str) -> tuple[Expr, int]:
        """Where the loop's elements of an access begin, and how many of them can be moved at once."""
        index = self.analyzer.simplify(access.indices[0])
        found = sym.detect_linear_equation(index, [self.lane])
        if not found or not isinstance(found[0], T.IntImm) or int(found[0]) != 1 or not self._is_constant(found[1]):
            return 0, 1
        steps = self.analyzer.modular_set(found[1])
        most = WIDEST // _bytes(dtype)
        return found[1], math.gcd(int(steps.coeff), int(steps.base), self.lanes, most)

    def _is_constant(self, expression: Expr) -> bool:
        """Whether it is the same in all steps of the loop, and known before."""
        found: list[str] = []

        def variable(node: Any) -> None:  # buffers are variables too
            found.append(str(node.name))

        structural_walk(expression, (T.Var, variable))
        return self.changing.isdisjoint(found) and set(self.written).isdisjoint(found)


def _buffers(statements: Sequence[Any], kind: Any) -> list[str]:
    """The names of the buffers of all accesses of one kind."""
    names: list[str] = []

    def access(node: Any) -> None:
        names.append(_buffer(node))

    for statement in statements:
        structural_walk(statement, (kind, access))
    return names


def _buffer(access: Any) -> str:
    return str((access.source if isinstance(access, ir.TensorLoad) else access.buffer).name)


def learn(analyzer: sym.Analyzer, variable: Any, value: Expr) -> None:
    """Tell `analyzer` what an index is, if that is computed from other indices alone."""
    loads: list[Any] = []
    structural_walk(value, [(ir.TensorLoad, loads.append), (ir.Call, loads.append)])
    if not loads and str(variable.ty.dtype).startswith("int"):
        analyzer.bind(variable, value)
