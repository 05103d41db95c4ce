"""Operators that change the shape or the order of elements, joining and cutting included."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorc.frontend.call import Call, axes_of, axis_of, shape_of
from tensorc.frontend.registry import operator
from tensorc.ir import dims
from tensorc.ir.graph import Value


@operator("Reshape")
def _reshape(call: Call) -> Value:
    x, target = call.input(0), list(call.ints(1))
    shape = shape_of(x)
    if not call.attr("allowzero", 0):
        for index, dim in enumerate(target):
            if dim == 0:
                if index >= len(shape):
                    raise ValueError(f"the shape {target} copies axis {index}, which {x.type} lacks")
                target[index] = shape[index]
    if -1 in target:
        index = target.index(-1)
        known = math.prod(target[:index] + target[index + 1 :])
        if known <= 0 or math.prod(shape) % known:
            raise ValueError(f"cannot reshape {x.type} to {target}")
        target[index] = math.prod(shape) // known
    return call.reshape(x, target)


@operator("Flatten")
def _flatten(call: Call) -> Value:
    x = call.input(0)
    shape = shape_of(x)
    axis = call.attr("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise ValueError(f"axis {axis} is outside {x.type}")
    axis += len(shape) if axis < 0 else 0
    return call.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _axes(call: Call) -> tuple[int, ...] | None:
    """Squeeze and Unsqueeze have their axes as an attribute before opset 13, then as an input."""
    if call.opset < 13:
        axes: tuple[int, ...] | None = call.attr("axes")
        return axes
    return None if call.optional(1) is None else call.ints(1)


@operator("Squeeze")
def _squeeze(call: Call) -> Value:
    x = call.input(0)
    shape = shape_of(x)
    axes = _axes(call)
    gone = tuple(i for i, dim in enumerate(shape) if dim == 1) if axes is None else axes_of(axes, len(shape))
    if any(shape[axis] != 1 for axis in gone):
        raise ValueError(f"cannot squeeze axes {list(gone)} of {x.type}: not all are 1")
    return call.reshape(x, [dim for axis, dim in enumerate(shape) if axis not in gone])


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    x, axes = call.input(0), _axes(call)
    if axes is None:
        raise ValueError("the axes are missing")
    rank = len(x.shape) + len(axes)
    added = axes_of(axes, rank)
    if len(added) != len(axes):
        raise ValueError(f"the axes {list(axes)} repeat one")
    rest = iter(shape_of(x))
    return call.reshape(x, [1 if axis in added else next(rest) for axis in range(rank)])


@operator("Transpose")
def _transpose(call: Call) -> Value:
    x = call.input(0)
    return call("transpose", x, perm=call.attr("perm", tuple(reversed(range(len(x.shape))))))


@operator("Concat")
def _concat(call: Call) -> Value:
    values = call.all_inputs()
    axis = axis_of(call.required("axis"), len(values[0].shape))
    parts = [value for value in values if value.type.size]
    return call("concat", *(parts or values), axis=axis)


def cut(call: Call, x: Value, axis: int, start: int, size: int, step: int = 1) -> Value:
    """`size` elements of one axis of `x`."""
    shape = shape_of(x)

    def along(value: int, others: Sequence[int]) -> tuple[int, ...]:
        return (*others[:axis], value, *others[axis + 1 :])

    zeros, ones = (0,) * len(shape), (1,) * len(shape)
    return call("slice", x, starts=along(start, zeros), sizes=along(size, shape), steps=along(step, ones))


@operator("Split")
def _split(call: Call) -> list[Value]:
    x = call.input(0)
    axis = axis_of(call.attr("axis", 0), len(x.shape))
    extent = shape_of(x)[axis]
    sizes: tuple[int, ...] | None = call.attr("split")
    if call.opset >= 13:
        sizes = None if call.optional(1) is None else call.ints(1)
    if sizes is None:
        count = call.attr("num_outputs", len(call.node.output))
        if call.opset < 18 and extent % count:
            raise ValueError(f"axis {axis} of {x.type} does not split into {count} equal parts")
        each = -(-extent // count)
        sizes = tuple(max(min(each, extent - each * i), 0) for i in range(count))
    if sum(sizes) != extent or min(sizes) < 0:
        raise ValueError(f"the parts {list(sizes)} do not add up to axis {axis} of {x.type}")
    return [cut(call, x, axis, sum(sizes[:i]), size) for i, size in enumerate(sizes)]


@operator("Slice")
def _slice(call: Call) -> Value:
    x = call.input(0)
    shape = shape_of(x)
    if call.opset < 10:
        starts, ends = call.required("starts"), call.required("ends")
        axes, steps = call.attr("axes"), None
    else:
        starts, ends = call.ints(1), call.ints(2)
        axes, steps = (None if call.optional(i) is None else call.ints(i) for i in (3, 4))
    axes = range(len(starts)) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("starts, ends, axes and steps are of different lengths")
    whole = [(0, dim, 1) for dim in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index = axis_of(axis, len(shape))
        picked = range(*slice(start, end, step).indices(shape[index]))  # numpy and ONNX clamp alike
        whole[index] = (picked.start if len(picked) else 0, len(picked), step)
    first, sizes, strides = zip(*whole, strict=True) if whole else ((), (), ())
    return call("slice", x, starts=first, sizes=sizes, steps=strides)


@operator("Expand")
def _expand(call: Call) -> Value:
    x = call.input(0)
    return call("expand", x, shape=dims.broadcast(x.shape, call.ints(1)))


@operator("Tile")
def _tile(call: Call) -> Value:
    """Each repeated axis gets an axis of 1 before it, which is expanded and merged again."""
    x, repeats = call.input(0), call.ints(1)
    shape = shape_of(x)
    if len(repeats) != len(shape) or min(repeats, default=0) < 0:
        raise ValueError(f"the repeats {list(repeats)} do not fit {x.type}")
    apart: list[int] = []
    wide: list[int] = []
    for dim, repeat in zip(shape, repeats, strict=True):
        apart += [dim] if repeat == 1 else [1, dim]
        wide += [dim] if repeat == 1 else [repeat, dim]
    expanded = call("expand", call.reshape(x, apart), shape=tuple(wide))
    return call.reshape(expanded, [dim * repeat for dim, repeat in zip(shape, repeats, strict=True)])


@operator("Pad")
def _pad(call: Call) -> Value:
    x = call.input(0)
    rank = len(x.shape)
    if call.opset < 11:
        widths, value = call.required("pads"), call.attr("value", 0.0)
    else:
        widths = call.ints(1)
        value = 0 if call.optional(2) is None else call.number(2)
    axes = range(rank) if call.optional(3) is None else [axis_of(axis, rank) for axis in call.ints(3)]
    if len(widths) != 2 * len(axes):
        raise ValueError(f"the pads {list(widths)} are not two for each of {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = widths[index], widths[len(axes) + index]
    return call("pad", x, before=tuple(before), after=tuple(after), mode=call.attr("mode", "constant"), value=value)


def _image(call: Call) -> tuple[Value, tuple[int, int, int, int], int]:
    """The image, its shape and the size of its blocks, for the two operators that trade space for depth."""
    x, block = call.input(0), call.required("blocksize")
    if call.attr("mode", "DCR") not in ("DCR", "CRD"):
        raise ValueError(f"mode {call.attr('mode')!r} is neither DCR nor CRD")
    if len(x.shape) != 4 or block < 1:
        raise ValueError(f"blocks of {block} do not fit {x.type}")
    n, c, h, w = shape_of(x)
    return x, (n, c, h, w), block


@operator("DepthToSpace")
def _depth_to_space(call: Call) -> Value:
    x, (n, c, h, w), b = _image(call)
    if c % (b * b):
        raise ValueError(f"the channels of {x.type} do not divide by {b * b}")
    depth = c // (b * b)
    if call.attr("mode", "DCR") == "DCR":
        x = call("transpose", call.reshape(x, (n, b, b, depth, h, w)), perm=(0, 3, 4, 1, 5, 2))
    else:
        x = call("transpose", call.reshape(x, (n, depth, b, b, h, w)), perm=(0, 1, 4, 2, 5, 3))
    return call.reshape(x, (n, depth, h * b, w * b))


@operator("SpaceToDepth")
def _space_to_depth(call: Call) -> Value:
    x, (n, c, h, w), b = _image(call)
    if h % b or w % b:
        raise ValueError(f"the image {x.type} does not divide into blocks of {b}")
    perm = (0, 3, 5, 1, 2, 4) if call.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    x = call("transpose", call.reshape(x, (n, c, h // b, b, w // b, b)), perm=perm)
    return call.reshape(x, (n, c * b * b, h // b, w // b))
