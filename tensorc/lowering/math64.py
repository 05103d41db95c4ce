"""Transcendental functions of float64: the C library's, an element at a time.

They are as exact as that library, which is to about one unit in the last place, and slow beside the float32 functions
of `math`. Models rarely hold float64.
"""

from __future__ import annotations

from collections.abc import Callable

from tensorc.lowering.tir import Expr, compare, const, library, select


class Math64:
    """`apply(name, ...)` for the functions of `math.Math`, by the same names."""

    def __init__(self, keep: Callable[[Expr], Expr]):
        self._keep = keep

    def apply(self, function: str, *arguments: Expr) -> Expr:
        if function == "sigmoid":
            return self._sigmoid(*arguments)
        return self._keep(library(function, *map(self._keep, arguments)))

    def _sigmoid(self, x: Expr) -> Expr:
        """With an exponential of a negative number only: exact on both sides."""
        x = self._keep(x)
        zero, one = const(0, "float64"), const(1, "float64")
        above = compare("greater_equal", x, zero)
        power = self.apply("exp", select(above, zero - x, x))
        return select(above, one, power) / (one + power)
