"""Reductions, running sums, and what is made of them."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzzing.graphs import INTS, Graph, UnfitError
from benchmarks.fuzzing.operators.registry import place, types

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@place(*(f"Reduce{name}" for name in _REDUCTIONS))
def _reduce(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    if 0 in x.shape and name not in ("ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
        raise UnfitError
    if name == "ReduceProd" and int(np.prod(x.shape)) > 100:
        raise UnfitError
    if x.dtype not in INTS and name == "ReduceProd":  # what overflows and then meets a zero depends on the order
        x = g.new(x.dtype, x.shape, -1.5, 1.5)
    if x.dtype in INTS and name == "ReduceLogSumExp":  # engines cut exponentials to integers, or the result
        raise UnfitError
    if x.dtype in INTS and name == "ReduceMean":  # engines go through floats
        x = g.new(x.dtype, x.shape, 0 if x.dtype[0] == "u" else -9, 9)
    if x.dtype in INTS and name in ("ReduceL2", "ReduceLogSum", "ReduceSumSquare"):
        x = g.new(x.dtype, x.shape, 1, 9)  # of others the root or the logarithm has no integer, or the sum does not fit
    axes, keep = g.axes(x.rank), g.pick((None, 0, 1))
    exact = name in ("ReduceMax", "ReduceMin")
    if g.opset >= (13 if name == "ReduceSum" else 18):
        given = g.given(axes) if axes or g.chance(0.2) else None
        g.node(name, [x, given], exact=exact, keepdims=keep, noop_with_empty_axes=g.pick((None, 0, 1)))
    else:
        g.node(name, [x], exact=exact, keepdims=keep, axes=axes or None)


@place("CumSum", "CumProd")
def _cumulative(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.given(np.asarray(g.axis(x.rank), g.pick(("int32", "int64"))))
    g.node(name, [x, axis], exclusive=g.pick((None, 0, 1)), reverse=g.pick((None, 0, 1)))


@place("Softmax", "LogSoftmax")
def _softmax(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    g.node(name, [x], axis=g.pick((None, g.axis(x.rank))))


@place("Hardmax")
def _hardmax(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, exact=True)
    g.node(name, [x], exact=True, axis=g.pick((None, g.axis(x.rank))))


@place("LpNormalization")
def _lp_norm(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    g.node(name, [x], axis=g.axis(x.rank), p=g.pick((None, 1, 2)))
