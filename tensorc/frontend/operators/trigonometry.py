"""Trigonometric and hyperbolic functions and their inverses: one IR operator each."""

from __future__ import annotations

from tensorc.frontend.registry import Rule, operator


def _unary(op: str) -> Rule:
    return lambda call: call(op, call.input(0))


for _name in ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan"):
    operator(_name)(_unary(_name.lower()))
