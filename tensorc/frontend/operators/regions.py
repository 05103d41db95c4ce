"""Pooling over regions of interest: RoiAlign and MaxRoiPool."""

from __future__ import annotations

import math

import numpy as np

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.operators.sampling import Tap, channels_last, index_of
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value
from tensorc.ir.types import limits, numpy_dtype


def _column(call: Call, rois: Value, index: int) -> Value:
    """One number of each region, as [regions, 1]."""
    return call("slice", rois, starts=(0, index), sizes=(shape_of(rois)[0], 1), steps=(1, 1))


def _expect_regions(rois: Value, x: Value, numbers: int) -> int:
    if len(rois.shape) != 2 or len(x.shape) != 4 or rois.shape[1] != numbers:
        raise ValueError(f"regions {rois.type} of an image {x.type} must be [regions, {numbers}] of [N, C, H, W]")
    return shape_of(rois)[0]


@operator("RoiAlign")
def _roi_align(call: Call) -> Value:
    """Each bin of a region is the mean (or the maximum) of samples, spread evenly in it, between pixels."""
    x, rois, batch_indices = call.input(0), call.input(1), call.input(2)
    regions = _expect_regions(rois, x, 4)
    batch, channels, *extents = shape_of(x)
    mode = call.attr("mode", "avg")
    if mode not in ("avg", "max"):
        raise ValueError(f"mode {mode!r} is neither avg nor max")
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half_pixel = call.attr("coordinate_transformation_mode", default) == "half_pixel"
    bins = (call.attr("output_height", 1), call.attr("output_width", 1))
    scale = call.attr("spatial_scale", 1.0)
    rows, samples = [], []
    for axis, (extent, count) in enumerate(zip(extents, bins, strict=True)):
        start, end = (
            call("sub", call("mul", value, call.like(scale, value)), call.like(0.5 if half_pixel else 0, value))
            for value in (_column(call, rois, 1 - axis), _column(call, rois, 3 - axis))
        )
        size = call("sub", end, start)
        if not half_pixel:
            size = call("max", size, call.like(1, size))
        per_bin = _samples(call, size, count)
        width = int(per_bin.max(initial=1))
        number = np.arange(width)
        # In parts of the region: [regions or 1, bins, samples], flat.
        parts = (np.arange(count)[:, None] + (number + 0.5) / np.maximum(per_bin, 1)[:, None, None]) / count
        taken = np.broadcast_to((number < per_bin[:, None, None]), parts.shape)
        share = np.where(taken, 1 / np.maximum(per_bin, 1)[:, None, None], 0)
        flat = (parts.shape[0], count * width)
        place = call("add", start, call("mul", size, call.constant(parts.reshape(flat), x.dtype)))
        rows.append(_between_pixels(call, place, extent))
        samples.append((width, taken.reshape(flat), share.reshape(flat)))
    # Every image's pixels one behind the other; [regions, rows' samples, columns' samples, channels].
    pixels = call.reshape(channels_last(call, x), (batch * math.prod(extents), channels))
    image = call.reshape(call.cast(batch_indices, "int64"), (regions, 1, 1))
    (tall, taken_h, share_h), (wide, taken_w, share_w) = samples
    shape = (regions, bins[0] * tall, bins[1] * wide, 1)
    parts_of = [_pixel(call, pixels, image, h, w, shape, extents[0], extents[1]) for h in rows[0] for w in rows[1]]
    split = (regions, bins[0], tall, bins[1], wide, channels)
    op = "add" if mode == "avg" else "max"
    value = parts_of[0]
    for part in parts_of[1:]:
        value = call(op, value, part)
    if mode == "avg":
        share = share_h[:, :, None, None] * share_w[:, None, :, None]
        value = call("mul", value, call.constant(share, value.dtype))
        pooled = call("reduce_sum", call.reshape(value, split), axes=(2, 4), keepdims=0)
    else:
        taken = taken_h[:, :, None, None] & taken_w[:, None, :, None]
        if not taken.all():
            value = call("where", call.constant(taken), value, call.like(-np.inf, value))
        pooled = call("reduce_max", call.reshape(value, split), axes=(2, 4), keepdims=0)
        nothing = ~taken.reshape(taken.shape[0], bins[0], tall, bins[1], wide, 1).any(axis=(2, 4))
        if nothing.any():
            pooled = call("where", call.constant(nothing), call.like(0, pooled), pooled)
    return call("transpose", pooled, perm=(0, 3, 1, 2))


