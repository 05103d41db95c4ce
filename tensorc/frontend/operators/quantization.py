"""Quantized operators, in terms of plain arithmetic: sums of products in int32, scales in floats.

A quantized number q stands for (q - zero point) * scale. Kernels that multiply 8-bit integers directly are a matter of
recognising what is written here.
"""

from __future__ import annotations

from tensorc.errors import UnsupportedError
from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.emitter import scalar_of
from tensorc.frontend.operators.casts import converted
from tensorc.frontend.operators.encoded import encoded_matrix
from tensorc.frontend.operators.products import matrix_product
from tensorc.frontend.operators.windows import convolve
from tensorc.frontend.reader import element_type
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value
from tensorc.ir.ops.quantization import QUANTIZED
from tensorc.ir.types import integer_limits, is_integer


@operator("QuantizeLinear")
def _quantize_linear(call: Call) -> Value:
    x, scale, zero = call.input(0), call.input(1), call.optional(2)
    named = call.attr("output_dtype", 0)
    dtype = element_type(named) if named else zero.dtype if zero is not None else "uint8"
    if zero is not None and zero.dtype != dtype:
        raise TypeError(f"output_dtype is {dtype}, but the zero point is {zero.type}")
    precision = call.attr("precision", 0)
    wide = element_type(precision) if precision else scale.dtype
    if wide == "float8_e8m0fnu":  # it only scales, nothing is computed in it
        wide = "float32"
    if dtype in QUANTIZED and dtype != "int32" and x.dtype == wide == scale.dtype == "float32":
        return call("quantize", x, *_parameters(call, scale, zero, x), to=dtype)
    quotient = call("div", call.cast(x, wide), _spread(call, call.cast(scale, wide), x))
    return _quantized(call, quotient, None if zero is None else _spread(call, zero, x), dtype)


def _quantized(call: Call, quotient: Value, zero: Value | None, dtype: str) -> Value:
    """A number divided by its scale, rounded to even, with the zero point added, as the nearest `dtype`."""
    if not is_integer(dtype):
        if zero is not None and scalar_of(zero) != 0:
            quotient = call("add", quotient, call.cast(zero, quotient.dtype))
        return converted(call, quotient, dtype)
    low, high = integer_limits(dtype)
    if high > 1 << 16:
        raise UnsupportedError(f"quantization to {dtype}")
    # Limited as a float first: an integer could not hold every number. No zero point reaches further.
    rounded = call.cast(call("round", quotient), "float32")
    whole = call.cast(call("clip", rounded, min=float(low - high), max=float(high - low)), "int32")
    if zero is not None:
        whole = call("add", whole, call.cast(zero, "int32"))
    return call.cast(call("clip", whole, min=low, max=high), dtype)


@operator("DequantizeLinear")
def _dequantize_linear(call: Call) -> Value:
    x, scale, zero = call.input(0), call.input(1), call.optional(2)
    named = call.attr("output_dtype", 0)
    dtype = element_type(named) if named else scale.dtype
    wide = "float64" if dtype == "float64" else "float32"  # a float16 holds not every difference of int16
    if dtype == "float32" and (weights := encoded_matrix(call, x, scale, zero)) is not None:
        return weights
    if x.dtype in QUANTIZED and scale.dtype == dtype == "float32":
        return call("dequantize", x, *_parameters(call, scale, zero, x))
    value = call.cast(x, wide)
    if zero is not None and scalar_of(zero) != 0:
        value = call("sub", value, _spread(call, call.cast(zero, wide), x))
    return call.cast(call("mul", value, _spread(call, call.cast(scale, wide), x)), dtype)


def _parameters(call: Call, scale: Value, zero: Value | None, x: Value) -> list[Value]:
    """Scale and, where there is one, zero point."""
    kept = [] if zero is None or scalar_of(zero) == 0 else [zero]
    return [_spread(call, parameter, x) for parameter in (scale, *kept)]


