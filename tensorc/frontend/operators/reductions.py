"""Reductions over axes, and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable

from tensorc.frontend.call import Call, axes_of, axis_of, shape_of
from tensorc.frontend.registry import Rule, operator
from tensorc.ir.graph import Value
from tensorc.ir.types import is_float

#: The opset in which the axes of a reduction became an input.
_AXES_INPUT = {"ReduceSum": 13}
_OTHERS_AXES_INPUT = 18

Function = Callable[[Call, Value], Value]


def _reduce(call: Call, x: Value, op: str, keepdims: int | None = None) -> Value:
    """`op` over the axes that the node names: all of them when it names none, unless it asks for none then."""
    keepdims = call.attr("keepdims", 1) if keepdims is None else keepdims
    if call.opset >= _AXES_INPUT.get(call.node.op_type, _OTHERS_AXES_INPUT):
        given = () if call.optional(1) is None else call.ints(1)
        every = not given and not call.attr("noop_with_empty_axes", 0)
    else:
        given = call.attr("axes", ())
        every = not given
    rank = len(x.shape)
    axes = tuple(range(rank)) if every else axes_of(given, rank)
    return call(op, x, axes=axes, keepdims=keepdims)


def _square(call: Call, x: Value) -> Value:
    return call("mul", x, x)


def _function(op: str) -> Function:
    return lambda call, x: call(op, x)


def _rule(op: str, before: Function | None = None) -> Rule:
    return lambda call: _reduce(call, before(call, call.input(0)) if before else call.input(0), op)


def _wide(call: Call) -> Value:
    """The operand of roots and logarithms: of integers they are computed in float64, and cut in the end."""
    x = call.input(0)
    return x if is_float(x.dtype) else call.cast(x, "float64")


def _of_floats(op: str, before: Function | None, after: Function) -> Rule:
    def rule(call: Call) -> Value:
        x = _wide(call)
        reduced = _reduce(call, before(call, x) if before else x, op)
        return call.cast(after(call, reduced), call.input(0).dtype)

    return rule


@operator("ReduceLogSumExp")
def _log_sum_exp(call: Call) -> Value:
    """With the maximum taken out, so that no exponential overflows; an infinite one has nothing to be taken out of."""
    x = _wide(call)
    top = _reduce(call, x, "reduce_max", keepdims=1)
    finite = call("less", call("abs", top), call.like(math.inf, top))
    top = call("where", finite, top, call.like(0, top))
    total = call("log", _reduce(call, call("exp", call("sub", x, top)), "reduce_sum"))
    return call.cast(call("add", total, call.reshape(top, shape_of(total))), call.input(0).dtype)


operator("ReduceSum")(_rule("reduce_sum"))
operator("ReduceMean")(_rule("reduce_mean"))
operator("ReduceMax")(_rule("reduce_max"))
operator("ReduceMin")(_rule("reduce_min"))
operator("ReduceProd")(_rule("reduce_prod"))
operator("ReduceL1")(_rule("reduce_sum", before=_function("abs")))
operator("ReduceL2")(_of_floats("reduce_sum", _square, _function("sqrt")))
operator("ReduceSumSquare")(_rule("reduce_sum", before=_square))
operator("ReduceLogSum")(_of_floats("reduce_sum", None, _function("log")))


def _running(call: Call, op: str) -> Value:
    x = call.input(0)
    axis = axis_of(int(call.number(1)), len(x.shape))
    return call(op, x, axis=axis, exclusive=call.attr("exclusive", 0), reverse=call.attr("reverse", 0))


@operator("CumSum")
def _cumsum(call: Call) -> Value:
    return _running(call, "cumsum")


@operator("CumProd")
def _cumprod(call: Call) -> Value:
    return _running(call, "cumprod")
