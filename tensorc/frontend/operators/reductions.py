"""Reductions over axes, and running sums."""

from __future__ import annotations

from collections.abc import Callable

from tensorc.frontend.call import Call, axes_of, axis_of, shape_of
from tensorc.frontend.registry import Rule, operator
from tensorc.ir.graph import Value

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


def _rule(op: str, before: Function | None = None, after: Function | None = None) -> Rule:
    def rule(call: Call) -> Value:
        x = call.input(0)
        reduced = _reduce(call, before(call, x) if before else x, op)
        return after(call, reduced) if after else reduced

    return rule


operator("ReduceSum")(_rule("reduce_sum"))
operator("ReduceMean")(_rule("reduce_mean"))
operator("ReduceMax")(_rule("reduce_max"))
operator("ReduceMin")(_rule("reduce_min"))
operator("ReduceProd")(_rule("reduce_prod"))
operator("ReduceL1")(_rule("reduce_sum", before=_function("abs")))
operator("ReduceL2")(_rule("reduce_sum", before=_square, after=_function("sqrt")))
operator("ReduceSumSquare")(_rule("reduce_sum", before=_square))
operator("ReduceLogSum")(_rule("reduce_sum", after=_function("log")))


@operator("ReduceLogSumExp")
def _log_sum_exp(call: Call) -> Value:
    """With the maximum taken out, so that no exponential overflows."""
    x = call.input(0)
    top = _reduce(call, x, "reduce_max", keepdims=1)
    total = call("log", _reduce(call, call("exp", call("sub", x, top)), "reduce_sum"))
    return call("add", total, call.reshape(top, shape_of(total)))


@operator("CumSum")
def _cumsum(call: Call) -> Value:
    x = call.input(0)
    axis = axis_of(call.number(1), len(x.shape))
    return call("cumsum", x, axis=axis, exclusive=call.attr("exclusive", 0), reverse=call.attr("reverse", 0))