def _spread(call: Call, parameter: Value, x: Value) -> Value:
    """A scale or a zero point so that it broadcasts to `x`: one number, one for each index of an axis, or one for each
    block of so many elements along an axis."""
    shape, own = shape_of(x), shape_of(parameter)
    if not own or own == (1,):
        return call.reshape(parameter, ())
    axis = axis_of(call.attr("axis", 1), len(shape))
    block = call.attr("block_size", 0)
    if not block:
        if own != shape[axis : axis + 1]:
            raise TypeError(f"{parameter.type} is neither one number nor one for each index of axis {axis} of {x.type}")
        return call.reshape(parameter, (*own, *(1,) * (len(shape) - axis - 1)))
    if block < 0 or own != (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :]):
        raise TypeError(
            f"{parameter.type} does not hold one number for each block of {block} of axis {axis} of {x.type}"
        )
    column = call.reshape(parameter, (*own[: axis + 1], 1, *own[axis + 1 :]))
    repeated = call("expand", column, shape=(*own[: axis + 1], block, *own[axis + 1 :]))
    whole = (*own[:axis], own[axis] * block, *own[axis + 1 :])
    return call("slice", call.reshape(repeated, whole), starts=(0,) * len(shape), sizes=shape, steps=(1,) * len(shape))


@operator("DynamicQuantizeLinear")
def _dynamic_quantize_linear(call: Call) -> tuple[Value, Value, Value]:
    """To uint8, with a scale and a zero point such that 0 and every number of `x` are within its range."""
    x = call.input(0)
    axes = tuple(range(len(x.shape)))
    zero = call.like(0, x)
    low = call("min", call("reduce_min", x, axes=axes, keepdims=0), zero)
    high = call("max", call("reduce_max", x, axes=axes, keepdims=0), zero)
    span = call("sub", high, low)
    scale = call("where", call("equal", span, zero), call.like(1, x), call("div", span, call.like(255, x)))
    offset = call("clip", call("neg", call("div", low, scale)), min=0.0, max=255.0)
    zero_point = call.cast(call("round", offset), "uint8")
    return _quantized(call, call("div", x, scale), zero_point, "uint8"), scale, zero_point


def _centred(call: Call, value: Value, zero: Value | None, axis: int) -> Value:
    """`value` minus its zero point, in int32. The zero point is one number, or has one for each index of `axis`."""
    whole = call.cast(value, "int32")
    if zero is None or scalar_of(zero) == 0:
        return whole
    return call("sub", whole, _along(call, call.cast(zero, "int32"), value, axis))


def _along(call: Call, parameter: Value, value: Value, axis: int) -> Value:
    """A parameter so that it broadcasts to `value`; a list runs along `axis`."""
    own = shape_of(parameter)
    if own in ((), (1,)):
        return call.reshape(parameter, ())
    return call.reshape(parameter, (*own, *(1,) * (len(value.shape) - axis - 1))) if len(own) == 1 else parameter


@operator("MatMulInteger")
def _matmul_integer(call: Call) -> Value:
    return _integer_product(call, call.input(0), call.optional(2), call.input(1), call.optional(3))


def _integer_product(call: Call, a: Value, a_zero: Value | None, b: Value, b_zero: Value | None) -> Value:
    """Zero points: of a's rows and b's columns."""
    rows = max(len(a.shape) - 2, 0)
    return matrix_product(call, _centred(call, a, a_zero, rows), _centred(call, b, b_zero, max(len(b.shape) - 1, 0)))


@operator("QLinearMatMul")
def _qlinear_matmul(call: Call) -> Value:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (call.input(i) for i in range(8))
    product = _integer_product(call, a, a_zero, b, b_zero)
    a_scale = _along(call, a_scale, a, max(len(a.shape) - 2, 0))
    return _requantized(call, product, call("mul", call.cast(a_scale, "float32"), call.cast(b_scale, "float32")),
                        y_scale, y_zero)  # fmt: skip


def _requantized(call: Call, total: Value, scale: Value, y_scale: Value, y_zero: Value) -> Value:
    """Sums of products in units of `scale` as what `y_scale` and `y_zero` say."""
    factor = call("div", scale, call.cast(y_scale, "float32"))
    return _quantized(call, call("mul", call.cast(total, "float32"), factor), y_zero, y_zero.dtype)


@operator("ConvInteger")
def _conv_integer(call: Call) -> Value:
    x, w = call.input(0), call.input(1)
    return convolve(call, _centred(call, x, call.optional(2), 0), _centred(call, w, call.optional(3), 0))


@operator("QLinearConv")
def _qlinear_conv(call: Call) -> Value:
    """The bias is in units of the product of the scales; the filters may have a scale each."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call.input(i) for i in range(8))
    total = convolve(call, _centred(call, x, x_zero, 0), _centred(call, w, w_zero, 0), call.optional(8))
    scale = call("mul", call.reshape(x_scale, ()), _along(call, w_scale, total, 1))
    return _requantized(call, total, scale, call.reshape(y_scale, ()), call.reshape(y_zero, ()))
