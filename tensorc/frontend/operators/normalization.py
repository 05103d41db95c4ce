"""Normalisations: of batches, layers, groups and rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.reader import element_type
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value

#: The opset from which on training is an attribute; before, it showed in how many results were asked for.
_TRAINING_MODE = 14


@operator("BatchNormalization")
def _batch_norm(call: Call) -> Value | tuple[Value, ...]:
    x, epsilon = call.input(0), call.attr("epsilon", 1e-5)
    if not x.shape:
        raise TypeError("a scalar is no batch")
    if call.attr("training_mode", 0) and call.opset >= _TRAINING_MODE:
        return _batch_norm_in_training(call)
    parameters = [call.cast(call.input(index), x.dtype) for index in range(1, 5)]
    if call.opset < 9 and not call.attr("spatial", 1):  # every feature has numbers of its own, not every channel
        scale, bias, mean, variance = parameters
        factor = call("mul", scale, _inverse_root(call, variance, epsilon))
        return call("add", call("mul", call("sub", x, mean), factor), bias)
    channels = x if len(x.shape) > 1 else call.reshape(x, (*shape_of(x), 1))  # a list is of one channel
    return call.reshape(call("batch_norm", channels, *parameters, epsilon=epsilon), shape_of(x))


def _batch_norm_in_training(call: Call) -> tuple[Value, ...]:
    """By the batch's own mean and variance, which the running ones take up by 1 - momentum."""
    x, rank, momentum = call.input(0), len(call.input(0).shape), call.attr("momentum", 0.9)
    axes = (0, *range(2, rank))
    wide = _wide(call, x)
    mean = call("reduce_mean", wide, axes=axes, keepdims=0)
    apart = call("sub", wide, _per_channel(call, mean, rank))
    variance = call("reduce_mean", call("mul", apart, apart), axes=axes, keepdims=0)

    def moved(before: Value, now: Value) -> Value:
        kept = call("mul", before, call.like(momentum, before))
        now = call.cast(now, before.dtype)
        return call("add", kept, call("mul", now, call.like(1 - momentum, now)))

    scale, bias = (call.cast(call.input(index), wide.dtype) for index in (1, 2))
    factor = call("mul", scale, _inverse_root(call, variance, call.attr("epsilon", 1e-5)))
    scaled = call("mul", apart, _per_channel(call, factor, rank))
    y = call.cast(call("add", scaled, _per_channel(call, bias, rank)), x.dtype)
    return y, moved(call.input(3), mean), moved(call.input(4), variance)


def _wide(call: Call, x: Value) -> Value:
    """`x` in the type that its moments are computed in: no 16-bit float."""
    return call.cast(x, "float32") if x.dtype in ("float16", "bfloat16") else x


def _inverse_root(call: Call, variance: Value, epsilon: float) -> Value:
    return call("rsqrt", call("add", variance, call.like(epsilon, variance)))


@operator("LayerNormalization")
def _layer_norm(call: Call) -> tuple[Value, ...]:
    x, axis = call.input(0), axis_of(call.attr("axis", -1), len(call.input(0).shape))
    epsilon = call.attr("epsilon", 1e-5)
    parameters = [_spread(call, p, shape_of(x)[axis:]) for p in call.inputs[1:] if p is not None]
    y = call("layer_norm", x, *parameters, axis=axis, epsilon=epsilon)
    if not any(call.node.output[1:]):
        return (y,)
    wide, axes = call.cast(x, element_type(call.attr("stash_type", 1))), tuple(range(axis, len(x.shape)))
    mean = call("reduce_mean", wide, axes=axes)
    apart = call("sub", wide, mean)
    variance = call("reduce_mean", call("mul", apart, apart), axes=axes)
    return y, mean, _inverse_root(call, variance, epsilon)


@operator("RMSNormalization")
def _rms_norm(call: Call) -> Value:
    x, axis = call.input(0), axis_of(call.attr("axis", -1), len(call.input(0).shape))
    scale = _spread(call, call.input(1), shape_of(x)[axis:])
    return call("rms_norm", x, scale, axis=axis, epsilon=call.attr("epsilon", 1e-5))


def _spread(call: Call, parameter: Value, shape: tuple[int, ...]) -> Value:
    """ONNX lets scale and bias broadcast to the normalised axes; the IR wants them whole."""
    extra = len(parameter.shape) - len(shape)
    if extra > 0 and all(dim == 1 for dim in parameter.shape[:extra]):
        parameter = call.reshape(parameter, shape_of(parameter)[extra:])
    return call("expand", parameter, shape=shape)


