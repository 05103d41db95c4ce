"""Operators that read images at places that are data: GridSample, DeformConv, and AffineGrid, which makes such places.

Images are turned channels last, so that what lies at a place is one run of memory; each place's neighbours become
indices of gathers, and elementwise work weighs what they bring.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.operators.windows import window_of, window_outputs
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_CUBIC = -0.75


@dataclass(frozen=True)
class Tap:
    """One neighbour along one axis: its index, which lies inside the axis, what it weighs (None for all of it), and
    whether it is there at all (None for always)."""

    index: Value
    weight: Value | None = None
    inside: Value | None = None


def sum_of_taps(call: Call, rows: Value, extents: Sequence[int], taps: Sequence[Sequence[Tap]]) -> Value:
    """Weighted sums of the neighbours' rows. `rows` is [batch, places of an image, channels], an image of `extents`;
    the values of taps[axis] are [batch, places]. Gives [batch, places, channels]."""
    total: Value | None = None
    for corner in itertools.product(*taps):
        part = _row_of(call, rows, extents, corner)
        weight = _all(call, "mul", [tap.weight for tap in corner])
        if weight is not None:
            part = call("mul", part, _beside_channels(call, weight))
        total = part if total is None else call("add", total, part)
    assert total is not None
    return total


def _row_of(call: Call, rows: Value, extents: Sequence[int], corner: Sequence[Tap]) -> Value:
    index = corner[0].index
    for tap, extent in zip(corner[1:], extents[1:], strict=True):
        index = call("add", call("mul", index, call.like(extent, index)), tap.index)
    taken = call("gather_nd", rows, _beside_channels(call, index), batch_dims=1)
    inside = _all(call, "and", [tap.inside for tap in corner])
    if inside is None:
        return taken
    return call("where", _beside_channels(call, inside), taken, call.like(0, taken))


def _all(call: Call, op: str, values: Sequence[Value | None]) -> Value | None:
    result: Value | None = None
    for value in values:
        if value is not None:
            result = value if result is None else call(op, result, value)
    return result


def _beside_channels(call: Call, value: Value) -> Value:
    return call.reshape(value, (*shape_of(value), 1))


def channels_last(call: Call, x: Value, groups: int = 1) -> Value:
    """[batch, channels, image...] as [batch * groups, places, channels / groups]."""
    batch, channels, *image = shape_of(x)
    flat = call.reshape(x, (batch * groups, channels // groups, math.prod(image)))
    return call("transpose", flat, perm=(0, 2, 1))


def index_of(call: Call, place: Value, extent: int) -> Value:
    """`place`, a whole number, as an index that lies inside, whatever number it is: nan is 0."""
    zero = call.like(0, place)
    held = call("where", call("greater", place, zero), call("min", place, call.like(extent - 1, place)), zero)
    return call.cast(held, "int64")


# GridSample -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Border:
    """What is read beyond the ends of an axis; low and high are where it ends."""

    extent: int
    padding: str
    aligned: bool

    @property
    def low(self) -> float:
        return 0.0 if self.aligned else -0.5

    @property
    def high(self) -> float:
        return self.extent - 1 - self.low

    def place(self, call: Call, number: Value) -> Value:
        """The place that a number from -1 to 1 means, counted in elements."""
        last = self.extent - 1 if self.aligned else self.extent
        scaled = call("mul", call("add", number, call.like(1, number)), call.like(last / 2, number))
        return scaled if self.aligned else call("sub", scaled, call.like(0.5, number))

    def moved(self, call: Call, place: Value) -> Value:
        """A place beyond the ends moved to where its element is."""
        if self.padding == "zeros":
            return place
        below = call("less", place, call.like(self.low, place))
        beyond = call("or", below, call("greater", place, call.like(self.high, place)))
        if self.padding == "border":
            held = call("max", call("min", place, call.like(self.extent - 1, place)), call.like(0, place))
            return call("where", beyond, held, place)
        return call("where", beyond, self._reflected(call, place), place)

    def _reflected(self, call: Call, place: Value) -> Value:
        length = self.high - self.low
        if length == 0:
            return call("mul", place, call.like(0, place))
        low = call.like(self.low, place)
        along = call("mod", call("sub", place, low), call.like(2 * length, place))
        return call("add", call("min", along, call("sub", call.like(2 * length, place), along)), low)

    def tap(self, call: Call, place: Value, weight: Value | None) -> Tap:
        """The element at `place`, a whole number."""
        if self.padding != "zeros":
            place = call("floor", self.moved(call, place))  # a reflection at half an element may miss by a rounding
            return Tap(index_of(call, place, self.extent), weight)
        reached = call("greater_equal", place, call.like(0, place))
        inside = call("and", reached, call("less", place, call.like(self.extent, place)))
        return Tap(index_of(call, place, self.extent), weight, inside)


@operator("GridSample")
def _grid_sample(call: Call) -> Value:
    x, grid = call.input(0), call.input(1)
    batch, channels, *extents = shape_of(x)
    out = shape_of(grid)[1:-1]
    if len(grid.shape) != len(x.shape) or shape_of(grid)[0] != batch or shape_of(grid)[-1] != len(extents):
        raise ValueError(f"a grid {grid.type} does not fit {x.type}")
    mode, padding = call.attr("mode", "linear"), call.attr("padding_mode", "zeros")
    mode = _MODES.get(mode, mode)
    if mode not in ("nearest", "linear", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise ValueError(f"mode {mode!r} with padding {padding!r}")
    exact = "float64" if "float64" in (x.dtype, grid.dtype) else "float32"
    taps = []
    for axis, extent in enumerate(extents):
        border = _Border(extent, padding, bool(call.attr("align_corners", 0)))
        number = call("slice", grid, starts=(*(0,) * (len(out) + 1), len(extents) - 1 - axis),
                      sizes=(batch, *out, 1), steps=(1,) * (len(out) + 2))  # fmt: skip
        number = call.cast(call.reshape(number, (batch, math.prod(out))), exact)
        taps.append(_neighbours(call, border, border.place(call, number), mode))
    weighed = x if mode == "nearest" else call.cast(x, exact)
    sampled = sum_of_taps(call, channels_last(call, weighed), extents, taps)
    sampled = call.cast(call("transpose", sampled, perm=(0, 2, 1)), x.dtype)
    return call.reshape(sampled, (batch, channels, *out))


def _neighbours(call: Call, border: _Border, place: Value, mode: str) -> list[Tap]:
    if mode == "nearest":
        return [border.tap(call, border.moved(call, call("round", place)), None)]
    if mode == "linear":  # of a cubic, every neighbour is moved by itself
        place = border.moved(call, place)
    first = call("floor", place)
    behind = call("sub", place, first)
    weights = [call("sub", call.like(1, behind), behind), behind] if mode == "linear" else _cubic(call, behind)
    start = 0 if mode == "linear" else -1
    return [
        border.tap(call, call("add", first, call.like(start + i, first)), weight) for i, weight in enumerate(weights)
    ]


def _cubic(call: Call, behind: Value) -> list[Value]:
    """What the four neighbours of a place weigh that lies `behind` the second, by Keys' kernel of convolution."""
    a = _CUBIC
    ahead = call("sub", call.like(1, behind), behind)

    def polynomial(x: Value, *coefficients: float) -> Value:
        result = call.like(coefficients[0], x)
        for coefficient in coefficients[1:]:
            result = call("add", call("mul", result, x), call.like(coefficient, x))
        return result

    def near(x: Value) -> Value:
        return polynomial(x, a + 2, -(a + 3), 0, 1)

    def far(x: Value) -> Value:
        return polynomial(call("add", x, call.like(1, x)), a, -5 * a, 8 * a, -4 * a)

    return [far(behind), near(behind), near(ahead), far(ahead)]


