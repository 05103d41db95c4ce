"""Normalisations, in the form they have when a trained model is run."""

from __future__ import annotations

import math

from tensorc.errors import UnsupportedError
from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value


@operator("BatchNormalization")
def _batch_norm(call: Call) -> Value:
    if call.attr("training_mode", 0) or (call.opset < 9 and not call.attr("spatial", 1)):
        raise UnsupportedError("it is in training mode or not spatial")
    x = call.input(0)
    parameters = [call.cast(call.input(index), x.dtype) for index in range(1, 5)]
    return call("batch_norm", x, *parameters, epsilon=call.attr("epsilon", 1e-5))


@operator("LayerNormalization")
def _layer_norm(call: Call) -> Value:
    x, axis = call.input(0), axis_of(call.attr("axis", -1), len(call.input(0).shape))
    parameters = [_spread(call, p, shape_of(x)[axis:]) for p in call.inputs[1:] if p is not None]
    return call("layer_norm", x, *parameters, axis=axis, epsilon=call.attr("epsilon", 1e-5))


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
    axes = tuple(range(2, len(x.shape)))
    apart = call("sub", x, call("reduce_mean", x, axes=axes))
    variance = call("reduce_mean", call("mul", apart, apart), axes=axes)
    return call("mul", apart, call("rsqrt", call("add", variance, call.like(epsilon, x))))


def _per_channel(call: Call, value: Value, rank: int) -> Value:
    return call.reshape(value, (*shape_of(value), *(1,) * (rank - 2)))


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


@operator("LRN")
def _lrn(call: Call) -> Value:
    return call(
        "lrn", call.input(0), size=call.required("size"), alpha=call.attr("alpha", 1e-4),
        beta=call.attr("beta", 0.75), bias=call.attr("bias", 1.0),
    )  # fmt: skip


@operator("Softmax")
def _softmax(call: Call) -> Value:
    return _along_rows(call, "softmax")


@operator("LogSoftmax")
def _log_softmax(call: Call) -> Value:
    return _along_rows(call, "log_softmax")


def _along_rows(call: Call, op: str) -> Value:
    """Until opset 13 all axes from `axis` on were one row; since then `axis` is the row."""
    x = call.input(0)
    shape = shape_of(x)
    if call.opset >= 13:
        return call(op, x, axis=axis_of(call.attr("axis", -1), len(shape)))
    axis = axis_of(call.attr("axis", 1), len(shape))
    if all(dim == 1 for dim in shape[axis + 1 :]):
        return call(op, x, axis=axis)
    rows = call.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
    return call.reshape(call(op, rows, axis=1), shape)
