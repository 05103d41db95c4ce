"""Operators that spread windows over an image: ConvTranspose, Col2Im and MaxUnpool."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.operators.windows import window_attributes
from tensorc.frontend.registry import operator
from tensorc.frontend.rows import sum_along
from tensorc.ir.graph import Value


@operator("ConvTranspose")
def _conv_transpose(call: Call) -> Value:
    """A convolution with as many channels for each filter as there are elements between two steps of its stride.

    With a stride s, every s-th element of the result meets the same taps of a filter, every s-th of them too. So the
    filters part into s along each axis, which slide over the image in steps of one; their results are laid into each
    other, and cut to the shape that is asked for. No product is with a zero but where s does not divide the kernel.
    """
    x, w, bias = call.input(0), call.input(1), call.optional(2)
    batch, channels, *extents = shape_of(x)
    kernel = shape_of(w)[2:]
    groups = call.attr("group", 1)
    if len(w.shape) != len(x.shape) or not extents or shape_of(w)[0] != channels or channels % groups:
        raise ValueError(f"filters {w.type} in {groups} groups do not fit {x.type}")
    if call.attr("kernel_shape", kernel) != kernel:
        raise ValueError(f"kernel_shape {list(call.attr('kernel_shape'))} is not that of the filter {w.type}")
    strides, dilations = window_attributes(call, kernel)
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begins, out = _cut(call, extents, spread, strides)
    filters = _dilated(call, w, [d if s > 1 else 1 for d, s in zip(dilations, strides, strict=True)])
    dilations = tuple(d if s == 1 else 1 for d, s in zip(dilations, strides, strict=True))
    parted, taps = _parted(call, filters, strides, groups)
    reach = [(t - 1) * d for t, d in zip(taps, dilations, strict=True)]
    result = call("conv", x, parted, strides=(1,) * len(kernel), pads=(*reach, *reach), dilations=dilations,
                  groups=groups)  # fmt: skip
    # [batch, filters and phases, steps] to [batch, filters, steps and phases].
    steps = shape_of(result)[2:]
    count = shape_of(w)[1] * groups
    result = call.reshape(result, (batch, count, *strides, *steps))
    order = [axis for i in range(len(kernel)) for axis in (2 + len(kernel) + i, 2 + i)]
    result = call("transpose", result, perm=(0, 1, *order))
    whole = [n * s for n, s in zip(steps, strides, strict=True)]
    result = call.reshape(result, (batch, count, *whole))
    after = [size + begin - extent for size, begin, extent in zip(out, begins, whole, strict=True)]
    result = call("pad", result, before=(0, 0, *(-begin for begin in begins)), after=(0, 0, *after), mode="constant",
                  value=0)  # fmt: skip
    return result if bias is None else call("add", result, call.reshape(bias, (count, *(1,) * len(kernel))))


def _cut(call: Call, extents: Sequence[int], spread: Sequence[int], strides: Sequence[int]) -> tuple[list[int], list[int]]:  # fmt: skip  # noqa: E501
    """Where the result begins in what the filters reach along each axis, and its extents."""
    count = len(extents)
    extra = call.attr("output_padding", (0,) * count)
    pads = call.attr("pads", (0,) * 2 * count)
    wanted = call.attr("output_shape")
    mode = call.attr("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"):
        raise ValueError(f"auto_pad {mode!r} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    if len(extra) != count or len(pads) != 2 * count or min((*extra, *pads)) < 0:
        raise ValueError(f"pads {list(pads)} and output_padding {list(extra)} do not fit {count} axes")
    reached = [
        s * (n - 1) + more + size for s, n, more, size in zip(strides, extents, extra, spread, strict=True)
    ]  # fmt: skip
    if wanted is not None:
        wanted = wanted[-count:]  # some exporters name batch and channels too
    elif mode.startswith("SAME"):
        wanted = [n * s for n, s in zip(extents, strides, strict=True)]
    if wanted is None:
        pads = (0,) * 2 * count if mode == "VALID" else pads
        return list(pads[:count]), [
            size - before - after for size, before, after in zip(reached, pads[:count], pads[count:], strict=True)
        ]
    if len(wanted) != count:
        raise ValueError(f"output_shape {list(wanted)} does not fit {count} axes")
    begins = []
    for size, target in zip(reached, wanted, strict=True):
        total = max(size - target, 0)
        begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
    return begins, list(wanted)


def _dilated(call: Call, w: Value, dilations: Sequence[int]) -> Value:
    """Filters with zeros between their taps."""
    first, second, *kernel = shape_of(w)
    if all(d == 1 for d in dilations):
        return w
    apart = [extent for size in kernel for extent in (size, 1)]
    w = call.reshape(w, (first, second, *apart))
    after = [width for d in dilations for width in (0, d - 1)]
    w = call("pad", w, before=(0,) * len(w.shape), after=(0, 0, *after), mode="constant", value=0)
    w = call.reshape(w, (first, second, *(size * d for size, d in zip(kernel, dilations, strict=True))))
    sizes = tuple((size - 1) * d + 1 for size, d in zip(kernel, dilations, strict=True))
    return call("slice", w, starts=(0,) * len(w.shape), sizes=(first, second, *sizes), steps=(1,) * len(w.shape))


def _parted(call: Call, w: Value, strides: Sequence[int], groups: int) -> tuple[Value, list[int]]:
    """Filters [C, M/groups, kernel] as [M * phases, C/groups, taps] of a convolution, and their taps on each axis."""
    channels, each, *kernel = shape_of(w)
    count = len(kernel)
    taps = [-(-size // s) for size, s in zip(kernel, strides, strict=True)]
    fill = [t * s - size for t, s, size in zip(taps, strides, kernel, strict=True)]
    w = call("pad", w, before=(0,) * (2 + count), after=(0, 0, *fill), mode="constant", value=0)
    phases = [extent for t, s in zip(taps, strides, strict=True) for extent in (t, s)]
    w = call.reshape(w, (groups, channels // groups, each, *phases))
    # A convolution meets its taps from the last to the first.
    turned = [3 + 2 * i for i in range(count)]
    starts = tuple(extent - 1 if axis in turned else 0 for axis, extent in enumerate(shape_of(w)))
    steps = tuple(-1 if axis in turned else 1 for axis in range(len(w.shape)))
    w = call("slice", w, starts=starts, sizes=shape_of(w), steps=steps)
    w = call("transpose", w, perm=(0, 2, *(4 + 2 * i for i in range(count)), 1, *turned))
    return call.reshape(w, (groups * each * math.prod(strides), channels // groups, *taps)), taps


@operator("Col2Im")
def _col2im(call: Call) -> Value:
    """Along one axis after the other, each pixel is the sum of what the blocks over it have there."""
    x, image, block = call.input(0), call.ints(1), call.ints(2)
    count = len(image)
    strides, dilations = window_attributes(call, block)
    pads = call.attr("pads", (0,) * 2 * count)
    if len(block) != count or len(pads) != 2 * count or len(x.shape) != 3:
        raise ValueError(
            f"blocks {list(block)} padded by {list(pads)} of {x.type} do not fit an image of {list(image)}"
        )
    numbers = [
        (image[i] + pads[i] + pads[count + i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        for i in range(count)
    ]  # fmt: skip
    batch, rows, columns = shape_of(x)
    if rows % math.prod(block) or columns != math.prod(numbers):
        raise ValueError(f"{x.type} does not hold {numbers} blocks of {list(block)}")
    channels = rows // math.prod(block)
    x = call.reshape(x, (batch, channels, *block, *numbers))
    x = call("transpose", x, perm=(0, 1, *(axis for i in range(count) for axis in (2 + i, 2 + count + i))))
    x = call.reshape(x, (batch, channels, *(k * n for k, n in zip(block, numbers, strict=True))))
    for i in range(count):
        x = _folded(call, x, 2 + i, _meetings(image[i], block[i], numbers[i], pads[i], strides[i], dilations[i]))
    return x


def _meetings(extent: int, block: int, number: int, before: int, stride: int, dilation: int) -> list[list[int]]:
    """For each pixel the elements of [block, number] that lie on it."""
    found: list[list[int]] = [[] for _ in range(extent)]
    for element in range(block):
        for which in range(number):
            pixel = which * stride + element * dilation - before
            if 0 <= pixel < extent:
                found[pixel].append(element * number + which)
    return found


def _folded(call: Call, x: Value, axis: int, meetings: list[list[int]]) -> Value:
    """Sums along `axis` of the elements with these numbers; a zero behind the last one fills the shorter sums up."""
    extent = shape_of(x)[axis]
    most = max(map(len, meetings), default=0)
    index = np.array([[*found, *[extent] * (most - len(found))] for found in meetings]).reshape(-1, most)
    last = tuple(int(i == axis) for i in range(len(x.shape)))
    filled = call("pad", x, before=(0,) * len(x.shape), after=last, mode="constant", value=0)
    return sum_along(call, filled, axis, index)
