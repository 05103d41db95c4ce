"""Convolutions and pooling: operators that slide a window over the spatial axes."""

from __future__ import annotations

from dataclasses import dataclass

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value


@dataclass(frozen=True)
class Window:
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]


def window_of(call: Call, x: Value, kernel: tuple[int, ...]) -> Window:
    """The window's attributes with their defaults, `auto_pad` worked out."""
    spatial = shape_of(x)[2:]
    if len(kernel) != len(spatial) or not spatial:
        raise ValueError(f"a kernel of {len(kernel)} axes does not fit {x.type}")
    strides = call.attr("strides", (1,) * len(kernel))
    dilations = call.attr("dilations", (1,) * len(kernel))
    pads = call.attr("pads", (0,) * 2 * len(kernel))
    for name, value, count in (
        ("kernel_shape", kernel, len(kernel)),
        ("strides", strides, len(kernel)),
        ("dilations", dilations, len(kernel)),
        ("pads", pads, 2 * len(kernel)),
    ):
        least = 0 if name == "pads" else 1
        if len(value) != count or min(value) < least:
            raise ValueError(f"{name} {list(value)} must be {count} numbers from {least} on")
    mode = call.attr("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same_pads(spatial, kernel, strides, dilations, lower=mode == "SAME_LOWER")
    elif mode == "VALID":
        pads = (0,) * 2 * len(kernel)
    elif mode != "NOTSET":
        raise ValueError(f"auto_pad {mode!r} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    return Window(kernel, strides, pads, dilations)


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
    x, w, bias = call.input(0), call.input(1), call.optional(2)
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
def _max_pool(call: Call) -> Value:
    return _pool(call, "max_pool")


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
