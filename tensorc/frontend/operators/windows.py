"""Convolutions and pooling: operators that slide a window over the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Constant, Value
from tensorc.ir.ops.nn import window_output
from tensorc.ir.types import TensorType


@dataclass(frozen=True)
class Window:
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]


def _expect(name: str, numbers: Sequence[int], count: int, least: int) -> None:
    if len(numbers) != count or min(numbers, default=least) < least:
        raise ValueError(f"{name} {list(numbers)} must be {count} numbers from {least} on")


def window_attributes(call: Call, kernel: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The strides and dilations of a window of `kernel`."""
    count = len(kernel)
    strides = call.attr("strides", (1,) * count)
    dilations = call.attr("dilations", (1,) * count)
    for name, value in (("kernel_shape", kernel), ("strides", strides), ("dilations", dilations)):
        _expect(name, value, count, least=1)
    return strides, dilations


def window_of(call: Call, x: Value, kernel: tuple[int, ...]) -> Window:
    """The window's attributes with their defaults, `auto_pad` worked out."""
    spatial = shape_of(x)[2:]
    if len(kernel) != len(spatial) or not spatial:
        raise ValueError(f"a kernel of {len(kernel)} axes does not fit {x.type}")
    strides, dilations = window_attributes(call, kernel)
    pads = call.attr("pads", (0,) * 2 * len(kernel))
    _expect("pads", pads, 2 * len(kernel), least=0)
    mode = call.attr("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same_pads(spatial, kernel, strides, dilations, lower=mode == "SAME_LOWER")
    elif mode == "VALID":
        pads = (0,) * 2 * len(kernel)
    elif mode != "NOTSET":
        raise ValueError(f"auto_pad {mode!r} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    return Window(kernel, strides, pads, dilations)


def window_outputs(extents: Sequence[int], window: Window, ceil: bool = False) -> tuple[int, ...]:
    """At how many places along each axis the window stands."""
    count = len(extents)
    return static_shape(
        window_output(extents[i], window.kernel[i], window.strides[i], window.pads[i], window.pads[count + i],
                      window.dilations[i], ceil)
        for i in range(count)
    )  # fmt: skip


def _same_pads(
    spatial: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...], lower: bool
) -> tuple[int, ...]:
    """Pads that make each output ceil(input / stride); the odd one goes behind, or before with `lower`."""
    before, after = [], []
    for extent, size, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        out = -(-extent // stride)
        total = max((out - 1) * stride + dilation * (size - 1) + 1 - extent, 0)
        small, large = total // 2, total - total // 2
        before.append(large if lower else small)
        after.append(small if lower else large)
    return (*before, *after)


@operator("Conv")
def _conv(call: Call) -> Value:
    return convolve(call, call.input(0), call.input(1), call.optional(2))


def convolve(call: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    """The convolution that the node's attributes describe, of `x` by the filters `w`, with a bias for each of them."""
    kernel = shape_of(w)[2:]
    if call.attr("kernel_shape", kernel) != kernel:
        raise ValueError(f"kernel_shape {list(call.attr('kernel_shape'))} is not that of the filter {w.type}")
    window = window_of(call, x, kernel)
    result = call(
        "conv", x, w, strides=window.strides, pads=window.pads, dilations=window.dilations, groups=call.attr("group", 1)
    )
    if bias is None:
        return result
    if len(bias.shape) != 1:
        raise TypeError(f"the bias must have one axis, not {bias.type}")
    return call("add", result, call.reshape(bias, (*shape_of(bias), *(1,) * len(kernel))))


def _pool(call: Call, op: str, **extra: int) -> Value:
    x = call.input(0)
    window = window_of(call, x, call.required("kernel_shape"))
    return call(
        op, x, kernel=window.kernel, strides=window.strides, pads=window.pads, dilations=window.dilations,
        ceil=call.attr("ceil_mode", 0), **extra,
    )  # fmt: skip


@operator("MaxPool")
def _max_pool(call: Call) -> Value | tuple[Value, Value]:
    largest = _pool(call, "max_pool")
    if not any(call.node.output[1:]):
        return largest
    return largest, _places_of(call, largest)


def _places_of(call: Call, largest: Value) -> Value:
    """Where in x each window's first element is that equals its largest one, which `largest` holds."""
    x = call.input(0)
    batch, channels, *extents = shape_of(x)
    window, out = window_of(call, x, call.required("kernel_shape")), shape_of(largest)[2:]
    count, size = len(extents), math.prod(extents)
    if not largest.type.size:
        return call.constant(Constant.full(TensorType("int64", largest.shape), 0))
    # Windows as [.., out, kernel, out, kernel, ..], and the number in its image of each of their elements. Elements
    # outside are those at the edges, and cannot be first: they have the last number.
    windows, places, inside = x, np.zeros((), np.int64), np.ones((), bool)
    for i, extent in enumerate(extents):
        index = np.arange(out[i])[:, None] * window.strides[i] + np.arange(window.kernel[i]) * window.dilations[i]
        index = index - window.pads[i]
        held = np.clip(index, 0, extent - 1)
        windows = call("gather", windows, call.constant(held, "int64"), axis=2 + 2 * i)
        places = places[..., None, None] * extent + held
        inside = inside[..., None, None] & (index == held)
    places = np.where(inside, places, size - 1)
    apart = [extent for n in out for extent in (n, 1)]
    hit = call("equal", windows, call.reshape(largest, (batch, channels, *apart)))
    found = call("where", hit, call.constant(places), call.constant(size - 1, "int64"))
    found = call("reduce_min", found, axes=tuple(3 + 2 * i for i in range(count)), keepdims=0)
    if call.attr("storage_order", 0):
        columns = np.arange(size).reshape(extents[::-1]).transpose().reshape(-1)
        found = call("gather", call.constant(columns, "int64"), found, axis=0)
    images = np.arange(batch * channels).reshape(batch, channels, *(1,) * count) * size
    return call("add", found, call.constant(images, "int64"))


@operator("AveragePool")
def _average_pool(call: Call) -> Value:
    return _pool(call, "avg_pool", count_include_pad=call.attr("count_include_pad", 0))


def _global(call: Call, op: str) -> Value:
    x = call.input(0)
    return call(op, x, axes=tuple(range(2, len(x.shape))))


@operator("GlobalAveragePool")
def _global_average_pool(call: Call) -> Value:
    return _global(call, "reduce_mean")


@operator("GlobalMaxPool")
def _global_max_pool(call: Call) -> Value:
    return _global(call, "reduce_max")


@operator("LpPool")
def _lp_pool(call: Call) -> Value:
    """As many times the average as a window has elements, of the powers. Zeros around the image count as elements."""
    x, p = call.input(0), call.attr("p", 2)
    window = window_of(call, x, call.required("kernel_shape"))
    count = len(window.kernel)
    ceil = bool(call.attr("ceil_mode", 0))
    extents = shape_of(x)[2:]
    befores, afters = (0, 0, *window.pads[:count]), [0, 0]
    for i, out in enumerate(window_outputs(extents, window, ceil)):
        last = (out - 1) * window.strides[i] + (window.kernel[i] - 1) * window.dilations[i]
        afters.append(last + 1 - extents[i] - window.pads[i])
    powers = call("pad", _power(call, x, p), before=befores, after=tuple(afters), mode="constant", value=0)
    mean = call("avg_pool", powers, kernel=window.kernel, strides=window.strides, pads=(0,) * 2 * count,
                dilations=window.dilations)  # fmt: skip
    return _root(call, call("mul", mean, call.like(math.prod(window.kernel), mean)), p)


@operator("GlobalLpPool")
def _global_lp_pool(call: Call) -> Value:
    x, p = call.input(0), call.attr("p", 2)
    total = call("reduce_sum", _power(call, x, p), axes=tuple(range(2, len(x.shape))))
    return _root(call, total, p)


def _power(call: Call, x: Value, p: float) -> Value:
    if p == 2:
        return call("mul", x, x)
    return call("abs", x) if p == 1 else call("pow", call("abs", x), call.like(p, x))


def _root(call: Call, x: Value, p: float) -> Value:
    if p == 2:
        return call("sqrt", x)
    return x if p == 1 else call("pow", x, call.like(1 / p, x))
