"""Losses and optimizers."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzzing.graphs import Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import place, types

_DOMAIN = "ai.onnx.preview.training"


@place("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def _loss(g: Graph, name: str) -> None:
    dtype = g.dtype(types(g, name))
    if g.special:
        raise UnfitError  # 0 times infinity where a weight is 0
    batch, classes = g.number(1, 5), g.number(1, 9)
    rest = tuple(g.number(1, 4) for _ in range(g.pick((0, 0, 1, 2))))
    x = g.like(dtype, (batch, classes, *rest))
    labels = g.data(g.pick(("int64", "int32")), (batch, *rest), 0, classes - 1)
    ignored = None
    reduction = g.pick((None, "none", "sum", "mean"))
    if g.chance(0.4):
        ignored = g.pick((0, -2, 255, classes - 1))  # -1 is none to the reference evaluator
        if ignored < 0 or ignored >= classes:
            labels = np.where(g.rng.random(labels.shape) < 0.3, ignored, labels).astype(labels.dtype)
        if (labels == ignored).all():
            raise UnfitError  # a mean of nothing
    weights = g.new(dtype, (classes,), 0.2, 2) if g.chance(0.4) else None
    inputs: list[Value | None] = [x, g.given(labels, g.chance(0.4)), weights]
    outputs = [True, g.chance(0.5)] if name[0] == "S" else [True]
    g.node(name, inputs, outputs, reduction=reduction, ignore_index=ignored)


@place("Adagrad", "Adam", "Momentum", domain=_DOMAIN)
def _optimizer(g: Graph, name: str) -> None:
    dtype = g.pick(("float32", "float32", "float64"))
    rate = g.given(np.asarray(g.pick((0.1, 0.01)), dtype), g.chance(0.5))
    step = g.given(np.asarray(g.number(0, 5), np.int64), g.chance(0.5))
    shapes = [g.dims(1, 3, 200) for _ in range(g.number(1, 2))]
    states = 2 if name == "Adam" else 1
    values = [g.like(dtype, shape) for _ in range(2) for shape in shapes]
    # What is summed up of squares is not below 0.
    values += [g.new(dtype, shape, 0, 2) for _ in range(states) for shape in shapes]
    given: dict[str, object] = {}
    if name == "Momentum":
        given = {"alpha": 0.9, "beta": float(g.pick((0.1, 1.0))), "mode": g.pick(("standard", "nesterov")),
                 "norm_coefficient": float(g.pick((0.0, 0.01)))}  # fmt: skip
    else:
        given = {"norm_coefficient": g.pick((None, 0.01)), "epsilon": 1e-3}
        if name == "Adam":
            given |= {"norm_coefficient_post": g.pick((None, 0.1)), "alpha": g.pick((None, 0.5))}
        else:
            given["decay_factor"] = g.pick((None, 0.1))
    results = [(dtype, shape, 5e-5) for _ in range(1 + states) for shape in shapes]
    g.declare(name, [rate, step, *values], results, domain=_DOMAIN, **given)