def _samples(call: Call, size: Value, bins: int) -> np.ndarray:
    """How many samples a bin takes along an axis: [1], or for each region where its size says so."""
    ratio = call.attr("sampling_ratio", 0)
    if ratio > 0:
        return np.array([ratio])
    if call.input(1).constant is None:
        call.array(1)  # the regions must be known: how many samples there are depends on them
    assert size.constant is not None
    sizes = size.constant.numpy().astype(np.float64).reshape(-1)
    return np.maximum(np.ceil(sizes / bins), 0).astype(np.int64)


def _between_pixels(call: Call, place: Value, extent: int) -> list[Tap]:
    """The two pixels around a place, which weigh nothing where it is more than one pixel outside."""
    low, high = call.like(-1, place), call.like(extent, place)
    inside = call("and", call("greater_equal", place, low), call("less_equal", place, high))
    held = call("min", call("max", place, call.like(0, place)), call.like(extent - 1, place))
    first = call("floor", held)
    behind = call("sub", held, first)
    zero, one = call.like(0, place), call.like(1, place)
    second = call("add", first, one)
    return [
        Tap(index_of(call, first, extent), call("where", inside, call("sub", one, behind), zero)),
        Tap(index_of(call, second, extent), call("where", inside, behind, zero)),
    ]


def _pixel(call: Call, pixels: Value, image: Value, h: Tap, w: Tap, shape: tuple[int, ...], height: int,
           width: int) -> Value:  # fmt: skip
    """What one of the four pixels around each sample adds: [regions, rows' samples, columns' samples, channels]."""
    assert h.weight is not None
    assert w.weight is not None
    regions, tall, wide, _ = shape
    row, column = (regions, tall, 1), (regions, 1, wide)
    index = call("mul", image, call.like(height, image))
    index = call("mul", call("add", index, call.reshape(h.index, row)), call.like(width, image))
    index = call("add", index, call.reshape(w.index, column))
    weight = call("mul", call.reshape(h.weight, row), call.reshape(w.weight, column))
    return call("mul", call("gather", pixels, index, axis=0), call.reshape(weight, shape))


@operator("MaxRoiPool")
def _max_roi_pool(call: Call) -> Value:
    """Where bins begin and end is data: of each row, then of each column, the maximum of what lies in the bin."""
    x, rois = call.input(0), call.input(1)
    regions = _expect_regions(rois, x, 5)
    _, channels, *extents = shape_of(x)
    bins = call.required("pooled_shape")
    scale = call.attr("spatial_scale", 1.0)
    least = call.like(limits(np.empty(0, numpy_dtype(x.dtype)))[0], x)
    image = call.reshape(call.cast(_column(call, rois, 0), "int64"), (regions,))
    pooled = call("gather", x, image, axis=0)
    empty: Value | None = None
    for axis, (extent, count) in enumerate(zip(extents, bins, strict=True)):
        start, end = (
            _rounded(call, call("mul", value, call.like(scale, value)))
            for value in (_column(call, rois, 2 - axis), _column(call, rois, 4 - axis))
        )
        one = call.like(1, start)
        size = call("div", call("max", call("add", call("sub", end, start), one), one), call.like(count, start))
        number = call.constant(np.arange(count), start.dtype)
        low = call("add", call("floor", call("mul", number, size)), start)
        high = call("add", call("ceil", call("mul", call("add", number, one), size)), start)
        low, high = (call.reshape(value, (regions, count, 1)) for value in (low, high))
        pixel = call.constant(np.arange(extent), start.dtype)
        inside = call("and", call("greater_equal", pixel, low), call("less", pixel, high))
        none = call("not", call("reduce_max", inside, axes=(2,), keepdims=0))
        # [regions, channels, bins so far, extents from here on], with an axis of bins before this one.
        done, rest = bins[:axis], extents[axis + 1 :]
        pooled = call.reshape(pooled, (regions, channels, *done, 1, extent, *rest))
        mask = call.reshape(inside, (regions, 1, *(1 for _ in done), count, extent, *(1 for _ in rest)))
        pooled = call("reduce_max", call("where", mask, pooled, least), axes=(3 + axis,), keepdims=0)
        none = call.reshape(none, (regions, 1, *(1 for _ in done), count, *(1 for _ in rest)))
        empty = none if empty is None else call("or", empty, none)
    assert empty is not None
    return call("where", empty, call.like(0, pooled), pooled)


def _rounded(call: Call, value: Value) -> Value:
    """To the nearest whole number, halves away from zero."""
    size = call("floor", call("add", call("abs", value), call.like(0.5, value)))
    return call("mul", call("sign", value), size)
