"""Resize, Upsample and CenterCropPad.

One axis is resized after the other, each element of the result a weighted sum of few elements of a row. Where they are
taken from and what they weigh is known when a model is compiled. A kernel of interpolation (a triangle, or a cubic) is
laid around the place in the row that an element comes from; antialiasing stretches it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tensorc.errors import UnsupportedError
from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.registry import operator
from tensorc.frontend.rows import sum_along
from tensorc.ir.graph import Constant, Value
from tensorc.ir.types import is_float, numpy_dtype


@dataclass(frozen=True)
class _Row:
    """An axis of `extent` elements that becomes one of `out`. Of a cropped row only [start, end], as parts of it."""

    axis: int
    extent: int
    out: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    @property
    def stays(self) -> bool:
        return self.scale == 1 and self.out == self.extent and (self.start, self.end) == (0, 1)


@dataclass(frozen=True)
class _Method:
    mode: str
    coordinates: str
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    outside: float = 0.0


@operator("Resize")
def _resize(call: Call) -> Value:
    if call.opset < 11:
        return _resized(
            call, _scaled(call, call.array(1)), _Method(call.attr("mode", "nearest"), "asymmetric", "simple")
        )
    method = _Method(
        call.attr("mode", "nearest"),
        call.attr("coordinate_transformation_mode", "half_pixel"),
        call.attr("nearest_mode", "round_prefer_floor"),
        call.attr("cubic_coeff_a", -0.75),
        bool(call.attr("exclude_outside", 0)),
        bool(call.attr("antialias", 0)),
        call.attr("extrapolation_value", 0.0),
    )
    rank = len(call.input(0).shape)
    axes = [axis_of(axis, rank) for axis in call.attr("axes", tuple(range(rank)))]
    if _given(call, 3):
        rows = _sized(call, axes, call.ints(3))
    elif _given(call, 2):
        rows = _scaled(call, call.array(2), axes)
    else:
        raise ValueError("both scales and sizes are missing")
    if method.coordinates == "tf_crop_and_resize":
        region = call.array(1).astype(np.float64).reshape(-1)
        if len(region) != 2 * len(axes):
            raise ValueError(f"a region of {len(region)} numbers does not fit {len(axes)} axes")
        bounds = zip(rows, region[: len(axes)].tolist(), region[len(axes) :].tolist(), strict=True)
        rows = [dataclasses.replace(row, start=start, end=end) for row, start, end in bounds]
    return _resized(call, rows, method)


@operator("Upsample")
def _upsample(call: Call) -> Value:
    scales = call.array(1) if call.opset >= 9 else np.asarray(call.required("scales"), np.float32)
    mode = {"bilinear": "linear"}.get(call.attr("mode", "nearest"), call.attr("mode", "nearest"))
    return _resized(call, _scaled(call, scales), _Method(mode, "asymmetric", "floor"))


@operator("CenterCropPad")
def _center_crop_pad(call: Call) -> Value:
    """A negative width of padding crops. Of an odd difference the greater half is at the end."""
    x, sizes = call.input(0), call.ints(1)
    rank = len(x.shape)
    axes = [axis_of(axis, rank) for axis in call.attr("axes", tuple(range(rank)))]
    if len(sizes) != len(axes) or min(sizes, default=0) < 0:
        raise ValueError(f"the sizes {list(sizes)} are not one for each of {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for axis, size in zip(axes, sizes, strict=True):
        difference = size - shape_of(x)[axis]
        half = abs(difference) // 2
        before[axis] = half if difference > 0 else -half
        after[axis] = difference - before[axis]
    return call("pad", x, before=tuple(before), after=tuple(after), mode="constant", value=0)


def _given(call: Call, index: int) -> bool:
    """Whether there is such an input that is not empty, which stands for none."""
    value = call.optional(index)
    return value is not None and value.shape != (0,)


def _scaled(call: Call, scales: np.ndarray, axes: Sequence[int] | None = None) -> list[_Row]:
    shape = shape_of(call.input(0))
    axes = range(len(shape)) if axes is None else axes
    if scales.shape != (len(axes),) or not (scales > 0).all():
        raise ValueError(f"the scales {scales.tolist()} are not a positive number for each of {len(axes)} axes")
    # In single precision, as shape inference has it: 0.7 times 10 is 7.
    with np.errstate(over="ignore"):
        outs = np.floor(scales.astype(np.float32) * np.array([shape[axis] for axis in axes], np.float32))
    if not np.isfinite(outs).all():
        raise ValueError(f"the scales {scales.tolist()} make {call.input(0).type} infinite")
    return [
        _Row(axis, shape[axis], int(out), float(scale)) for axis, out, scale in zip(axes, outs, scales, strict=True)
    ]


def _sized(call: Call, axes: Sequence[int], sizes: Sequence[int]) -> list[_Row]:
    shape = shape_of(call.input(0))
    if len(sizes) != len(axes) or min(sizes, default=0) < 0:
        raise ValueError(f"the sizes {list(sizes)} are not one for each of {len(axes)} axes")
    scales = [size / max(shape[axis], 1) for axis, size in zip(axes, sizes, strict=True)]
    policy = call.attr("keep_aspect_ratio_policy", "stretch")
    if policy in ("not_larger", "not_smaller"):
        scale = (min if policy == "not_larger" else max)(scales)
        return [_Row(axis, shape[axis], int(scale * shape[axis] + 0.5), scale) for axis in axes]
    if policy != "stretch":
        raise ValueError(f"keep_aspect_ratio_policy {policy!r} is none of stretch, not_larger, not_smaller")
    return [_Row(axis, shape[axis], size, scale) for axis, size, scale in zip(axes, sizes, scales, strict=True)]


def _resized(call: Call, rows: Sequence[_Row], method: _Method) -> Value:
    x = call.input(0)
    if method.mode not in ("nearest", "linear", "cubic"):
        raise ValueError(f"mode {method.mode!r} is none of nearest, linear, cubic")
    shape = list(shape_of(x))
    for row in rows:
        shape[row.axis] = row.out
    type = x.type.with_shape(tuple(shape))
    if not type.size:
        return call.constant(Constant.full(type, 0))
    if not x.type.size:
        raise ValueError(f"{x.type} has no elements to make {type} of")
    # The axes that shrink come first: less is left to do for the others. Of those that grow alike the last one does,
    # whose elements are read one by one, those of the others in vectors.
    rows = sorted((row for row in rows if not row.stays), key=lambda row: (row.out / row.extent, -row.axis))
    outside = np.zeros((), bool)
    for row in rows:
        if method.coordinates == "tf_crop_and_resize":
            places = _places(row, method)
            beyond = (places < 0) | (places > row.extent - 1)
            outside = outside | beyond.reshape(-1, *(1,) * (len(shape) - 1 - row.axis))
    if method.mode == "nearest":
        for row in rows:
            x = call("gather", x, call.constant(_nearest(row, method), "int64"), axis=row.axis)
    elif rows:
        x = _interpolated(call, x, rows, method)
    if outside.any():
        x = call("where", call.constant(outside), call.like(method.outside, x), x)
    return x


def _interpolated(call: Call, x: Value, rows: Sequence[_Row], method: _Method) -> Value:
    given = x.dtype
    if not is_float(given):
        x = call.cast(x, "float32" if numpy_dtype(given).itemsize < 4 else "float64")
    elif given != "float64":
        x = call.cast(x, "float32")
    for row in rows:
        x = sum_along(call, x, row.axis, *_taps(row, method))
    if is_float(given):
        return call.cast(x, given)
    limits = np.iinfo(numpy_dtype(given))
    return call.cast(call("clip", call("round", x), min=float(limits.min), max=float(limits.max)), given)


# Places and weights ---------------------------------------------------------------------------------------


def _places(row: _Row, method: _Method, dtype: type[np.floating] = np.float64) -> np.ndarray:
    """Where in its row each element comes from, counted in elements."""
    number = np.arange(row.out, dtype=dtype)
    last = row.extent - 1
    length = row.scale * row.extent  # of the result, if it were no whole number
    mode = method.coordinates
    halves = (number + dtype(0.5)) / dtype(row.scale) - dtype(0.5)
    if mode == "align_corners":
        places = number * dtype(0 if length == 1 else last) / dtype(length - 1 or 1)
    elif mode == "asymmetric":
        places = number / dtype(row.scale)
    elif mode == "tf_crop_and_resize" and length == 1:
        places = np.full_like(number, (row.start + row.end) / 2 * last)
    elif mode == "tf_crop_and_resize":
        places = number * dtype((row.end - row.start) * last) / dtype(length - 1) + dtype(row.start * last)
    elif mode == "pytorch_half_pixel" and length == 1:
        places = np.zeros_like(number)
    elif mode in ("half_pixel", "pytorch_half_pixel"):
        places = halves
    elif mode == "half_pixel_symmetric":  # the middle of the row is the middle of the result
        places = halves + dtype(row.extent / 2 * (1 - row.out / length))
    else:
        raise UnsupportedError(f"its coordinate_transformation_mode is {mode!r}")
    return np.asarray(places)


def _nearest(row: _Row, method: _Method) -> np.ndarray:
    # In single precision, as other engines: where the scale is a third, 1 / scale is to be 3.
    places = _places(row, method, np.float32)
    half = np.float32(0.5)
    if method.nearest == "round_prefer_floor":
        index = np.ceil(places - half)
    elif method.nearest == "round_prefer_ceil":
        index = np.floor(places + half)
    elif method.nearest == "simple":
        index = np.floor(places) if row.scale >= 1 else np.ceil(places)
    elif method.nearest in ("floor", "ceil"):
        index = np.floor(places) if method.nearest == "floor" else np.ceil(places)
    else:
        raise ValueError(
            f"nearest_mode {method.nearest!r} is none of round_prefer_floor, round_prefer_ceil, floor, ceil"
        )
    return np.clip(index, 0, row.extent - 1)


def _taps(row: _Row, method: _Method) -> tuple[np.ndarray, np.ndarray]:
    """The elements [out, taps] that each is made of, and what they weigh. Beyond its ends a row goes on as it ends."""
    places = _places(row, method)[:, None]
    squeezed = min(row.scale, 1.0) if method.antialias else 1.0
    reach = int(np.ceil((1 if method.mode == "linear" else 2) / squeezed))
    taps = np.floor(places) + np.arange(1 - reach, reach + 1)
    distances = np.abs(taps - places) * squeezed
    weights = np.maximum(1 - distances, 0) if method.mode == "linear" else _cubic(distances, method.cubic)
    if method.exclude_outside:
        weights = np.where((taps < 0) | (taps > row.extent - 1), 0, weights)
    total = weights.sum(axis=1, keepdims=True)
    return np.clip(taps, 0, row.extent - 1), weights / np.where(total == 0, 1, total)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel of convolution (1981), zero from a distance of 2 on."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
