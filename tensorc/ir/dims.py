"""Dimensions: an int, or a symbolic expression in its canonical text form.

A symbolic dimension is a string such as ``"batch"`` or ``"4*seq + 1"``. Keeping the text as the value makes
types hashable, printable and comparable without a second class; arithmetic on it goes through sympy, which
is imported only when a symbol is met, so that static models never pay for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

Dim = int | str
Shape = tuple[Dim, ...]

_EXPRESSION = re.compile(r"[\w\s+*/(),-]+")


def _symbolic(dim: Dim) -> Any:
    import sympy

    if isinstance(dim, int):
        return sympy.Integer(dim)
    if not _EXPRESSION.fullmatch(dim):  # sympify evaluates what it is given
        raise ValueError(f"{dim!r} is no expression of dimensions")
    names = {name: sympy.Symbol(name, integer=True, positive=True) for name in symbols_of((dim,))}
    return sympy.sympify(dim, locals=names)


def _canonical(expression: Any) -> Dim:
    import sympy

    simple = sympy.simplify(expression)
    return int(simple) if simple.is_Integer else str(simple)


def symbols_of(shape: Iterable[Dim]) -> set[str]:
    """Names of the free symbols in `shape`."""
    found: set[str] = set()
    for dim in shape:
        if isinstance(dim, str):
            found.update(re.findall(r"[A-Za-z_]\w*", dim))
    return found - {"floor", "ceiling", "Max", "Min"}


def add(a: Dim, b: Dim) -> Dim:
    return a + b if isinstance(a, int) and isinstance(b, int) else _canonical(_symbolic(a) + _symbolic(b))


def sub(a: Dim, b: Dim) -> Dim:
    return a - b if isinstance(a, int) and isinstance(b, int) else _canonical(_symbolic(a) - _symbolic(b))


def mul(a: Dim, b: Dim) -> Dim:
    return a * b if isinstance(a, int) and isinstance(b, int) else _canonical(_symbolic(a) * _symbolic(b))


def floordiv(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    import sympy

    return _canonical(sympy.floor(_symbolic(a) / _symbolic(b)))


def ceildiv(a: Dim, b: Dim) -> Dim:
    return -(-a // b) if isinstance(a, int) and isinstance(b, int) else floordiv(add(a, sub(b, 1)), b)


def product(shape: Iterable[Dim]) -> Dim:
    result: Dim = 1
    for dim in shape:
        result = mul(result, dim)
    return result


def substitute(dim: Dim, values: Mapping[str, int]) -> Dim:
    """`dim` with the symbols in `values` replaced."""
    if isinstance(dim, int):
        return dim
    import sympy

    bound = {sympy.Symbol(name, integer=True, positive=True): value for name, value in values.items()}
    return _canonical(_symbolic(dim).subs(bound))


def is_static(shape: Iterable[Dim]) -> bool:
    return all(isinstance(dim, int) for dim in shape)


def static_shape(shape: Iterable[Dim]) -> tuple[int, ...]:
    """`shape` as ints; raises TypeError when a dimension is symbolic."""
    result: list[int] = []
    for dim in shape:
        if not isinstance(dim, int):
            raise TypeError(f"dimension {dim!r} is symbolic where a number is needed")
        result.append(dim)
    return tuple(result)


def element_count(shape: Iterable[Dim]) -> int:
    """Number of elements of a static shape."""
    return math.prod(static_shape(shape))


def broadcast(*shapes: Shape) -> Shape:
    """Shape that numpy's broadcasting gives; raises ValueError when two dimensions disagree."""
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        dim: Dim = 1
        for shape in shapes:
            index = axis - (rank - len(shape))
            if index < 0 or shape[index] == 1:
                continue
            if dim == 1:
                dim = shape[index]
            elif dim != shape[index]:
                raise ValueError(f"shapes {', '.join(map(format_shape, shapes))} do not broadcast")
        result.append(dim)
    return tuple(result)


def format_shape(shape: Iterable[Dim]) -> str:
    return "[" + ",".join(str(dim).replace(" ", "") for dim in shape) + "]"