@operator("AffineGrid")
def _affine_grid(call: Call) -> Value:
    """The places of the result, as numbers from -1 to 1 and a one, by the matrices."""
    theta = call.input(0)
    _, _, *extents = call.ints(1)
    batch = shape_of(theta)[0]
    if shape_of(theta)[1:] != (len(extents), len(extents) + 1):
        raise ValueError(f"matrices {theta.type} do not fit an image of {extents}")
    rows = []
    for extent in extents:
        if call.attr("align_corners", 0):
            rows.append(np.linspace(-1, 1, extent))
        else:
            rows.append((2 * np.arange(extent) + 1) / max(extent, 1) - 1)
    places = [axis.reshape(-1) for axis in np.meshgrid(*rows, indexing="ij")]
    base = np.stack([*places[::-1], np.ones(math.prod(extents))], axis=1)
    grid = call("matmul", call.constant(base, theta.dtype), theta, transpose_b=1)
    return call.reshape(grid, (batch, *extents, len(extents)))


# DeformConv -----------------------------------------------------------------------------------------------


@operator("DeformConv")
def _deform_conv(call: Call) -> Value:
    """A product of the filters' matrix with the windows, whose elements are read where the offsets say."""
    x, w, offset, bias, mask = call.input(0), call.input(1), call.input(2), call.optional(3), call.optional(4)
    kernel = shape_of(w)[2:]
    window = window_of(call, x, kernel)
    groups, offset_groups = call.attr("group", 1), call.attr("offset_group", 1)
    batch, channels, *extents = shape_of(x)
    filters, out = shape_of(w)[0], shape_of(offset)[2:]
    elements, places = math.prod(kernel), math.prod(out)
    if channels != shape_of(w)[1] * groups or filters % groups or channels % offset_groups:
        raise ValueError(f"{w.type} in {groups} groups with {offset_groups} of offsets does not fit {x.type}")
    reached = window_outputs(extents, window)
    if out != reached:
        raise ValueError(f"offsets {offset.type} are not those of windows at {list(reached)} places")
    if shape_of(offset) != (batch, offset_groups * elements * len(kernel), *out) or len(out) != len(kernel):
        raise ValueError(f"offsets {offset.type} in {offset_groups} groups do not fit {x.type} and {w.type}")
    images = batch * offset_groups
    steps = call.reshape(offset, (images, elements, len(kernel), places))
    steps = call("transpose", steps, perm=(0, 3, 1, 2))
    inner = np.indices(kernel).reshape(len(kernel), 1, elements)
    outer = np.indices(out).reshape(len(kernel), places, 1)
    taps = []
    for axis, extent in enumerate(extents):
        step = call("slice", steps, starts=(0, 0, 0, axis), sizes=(images, places, elements, 1), steps=(1,) * 4)
        start = outer[axis] * window.strides[axis] - window.pads[axis] + inner[axis] * window.dilations[axis]
        place = call("add", call.reshape(step, (images, places, elements)), call.constant(start, offset.dtype))
        place = call.reshape(place, (images, places * elements))
        taps.append(_neighbours(call, _Border(extent, "zeros", aligned=True), place, "linear"))
    sampled = sum_of_taps(call, channels_last(call, x, offset_groups), extents, taps)
    if mask is not None:
        mask = call("transpose", call.reshape(mask, (images, elements, places)), perm=(0, 2, 1))
        sampled = call("mul", sampled, call.reshape(mask, (images, places * elements, 1)))
    # Windows as rows [places, elements and channels] of a product with the filters' matrix, which is mostly constant.
    windows = call.reshape(sampled, (batch, offset_groups, places, elements, channels // offset_groups))
    if offset_groups > 1:
        windows = call("transpose", windows, perm=(0, 2, 3, 1, 4))
    each, depth = channels // groups, channels // groups * elements
    matrix = call("transpose", call.reshape(w, (filters, each, elements)), perm=(0, 2, 1))
    if groups == 1:
        rows = call.reshape(windows, (batch, places, depth))
        matrix = call.reshape(matrix, (filters, depth))
    else:
        windows = call.reshape(windows, (batch, places, elements, groups, each))
        rows = call.reshape(call("transpose", windows, perm=(0, 3, 1, 2, 4)), (batch, groups, places, depth))
        matrix = call.reshape(matrix, (groups, filters // groups, depth))
    result = call("matmul", rows, matrix, transpose_b=1)
    last = len(result.shape) - 1
    result = call("transpose", result, perm=(*range(last - 1), last, last - 1))
    result = call.reshape(result, (batch, filters, *out))
    return result if bias is None else call("add", result, call.reshape(bias, (filters, *(1,) * len(out))))
