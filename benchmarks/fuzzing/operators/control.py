"""Control flow: nodes with bodies, that are random graphs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.fuzzing.compare import EPSILONS
from benchmarks.fuzzing.graphs import COMMON, Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import fill, place

#: What bodies are made of: some of every kind, and control flow again.
_INSIDE = ("Add", "Sub", "Mul", "Neg", "Abs", "Tanh", "Sigmoid", "Less", "Equal", "Cast", "MatMul",
           "ReduceSum", "ReduceMax", "Softmax", "Transpose", "Concat", "Slice", "Gather", "Expand", "Unsqueeze",
           "Reshape", "Pad", "If", "Loop", "Scan")  # fmt: skip
_SAME = ("Identity", "Neg", "Add", "Sub", "Where")


def _condition(g: Graph) -> Value:
    return g.given(np.asarray(g.chance(0.5), bool).reshape(g.pick(((), (), (1,)))), g.chance(0.3))


def _result(g: Graph, dtype: str, shape: tuple[int, ...]) -> Value:
    """A new value of this type, that a node of this very graph makes."""
    x = g.like(dtype, shape)
    # ONNX Runtime has few types of these.
    how = g.pick(("Identity", "Not") if dtype == "bool" else _SAME)
    if how in ("Add", "Sub"):
        g.node(how, [x, g.like(dtype, shape)])
    elif how == "Where":
        g.node(how, [g.new("bool", g.pick(((), shape))), x, g.like(dtype, shape)], exact=True)
    else:
        g.node(how, [x], exact=True)
    return g.values[-1]


def _own(inner: Graph) -> list[Value]:
    """What the body's own nodes make."""
    made = {name for node in inner.nodes for name in node.output}
    return [value for value in inner.values if value.name in made]


def _deep(g: Graph) -> bool:
    return g.prefix.count("b") > 2


@place("If")
def _if(g: Graph, name: str) -> None:
    if _deep(g):
        raise UnfitError
    one = g.body()
    fill(one, _INSIDE, g.number(1, 4))
    own = _own(one)
    results = [own[int(i)] for i in g.rng.permutation(len(own))[: g.number(1, 2)]]
    if not results:
        raise UnfitError
    other = g.body()
    fill(other, _INSIDE, g.number(0, 3))
    others = [_result(other, value.dtype, value.shape) for value in results]
    bodies = [g.close(one, results), g.close(other, others)]
    if g.chance(0.5):
        bodies.reverse()
    g.node(name, [_condition(g)], len(results), then_branch=bodies[0], else_branch=bodies[1])
    made = g.values[-len(results) :]
    g.values[-len(results) :] = [
        replace(value, loose=max(a.loose, b.loose), tame=False)
        for value, a, b in zip(made, results, others, strict=True)
    ]


def _states(g: Graph) -> list[Value]:
    return [g.any(COMMON, high=3) for _ in range(g.number(0, 2))]


def _parameters(states: Sequence[Value]) -> list[tuple[str, tuple[int, ...], float]]:
    """From the second round on, what is a state has been computed."""
    return [(v.dtype, v.shape, max(v.loose, EPSILONS.get(v.dtype, 0.0))) for v in states]


def _round(g: Graph, inner: Graph, states: Sequence[Value], scans: int) -> list[Value]:
    """Of one round, the states and what is collected."""
    fill(inner, _INSIDE, g.number(1, 4))
    results = [_result(inner, v.dtype, v.shape) for v in states]
    own = [v for v in _own(inner) if v.rank <= 3]
    return results + [g.pick(own) for _ in range(scans)]


@place("Loop")
def _loop(g: Graph, name: str) -> None:
    if _deep(g):
        raise UnfitError
    states = _states(g)
    trips = g.number(0, 4)
    inner = g.body([("int64", (), 0.0), ("bool", (), 0.0), *_parameters(states)])
    scans = g.number(0 if states else 1, 2)
    results = _round(g, inner, states, scans)
    if len({value.name for value in results}) != len(results):
        raise UnfitError
    # It ends by its count, and at times before that.
    early = g.chance(0.4)  # so that nobody knows how much is collected
    if early:
        inner.node("Less", [inner.parameters[0], inner.given(np.asarray(g.number(0, 4), np.int64))], exact=True)
    else:
        inner.node("Identity", [inner.parameters[1]], exact=True)
    body = g.close(inner, [inner.values[-1], *results])
    ends: list[tuple[str, tuple[int | None, ...], float]] = [*_parameters(states)]
    ends += [(v.dtype, (None if early else trips, *v.shape), v.loose) for v in results[len(states) :]]
    count = g.given(np.asarray(trips, np.int64), g.chance(0.6))
    # Given always: without one, the reference evaluator makes no round.
    go_on = g.given(np.asarray(True), g.chance(0.7))
    g.declare(name, [count, go_on, *states], ends, body=body)


@place("Scan")
def _scan(g: Graph, name: str) -> None:
    if _deep(g):
        raise UnfitError
    states = _states(g)
    trips = g.number(1, 4)
    count = g.number(1, 2)
    scanned, axes, slices = [], [], []
    for _ in range(count):
        dtype = g.dtype(COMMON)
        rest = g.dims(0, 2, 200)
        axis = g.number(0, len(rest))
        value = g.like(dtype, (*rest[:axis], trips, *rest[axis:]))
        scanned.append(value)
        slices.append((dtype, rest, value.loose))
        axes.append(axis if g.chance(0.7) else axis - len(rest) - 1)
    inner = g.body([*_parameters(states), *slices])
    results = _round(g, inner, states, g.number(0 if states else 1, 2))
    collected = results[len(states) :]
    if len({value.name for value in results}) != len(results):
        raise UnfitError
    out_axes = [g.number(-value.rank - 1, value.rank) for value in collected]
    ends: list[tuple[str, tuple[int | None, ...], float]] = [*_parameters(states)]
    for value, axis in zip(collected, out_axes, strict=True):
        at = axis % (value.rank + 1)
        ends.append((value.dtype, (*value.shape[:at], trips, *value.shape[at:]), value.loose))
    attributes: dict[str, object] = {}
    if any(axes):
        attributes["scan_input_axes"] = axes
    if any(out_axes):
        attributes["scan_output_axes"] = out_axes
    if g.chance(0.4):
        attributes["scan_input_directions"] = [g.number(0, 1) for _ in scanned]
    if collected and g.chance(0.4):
        attributes["scan_output_directions"] = [g.number(0, 1) for _ in collected]
    g.declare(name, [*states, *scanned], ends, num_scan_inputs=count, body=g.close(inner, results), **attributes)
