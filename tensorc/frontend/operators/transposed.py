"""Operators that spread windows over an image: ConvTranspose, Col2Im and MaxUnpool."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.operators.windows import window_attributes
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Constant, Value
from tensorc.ir.types import TensorType

#: Sums of up to this many terms are taken along all axes at once.
_TERMS = 32


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
    """A block's element lies on pixels that are a stride apart. So the pixels part into as many images as there are
    elements between two steps of the stride, each a sum of blocks' elements that are shifted by whole steps; these
    images are laid into each other."""
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
    steps = [-(-extent // s) for extent, s in zip(image, strides, strict=True)]
    shifts = [_shifts(block[i], strides[i], dilations[i], pads[i]) for i in range(count)]
    together = [range(count)] if math.prod(map(len, shifts)) <= _TERMS else [range(i, i + 1) for i in range(count)]
    for axes in together:
        x = _sum_of_shifted(call, x, {i: shifts[i] for i in axes}, strides, steps)
    # [.., phases, steps] to [.., steps and phases].
    x = call("transpose", x, perm=(0, 1, *(axis for i in range(count) for axis in (2 + count + i, 2 + i))))
    x = call.reshape(x, (batch, channels, *(n * s for n, s in zip(steps, strides, strict=True))))
    return call("slice", x, starts=(0,) * (2 + count), sizes=(batch, channels, *image), steps=(1,) * (2 + count))


@dataclass(frozen=True)
class _Shift:
    """`count` elements of a block from `first` on, which lie `steps` strides, and `phase` and so on elements, behind
    where their block stands."""

    first: int
    count: int
    steps: int
    phase: int


def _shifts(block: int, stride: int, dilation: int, before: int) -> list[_Shift]:
    """Those of one axis: neighbours in one step are taken together."""
    places = [divmod(element * dilation - before, stride) for element in range(block)]
    if dilation > 1:
        return [_Shift(i, 1, steps, phase) for i, (steps, phase) in enumerate(places)]
    found = []
    for steps, group in itertools.groupby(range(block), lambda element: places[element][0]):
        elements = list(group)
        found.append(_Shift(elements[0], len(elements), steps, places[elements[0]][1]))
    return found


def _sum_of_shifted(call: Call, x: Value, shifts: Mapping[int, Sequence[_Shift]], strides: Sequence[int],
                    steps: Sequence[int]) -> Value:  # fmt: skip
    """Blocks' elements [batch, channels, block, numbers] summed up where they lie in the result's phases and steps,
    which take the places of those axes of block and numbers that there are shifts for."""
    batch, channels, *rest = shape_of(x)
    count = len(steps)
    block, numbers = rest[:count], rest[count:]
    total: Value | None = None
    for shifted in itertools.product(*shifts.values()):
        starts, sizes = [0] * len(x.shape), [batch, channels, *rest]
        before, after = [0] * len(x.shape), [0] * len(x.shape)
        for i, shift in zip(shifts, shifted, strict=True):
            phases, along = 2 + i, 2 + count + i
            starts[phases], sizes[phases] = shift.first, shift.count
            before[phases], after[phases] = shift.phase, strides[i] - shift.phase - shift.count
            before[along], after[along] = shift.steps, steps[i] - numbers[i] - shift.steps
        if any(-before[axis] >= extent or -after[axis] >= extent for axis, extent in enumerate(sizes)):
            continue  # nothing of it lies in the image
        part = call("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=(1,) * len(sizes))
        part = call("pad", part, before=tuple(before), after=tuple(after), mode="constant", value=0)
        total = part if total is None else call("add", total, part)
    if total is None:
        shape = [*block, *numbers]
        for i in shifts:
            shape[i], shape[count + i] = strides[i], steps[i]
        return call.constant(Constant.full(x.type.with_shape((batch, channels, *shape)), 0))
    return total


@operator("MaxUnpool")
def _max_unpool(call: Call) -> Value:
    """Elements are put where the indices say; the rest is zeros. Indices count in the shape that the window gives, to
    which a greater shape that is asked for adds zeros."""
    x, indices = call.input(0), call.input(1)
    batch, channels, *extents = shape_of(x)
    kernel = call.required("kernel_shape")
    strides, _ = window_attributes(call, kernel)
    count = len(kernel)
    pads = call.attr("pads", (0,) * 2 * count)
    if count != len(extents) or len(pads) != 2 * count or shape_of(indices) != shape_of(x):
        raise ValueError(
            f"a kernel {list(kernel)} padded by {list(pads)} and indices {indices.type} do not fit {x.type}"
        )
    out = [
        (extents[i] - 1) * strides[i] + kernel[i] - pads[i] - pads[count + i] for i in range(count)
    ]  # fmt: skip
    shape = (batch, channels, *out)
    if min(out) < 0:
        raise ValueError(f"the pads {list(pads)} leave nothing of {shape}")
    nothing = call.constant(Constant.full(TensorType(x.dtype, (1, math.prod(shape), 1)), 0))
    elements = x.type.size
    result = call("scatter", nothing, call.reshape(indices, (1, elements)), call.reshape(x, (1, elements, 1)))
    result = call.reshape(result, shape)
    if call.optional(2) is None:
        return result
    wanted = call.ints(2)
    if len(wanted) != len(shape):
        raise ValueError(f"the shape {list(wanted)} does not fit {x.type}")
    after = tuple(size - extent for size, extent in zip(wanted, shape, strict=True))
    return call("pad", result, before=(0,) * len(shape), after=after, mode="constant", value=0)