def _centred(call: Call, x: Value, epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over all but the first two axes of `x`."""
    axes, wide = tuple(range(2, len(x.shape))), _wide(call, x)
    apart = call("sub", wide, call("reduce_mean", wide, axes=axes))
    variance = call("reduce_mean", call("mul", apart, apart), axes=axes)
    return call.cast(call("mul", apart, _inverse_root(call, variance, epsilon)), x.dtype)


def _per_channel(call: Call, value: Value, rank: int) -> Value:
    return call.reshape(value, (*shape_of(value), *(1,) * max(rank - 2, 0)))


@operator("InstanceNormalization")
def _instance_norm(call: Call) -> Value:
    x, rank = call.input(0), len(call.input(0).shape)
    scaled = call("mul", _centred(call, x, call.attr("epsilon", 1e-5)), _per_channel(call, call.input(1), rank))
    return call("add", scaled, _per_channel(call, call.input(2), rank))


@operator("GroupNormalization")
def _group_norm(call: Call) -> Value:
    """Scale and bias are one a group in opset 18, one a channel from 21 on."""
    x, groups = call.input(0), call.required("num_groups")
    n, channels, *spatial = shape_of(x)
    if groups < 1 or channels % groups:
        raise ValueError(f"the channels of {x.type} do not divide into {groups} groups")
    grouped = call.reshape(x, (n, groups, channels // groups, *spatial))
    normal = _centred(call, grouped, call.attr("epsilon", 1e-5))
    if call.opset >= 21:
        normal = call.reshape(normal, shape_of(x))
    rank = len(normal.shape)
    scaled = call("mul", normal, _per_channel(call, call.input(1), rank))
    return call.reshape(call("add", scaled, _per_channel(call, call.input(2), rank)), shape_of(x))


@operator("LpNormalization")
def _lp_norm(call: Call) -> Value:
    """x / |x| along an axis; rows of zeros stay as they are."""
    x, p = call.input(0), call.attr("p", 2)
    if p not in (1, 2):
        raise ValueError(f"the order of the norm is 1 or 2, not {p}")
    axes = (axis_of(call.attr("axis", -1), len(x.shape)),)
    norm = call("reduce_sum", call("abs", x) if p == 1 else call("mul", x, x), axes=axes)
    norm = norm if p == 1 else call("sqrt", norm)
    zero = call.like(0, x)
    return call("where", call("equal", norm, zero), zero, call("div", x, norm))


@operator("LRN")
def _lrn(call: Call) -> Value:
    return call(
        "lrn", call.input(0), size=call.required("size"), alpha=call.attr("alpha", 1e-4),
        beta=call.attr("beta", 0.75), bias=call.attr("bias", 1.0),
    )  # fmt: skip


@operator("Softmax")
def _softmax(call: Call) -> Value:
    return _along_rows(call, lambda x, axis: call("softmax", x, axis=axis))


@operator("LogSoftmax")
def _log_softmax(call: Call) -> Value:
    return _along_rows(call, lambda x, axis: call("log_softmax", x, axis=axis))


@operator("Hardmax")
def _hardmax(call: Call) -> Value:
    """One where a row first has its maximum, else zero. A nan is the greatest of all."""
    return _along_rows(call, lambda x, axis: _first_of_top(call, x, axis))


def _first_of_top(call: Call, x: Value, axis: int) -> Value:
    shape = shape_of(x)
    if not shape[axis]:
        return x
    place = call.constant(np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1)), "int64")
    return call.cast(call("equal", place, call("arg_max", x, axis=axis, keepdims=1, last=0)), x.dtype)


def _along_rows(call: Call, function: Callable[[Value, int], Value]) -> Value:
    """Until opset 13 all axes from `axis` on were one row; since then `axis` is the row."""
    x = call.input(0)
    shape = shape_of(x)
    if call.opset >= 13:
        return function(x, axis_of(call.attr("axis", -1), len(shape)))
    axis = axis_of(call.attr("axis", 1), len(shape))
    if all(dim == 1 for dim in shape[axis + 1 :]):
        return function(x, axis)
    rows = call.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
    return call.reshape(function(rows, 1), shape)
