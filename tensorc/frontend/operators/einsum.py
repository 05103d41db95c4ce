"""Einsum: repeated indices become diagonals, then operands are contracted one after the other by matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir import dims
from tensorc.ir.graph import Value
from tensorc.ir.types import is_float


@dataclass(frozen=True)
class _Operand:
    """A value whose axes have distinct names: letters, and numbers for the axes of an ellipsis."""

    value: Value
    names: tuple[str, ...]


@operator("Einsum")
def _einsum(call: Call) -> Value:
    terms, result = _parse(call.required("equation"), [len(value.shape) for value in call.all_inputs()])
    extents: dict[str, int] = {}
    for value, names in zip(call.all_inputs(), terms, strict=True):
        for name, extent in zip(names, shape_of(value), strict=True):
            (extents[name],) = dims.static_shape(dims.broadcast((extents.get(name, 1),), (extent,)))
    operands = [_diagonal(call, value, names) for value, names in zip(call.all_inputs(), terms, strict=True)]
    merged, *rest = operands
    for number, other in enumerate(rest, 1):
        needed = {*result, *(name for later in operands[number + 1 :] for name in later.names)}
        merged = _contract(call, merged, other, needed)
    merged = _summed(call, merged, set(result))
    value = _ordered(call, merged, [name for name in result if name in merged.names])
    at = [extents[name] if name in merged.names else 1 for name in result]
    return call("expand", call.reshape(value, at), shape=tuple(extents[name] for name in result))


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """The names of the axes of each operand and of the result. The axes of an ellipsis are named from the end."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"the equation {equation!r} has {len(terms)} terms for {len(ranks)} inputs")
    named = []
    widest = 0
    for term, rank in zip(terms, ranks, strict=True):
        before, dots, after = term.partition("...")
        count = rank - len(before) - len(after)
        if not all(c.isascii() and c.isalpha() for c in before + after) or count < 0 or (count and not dots):
            raise ValueError(f"the term {term!r} of the equation {equation!r} does not fit {rank} axes")
        widest = max(widest, count)
        named.append((*before, *(str(i) for i in range(count - 1, -1, -1)), *after))
    ellipsis = tuple(str(i) for i in range(widest - 1, -1, -1))
    if arrow:
        before, dots, after = right.partition("...")
        result = (*before, *(ellipsis if dots else ()), *after)
    else:
        letters = [name for names in named for name in names if name.isalpha()]
        result = (*ellipsis, *sorted(name for name in set(letters) if letters.count(name) == 1))
    if len(set(result)) != len(result) or any(all(name not in names for names in named) for name in result):
        raise ValueError(f"the result {right!r} of the equation {equation!r} repeats an index or has a new one")
    return named, result


def _diagonal(call: Call, value: Value, names: tuple[str, ...]) -> _Operand:
    """Axes of one name become one: laid side by side and merged, every (n + 1)-th element is on the diagonal."""
    for name in names:
        while names.count(name) > 1:
            first = names.index(name)
            second = names.index(name, first + 1)
            rest = [i for i in range(len(names)) if i not in (first, second)]
            extent = shape_of(value)[first]
            if shape_of(value)[second] != extent:
                raise ValueError(f"the index {name!r} stands for different extents of {value.type}")
            value = call("transpose", value, perm=(*rest, first, second))
            *lead, _, _ = shape_of(value)
            value = call.reshape(value, (*lead, extent * extent))
            value = call("slice", value, starts=(0,) * (len(lead) + 1), sizes=(*lead, extent),
                         steps=(*(1,) * len(lead), extent + 1))  # fmt: skip
            names = (*(names[i] for i in rest), name)
    return _Operand(value, names)


def _summed(call: Call, operand: _Operand, kept: set[str]) -> _Operand:
    axes = tuple(i for i, name in enumerate(operand.names) if name not in kept)
    value = call("reduce_sum", operand.value, axes=axes, keepdims=0)
    return _Operand(value, tuple(name for name in operand.names if name in kept))


def _ordered(call: Call, operand: _Operand, names: Sequence[str]) -> Value:
    return call("transpose", operand.value, perm=tuple(operand.names.index(name) for name in names))


def _contract(call: Call, a: _Operand, b: _Operand, needed: set[str]) -> _Operand:
    """The product of two operands, summed over what nobody needs any more."""
    a, b = _summed(call, a, needed | set(b.names)), _summed(call, b, needed | set(a.names))
    extents = dict(zip(a.names, shape_of(a.value), strict=True))
    shared = [name for name in a.names if name in b.names]
    # An axis of 1 against a longer one is broadcast: it is no axis of its operand then.
    if any(extents[name] != shape_of(b.value)[b.names.index(name)] for name in shared):
        a, b = _without_ones(call, a, b), _without_ones(call, b, a)
        return _contract(call, a, b, needed)
    summed = [name for name in shared if name not in needed]
    batch = [name for name in shared if name in needed]
    rows = [name for name in a.names if name not in shared]
    columns = [name for name in b.names if name not in shared]
    if not (summed and is_float(a.value.dtype)):
        return _multiplied(call, a, b, [*batch, *rows, *columns, *summed], needed)
    extents |= zip(b.names, shape_of(b.value), strict=True)

    def size(names: Sequence[str]) -> int:
        return math.prod(extents[name] for name in names)

    left = call.reshape(_ordered(call, a, [*batch, *rows, *summed]), (size(batch), size(rows), size(summed)))
    right = call.reshape(_ordered(call, b, [*batch, *summed, *columns]), (size(batch), size(summed), size(columns)))
    if not batch:
        left, right = (call.reshape(value, shape_of(value)[1:]) for value in (left, right))
    names = (*batch, *rows, *columns)
    return _Operand(call.reshape(call("matmul", left, right), [extents[name] for name in names]), names)


def _without_ones(call: Call, a: _Operand, b: _Operand) -> _Operand:
    """`a` without its axes of 1 that `b` has longer."""
    longer = {name for name, extent in zip(b.names, shape_of(b.value), strict=True) if extent != 1}
    kept = [i for i, name in enumerate(a.names) if a.value.shape[i] != 1 or name not in longer]
    return _Operand(call.reshape(a.value, [shape_of(a.value)[i] for i in kept]), tuple(a.names[i] for i in kept))


def _multiplied(call: Call, a: _Operand, b: _Operand, names: Sequence[str], needed: set[str]) -> _Operand:
    """Element by element: where nothing is summed, or the type has no matrix product."""
    parts = []
    for operand in (a, b):
        value = _ordered(call, operand, [name for name in names if name in operand.names])
        extents = dict(zip(operand.names, shape_of(operand.value), strict=True))
        parts.append(call.reshape(value, [extents.get(name, 1) for name in names]))
    return _summed(call, _Operand(call("mul", *parts), tuple(names)), needed)
