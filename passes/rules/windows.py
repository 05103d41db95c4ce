"""Windows over any number of axes, in terms of those over two that kernels have.

A convolution by constant filters over more axes takes the first of them as channels, and one by computed filters is
a product of matrices; a pool over more axes is one over the last two and one over the others.
"""

from __future__ import annotations

import math

from passes.rules.matching import reshaped
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node, Value
from tensorc.ir.rewriter import Builder


def unfold(build: Builder, x: Value, axis: int, out: int, kernel: int, stride: int, dilation: int) -> Value:
    """The `out` windows of `kernel` elements along `axis`, which becomes two axes: [out, kernel]."""
    shape = static_shape(x.shape)
    if kernel > 1:
        return build("unfold", x, axis=axis, out=out, kernel=kernel, stride=stride, dilation=dilation)
    if (out, stride) != (shape[axis], 1):
        sizes = (*shape[:axis], out, *shape[axis + 1 :])
        steps = tuple(stride if i == axis else 1 for i in range(len(shape)))
        x = build("slice", x, starts=(0,) * len(shape), sizes=sizes, steps=steps)
    return build("reshape", x, shape=(*shape[:axis], out, 1, *shape[axis + 1 :]))


def _padded(build: Builder, x: Value, before: tuple[int, ...], after: tuple[int, ...]) -> Value:
    """`x` with zeros around its axes from 2 on; those that are not named get none."""
    rest = (0,) * (len(x.shape) - 2 - len(before))
    if not any((*before, *after)):
        return x
    return build("pad", x, before=(0, 0, *before, *rest), after=(0, 0, *after, *rest), mode="constant", value=0)


def conv_1d(node: Node, build: Builder) -> Value | None:
    """A convolution over one axis is one over two, the first of extent 1."""
    x, w = node.inputs
    if len(x.shape) != 3:
        return None
    image = build("reshape", x, shape=(*x.shape[:2], 1, x.shape[2]))
    before, after = node.attrs["pads"]
    result = build(
        "conv", image, _filters(build, w, (*static_shape(w.shape)[:2], 1, *static_shape(w.shape)[2:])),
        strides=(1, *node.attrs["strides"]), pads=(0, before, 0, after), dilations=(1, *node.attrs["dilations"]),
        groups=node.attrs["groups"],
    )  # fmt: skip
    return build("reshape", result, shape=node.output.shape)


def _filters(build: Builder, w: Value, shape: tuple[int, ...]) -> Value:
    if w.constant is None:
        return build("reshape", w, shape=shape)
    return build.constant(reshaped(w.constant, shape), name=w.name)


def conv_nd(node: Node, build: Builder) -> Value | None:
    """Over three axes or more: what a filter meets along the first one becomes channels of as many images."""
    x, w = node.inputs
    if len(x.shape) < 5 or w.constant is None:
        return None
    attrs = node.attrs
    spatial = len(x.shape) - 2
    batch, _, first, *_ = static_shape(node.output.shape)
    channels = static_shape(x.shape)[1]
    filters, per_group, kernel, *inner_kernel = static_shape(w.shape)
    padded = _padded(build, x, attrs["pads"][:1], attrs["pads"][spatial : spatial + 1])
    windows = unfold(build, padded, 2, first, kernel, attrs["strides"][0], attrs["dilations"][0])
    inner = tuple(range(4, len(windows.shape)))
    images = build("transpose", windows, perm=(0, 2, 1, 3, *inner))
    images = build("reshape", images, shape=(batch * first, channels * kernel, *static_shape(x.shape)[3:]))
    result = build(
        "conv", images, _filters(build, w, (filters, per_group * kernel, *inner_kernel)),
        strides=attrs["strides"][1:], pads=attrs["pads"][1:spatial] + attrs["pads"][spatial + 1 :],
        dilations=attrs["dilations"][1:], groups=attrs["groups"],
    )  # fmt: skip
    out = static_shape(node.output.shape)[3:]
    result = build("reshape", result, shape=(batch, first, filters, *out))
    return build("transpose", result, perm=(0, 2, 1, *range(3, len(out) + 3)))


def conv_by_computed(node: Node, build: Builder) -> Value | None:
    """By filters that are not known before: their matrix times the windows of each image, side by side."""
    x, w = node.inputs
    if w.constant is not None:
        return None
    attrs, groups = node.attrs, node.attrs["groups"]
    spatial = len(x.shape) - 2
    batch, filters, *out = static_shape(node.output.shape)
    depth = math.prod(static_shape(w.shape)[1:])
    windows = _padded(build, x, attrs["pads"][:spatial], attrs["pads"][spatial:])
    for i in range(spatial):
        windows = unfold(build, windows, 2 + 2 * i, out[i], w.shape[2 + i], attrs["strides"][i], attrs["dilations"][i])
    outer, inner = range(2, 2 + 2 * spatial, 2), range(3, 2 + 2 * spatial, 2)
    columns = build("transpose", windows, perm=(0, 1, *inner, *outer))
    split = () if groups == 1 else (groups,)
    columns = build("reshape", columns, shape=(batch, *split, depth, math.prod(out)))
    matrix = build("reshape", w, shape=(*split, filters // groups, depth))
    return build("reshape", build("matmul", matrix, columns, transpose_b=0), shape=node.output.shape)


def pool_over_two_axes(node: Node, build: Builder) -> Value | None:
    """Maxima and averages can be taken along some axes first, and along the others of what that gives: the elements
    that a window has inside an image are as many as the product of those that it has along each axis."""
    (x,) = node.inputs
    kernel, strides, dilations = (node.attrs[key] for key in ("kernel", "strides", "dilations"))
    count = len(kernel)
    if count == 2 or len(x.shape) != count + 2:
        return None
    befores, afters = node.attrs["pads"][:count], node.attrs["pads"][count:]
    rest = {key: value for key, value in node.attrs.items() if key in ("ceil", "count_include_pad")}
    shape, result = static_shape(x.shape), static_shape(node.output.shape)
    if count == 1:
        image = build("reshape", x, shape=(*shape[:2], 1, shape[2]))
        pads = (0, *befores, 0, *afters)
        pooled = build(node.op, image, kernel=(1, *kernel), strides=(1, *strides), pads=pads,
                       dilations=(1, *dilations), **rest)  # fmt: skip
        return build("reshape", pooled, shape=result)
    images = build("reshape", x, shape=(shape[0], math.prod(shape[1:-2]), *shape[-2:]))
    pooled = build(node.op, images, kernel=kernel[-2:], strides=strides[-2:], pads=befores[-2:] + afters[-2:],
                   dilations=dilations[-2:], **rest)  # fmt: skip
    columns = build("reshape", pooled, shape=(*shape[:-2], math.prod(result[-2:])))
    pads = (*befores[:-2], 0, *afters[:-2], 0)
    pooled = build(node.op, columns, kernel=(*kernel[:-2], 1), strides=(*strides[:-2], 1), pads=pads,
                   dilations=(*dilations[:-2], 1), **rest)  # fmt: skip
    return build("reshape", pooled, shape=result)
