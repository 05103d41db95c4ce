"""Random numbers: of what engines draw differently, only what all have in common is seen, such as bounds."""

from __future__ import annotations

import numpy as np
from onnx import helper

from benchmarks.fuzzing.graphs import FLOATS, Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import place, types


def _code(g: Graph, dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(g.data(dtype, ()).dtype)


def _seed(g: Graph) -> float | None:
    return float(g.number(0, 99)) if g.chance(0.6) else None


def _look(g: Graph, drawn: Value, dtype: str, shape: tuple[int, ...], low: float, high: float) -> None:
    """Shape and type, or that each number is within the bounds."""
    if g.chance(0.2):
        g.declare("Shape", [drawn], [("int64", (len(shape),), 0.0)])
        return
    if dtype == "bfloat16":  # engines do not compare them
        (drawn,) = g.inner("Cast", [drawn], to=_code(g, "float32"))
        dtype = "float32"
    bounds = [g.given(np.asarray(n, dtype)) for n in (low, high)]
    (above,) = g.inner("Not", g.inner("Less", [drawn, bounds[0]]))
    (below,) = g.inner("Not", g.inner("Greater", [drawn, bounds[1]]))
    g.declare("And", [above, below], [("bool", shape, 0.0)])


@place("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
def _random(g: Graph, name: str) -> None:
    dtype = g.dtype(("float32", "float64", "float16"))
    given: dict[str, object] = {}
    low, high = 0.0, 1.0
    if "Normal" in name:
        low, high = -10.0, 10.0
        if g.chance(0.5):
            given |= {"mean": 5.0, "scale": 0.5}
            low, high = 0.0, 10.0
    elif g.chance(0.5):
        low, high = -2.0, 3.0
        given |= {"low": low, "high": high}
    if name.endswith("Like"):
        x = g.any(types(g, name))
        if x.dtype in FLOATS and x.dtype != "bfloat16" and g.chance(0.5):
            dtype = x.dtype
        else:
            given["dtype"] = _code(g, dtype)
        shape, inputs = x.shape, [x]
    else:
        shape, inputs = g.dims(1, 3), []
        given |= {"shape": shape, "dtype": _code(g, dtype)}
    (drawn,) = g.inner(name, inputs, seed=_seed(g), **given)
    _look(g, drawn, dtype, shape, low, high)


@place("Bernoulli")
def _bernoulli(g: Graph, name: str) -> None:
    """Of what is certain. ONNX Runtime has scalars wrong."""
    dtype = g.dtype([t for t in types(g, name) if t != "bfloat16"])
    x = g.given(np.rint(g.data(dtype, g.dims(1, 3), 0, 1)).astype(dtype), g.chance(0.4))
    to = g.pick((None, "float32", "int32", "bool", "float64"))
    g.node(name, [x], exact=True, seed=_seed(g), dtype=to and _code(g, to))


@place("Multinomial")
def _multinomial(g: Graph, name: str) -> None:
    """Of one class that is certain in each row."""
    if g.opset >= 22:
        raise UnfitError  # of no other engine
    rows, classes = g.number(1, 5), g.number(1, 9)
    logits = np.full((rows, classes), -1000.0, np.float32)
    logits[np.arange(rows), g.rng.integers(0, classes, rows)] = 0.0
    to = g.pick((None, "int32", "int64"))
    g.node(name, [g.given(logits, g.chance(0.4))], exact=True, seed=_seed(g), sample_size=g.number(1, 9),
           dtype=to and _code(g, to))  # fmt: skip
