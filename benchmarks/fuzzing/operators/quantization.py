"""Quantized tensors."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from benchmarks.fuzzing.compare import EPSILONS
from benchmarks.fuzzing.graphs import FLOATS, INTS, Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import place, types
from benchmarks.fuzzing.operators.windows import moves

#: Types that numpy lacks: they are in constants only.
_EIGHT = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_FOUR = ("int4", "uint4")


def _of_opset(g: Graph, *groups: tuple[int, Sequence[str]]) -> list[str]:
    """The types of quantized elements that the opset has, of groups that came with one opset each."""
    return [dtype for since, dtypes in groups if g.opset >= since for dtype in dtypes]


def _quantized(g: Graph) -> str:
    return str(g.pick(_of_opset(g, (10, ("uint8", "int8") * 3), (19, _EIGHT), (21, ("uint16", "int16", *_FOUR)))))


def _granularity(g: Graph, shape: Sequence[int]) -> tuple[tuple[int, ...], dict[str, int]]:
    """The shape of scales for a tensor of this shape: one, one an index of an axis, or one a block; and attributes."""
    how = g.pick(("tensor", "axis", "block"))
    if how == "tensor" or not shape:
        return (), {}
    axis = g.number(0, len(shape) - 1)
    given = axis if g.chance(0.6) else axis - len(shape)
    if how == "axis" or g.opset < 21:
        return (shape[axis],), {"axis": given}
    block = g.number(1, max(shape[axis], 1))
    return (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :]), {"axis": given, "block_size": block}


def _zero(g: Graph, dtype: str, shape: Sequence[int]) -> Value | None:
    """A zero point: 0 for types that are no integers, and at times none, which is of uint8 then."""
    if dtype in INTS:
        low = 0 if dtype[0] == "u" else -9
        return g.new(dtype, shape, low, 9)
    given = g.data("int32", shape, 0 if dtype[0] == "u" else -4, 4) if dtype in _FOUR else np.zeros(shape)
    array = given.astype(np.dtype(getattr(ml_dtypes, dtype)))
    name = f"{g.prefix}z{len(g.constants)}_{len(g.inputs)}"
    g.constants[name] = array
    return Value(name, dtype, tuple(shape))


def _scale(g: Graph, dtype: str, shape: Sequence[int], constant: bool | None = None) -> Value:
    array = np.asarray(g.data(dtype, shape, 0.05, 0.2) + np.asarray(0.01, g.data(dtype, ()).dtype))  # not 0
    return g.given(array, g.chance(0.3) if constant is None else constant)


@place("QuantizeLinear")
def _quantize(g: Graph, name: str) -> None:
    dtype = g.dtype([t for t in types(g, name) if t in FLOATS])
    if dtype == "bfloat16" or g.special:
        raise UnfitError  # a quotient in 8 bits is a step off in most engines; nan has no integer
    x = g.new(dtype, g.dims(0, 4), -9, 9)
    to = _quantized(g)
    shape, attributes = _granularity(g, x.shape)
    scale = _scale(g, dtype, shape)
    if to in INTS:
        zero = _zero(g, to, shape) if to != "uint8" or g.chance(0.7) else None
        loose = 1.0
        g.node(name, [x, scale, zero], loose=loose, **attributes)
        return
    # What is in types of few bits is seen when it is turned back.
    zero = _zero(g, to, shape)
    (small,) = g.inner(name, [x, scale, zero], **attributes)
    g.declare("DequantizeLinear", [small, scale, zero], [(dtype, x.shape, EPSILONS["bfloat16"])], **attributes)


@place("DequantizeLinear")
def _dequantize(g: Graph, name: str) -> None:
    source = g.pick(_of_opset(g, (10, ("uint8", "int8") * 3 + ("int32",)), (21, ("uint16", "int16", *_FOUR)),
                              (19, _EIGHT)))  # fmt: skip
    to = g.pick(("float32", "float32", "float16")) if g.opset >= 19 else "float32"
    if source in INTS:
        x = g.any((source,), exact=True, tame=True)
    else:
        shape = g.dims(0, 4)
        numbers = (
            g.data("int32", shape, 0 if source[0] == "u" else -8, 7) if source in _FOUR else g.data("float32", shape)
        )
        if g.special:
            raise UnfitError
        key = f"{g.prefix}q{len(g.constants)}_{len(g.inputs)}"
        g.constants[key] = np.asarray(numbers).astype(np.dtype(getattr(ml_dtypes, source)))
        x = Value(key, source, shape)
    shape, attributes = _granularity(g, x.shape)
    scale = _scale(g, to, shape)
    zero = None if source == "int32" or g.chance(0.3) else _zero(g, source, shape)
    g.node(name, [x, scale, zero], **attributes)


@place("DynamicQuantizeLinear")
def _dynamic_quantize(g: Graph, name: str) -> None:
    g.node(name, [g.new("float32", g.dims(1, 3), -9, 9)], 3, loose=1.0)


@place("MatMulInteger")
def _matmul_integer(g: Graph, name: str) -> None:
    a = g.new(g.pick(("uint8", "int8")), (g.number(1, 9), g.number(1, 20)), 0, 99)
    b = g.new(g.pick(("uint8", "int8")), (a.shape[1], g.number(1, 17)), 0, 99)
    zeros = [_zero(g, v.dtype, ()) if g.chance(0.5) else None for v in (a, b)]
    g.node(name, [a, b, *zeros], exact=True)


@place("ConvInteger", "QLinearConv")
def _conv_integer(g: Graph, name: str) -> None:
    sizes = tuple(g.number(2, 8) for _ in range(g.pick((1, 2, 2, 3))))
    kernel = tuple(g.number(1, min(3, size)) for size in sizes)
    group = g.pick((1, 1, 2, 3))
    channels, maps = group * g.number(1, 4), group * g.number(1, 3)
    attributes = moves(g, sizes, kernel)
    attributes |= {"group": group if group > 1 else None, "kernel_shape": kernel if g.chance(0.5) else None}
    # ONNX Runtime has no signed data with unsigned weights.
    data, weights = g.pick((("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")))
    x = g.new(data, (g.number(1, 2), channels, *sizes), 0 if data[0] == "u" else -99, 99, constant=False)
    w = g.new(weights, (maps, channels // group, *kernel), 0 if weights[0] == "u" else -99, 99)
    if name == "ConvInteger":
        zero_x = _zero(g, data, ()) if g.chance(0.5) else None
        zero_w = _zero(g, weights, ()) if g.chance(0.5) else None
        g.node(name, [x, w, zero_x, zero_w], exact=True, **attributes)
        return
    per = (maps,) if g.chance(0.4) else ()
    # The zero points of weights are 0 in each map where there is one a map: ONNX Runtime takes no others.
    zero_w = g.given(np.zeros(per, weights)) if per else _zero(g, weights, ())
    bias = g.new("int32", (maps,), -999, 999) if g.chance(0.5) else None
    out = g.new("float32", (), 20, 90, constant=True)
    inputs = [x, _scale(g, "float32", (), True), _zero(g, data, ()), w,
              _scale(g, "float32", per, True), zero_w, out, _zero(g, data, ()), bias]  # fmt: skip
    g.node(name, inputs, loose=1.0, **attributes)


@place("QLinearMatMul")
def _matmul_quantized(g: Graph, name: str) -> None:
    batch = g.dims(0, 1, 4)
    rows, inner, columns = g.number(1, 9), g.number(1, 20), g.number(1, 17)
    left, right = g.pick((("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")))
    a = g.new(left, (*batch, rows, inner), 0 if left[0] == "u" else -99, 99)
    b = g.new(right, (*g.pick((batch, ())), inner, columns), 0 if right[0] == "u" else -99, 99)
    scales = [_scale(g, "float32", ()) for _ in range(2)]
    out = g.new("float32", (), 20, 90)
    inputs = [a, scales[0], _zero(g, left, ()), b, scales[1], _zero(g, right, ()), out, _zero(g, left, ())]
    g.node(name, inputs, loose=1.0)
