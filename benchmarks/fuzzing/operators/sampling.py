"""Operators that read images where other tensors say, or put windows together again."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzzing.graphs import Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import as_float32, place, types

#: Where a place falls between two elements is a matter of roundings, that 16-bit types do differently.
_WIDE = ("float32", "float64")


def _sizes(g: Graph, rank: int = 2, low: int = 1, high: int = 9) -> tuple[int, ...]:
    return tuple(g.number(low, high) for _ in range(rank))


@place("GridSample")
def _grid_sample(g: Graph, name: str) -> None:
    if g.special:
        raise UnfitError  # places that are no numbers
    dtype = g.dtype([t for t in types(g, name) if t in _WIDE])
    rank = 2 if g.opset < 20 or g.chance(0.7) else 3
    batch = g.number(1, 2)
    x = g.like(dtype, (batch, g.number(1, 3), *_sizes(g, rank)))
    modes = ("bilinear", "nearest", "bicubic") if g.opset < 20 else ("linear", "nearest", "cubic")
    mode = g.pick(modes[: 3 if rank == 2 else 2])
    # Each place new: where a computed one falls, a rounding may decide.
    grid = g.new(dtype, (batch, *_sizes(g, rank), rank), -1.3, 1.3)
    g.node(name, [x, grid], mode=g.pick((None, mode)), align_corners=g.pick((None, 0, 1)),
           padding_mode=g.pick((None, "zeros", "border", "reflection")))  # fmt: skip
    as_float32(g)


@place("AffineGrid")
def _affine_grid(g: Graph, name: str) -> None:
    rank = g.pick((2, 3))
    batch = g.number(1, 3)
    theta = g.like(g.dtype(types(g, name)), (batch, rank, rank + 1))
    size = g.given([batch, g.number(1, 3), *_sizes(g, rank, 2, 7)])
    g.node(name, [theta, size], align_corners=g.pick((None, 0, 1)))


def _regions(g: Graph, dtype: str, count: int, sizes: tuple[int, ...], whole: bool) -> np.ndarray:
    rows = []
    for _ in range(count):
        (y0, x0), (h, w) = (tuple(g.rng.uniform(0, size - 1) for size in sizes) for _ in range(2))
        row = np.array([x0, y0, min(x0 + w, sizes[1]), min(y0 + h, sizes[0])])
        rows.append(np.rint(row) if whole else row)
    return np.array(rows).reshape(count, 4).astype(dtype)


@place("RoiAlign")
def _roi_align(g: Graph, name: str) -> None:
    dtype = g.dtype([t for t in types(g, name) if t in _WIDE])
    if g.special:
        raise UnfitError
    batch, sizes = g.number(1, 2), _sizes(g, 2, 2, 12)
    x = g.like(dtype, (batch, g.number(1, 3), *sizes))
    count = g.number(1, 4)
    rois = g.given(_regions(g, dtype, count, sizes, False), g.chance(0.4))
    given: dict[str, object] = {"output_height": g.number(1, 4), "output_width": g.number(1, 4)}
    if g.opset >= 16:
        given["coordinate_transformation_mode"] = g.pick((None, "half_pixel", "output_half_pixel"))
    # ONNX Runtime's maximum is of products with the weights, not of what is between the elements.
    g.node(name, [x, rois, g.given(g.data("int64", (count,), 0, batch - 1), g.chance(0.4))],
           sampling_ratio=g.pick((None, 0, 1, 2, 3)), spatial_scale=g.pick((None, 0.5, 1.0)),
           mode=g.pick((None, "avg", "max")), **given)  # fmt: skip


@place("MaxRoiPool")
def _max_roi_pool(g: Graph, name: str) -> None:
    if g.special or g.opset >= 22:  # of no other engine from there on
        raise UnfitError
    batch, sizes, count = g.number(1, 2), _sizes(g, 2, 2, 9), g.number(1, 4)
    x = g.like("float32", (batch, g.number(1, 3), *sizes), exact=True)
    regions = _regions(g, "float32", count, sizes, True)
    regions = np.concatenate([g.data("int64", (count, 1), 0, batch - 1).astype(np.float32), regions], 1)
    g.node(name, [x, g.given(regions, g.chance(0.4))], exact=True, pooled_shape=[g.number(1, 4), g.number(1, 4)])


@place("MaxUnpool")
def _max_unpool(g: Graph, name: str) -> None:
    rank = g.pick((1, 2, 2, 3))
    kernel, strides = [g.number(1, 3) for _ in range(rank)], [g.number(1, 3) for _ in range(rank)]
    shape = (g.number(1, 2), g.number(1, 3), *_sizes(g, rank, 1, 4))
    x = g.like(g.dtype(types(g, name)), shape)
    pads = [0] * 2 * rank
    out = [(n - 1) * s + k for n, s, k in zip(shape[2:], strides, kernel, strict=True)]
    if g.chance(0.2):
        pads = [g.number(0, (k - 1) // 2) for k in kernel] * 2
        out = [n - pads[i] - pads[i + rank] for i, n in enumerate(out)]
    # Each place of an image once; those of an image count on from the one before.
    per, whole = int(np.prod(shape[2:])), int(np.prod(out))
    if whole < per:
        raise UnfitError
    images = shape[0] * shape[1]
    index = np.stack([g.rng.permutation(whole)[:per] + whole * i for i in range(images)]).reshape(shape)
    larger = None
    if g.chance(0.3):
        larger = g.given([*shape[:2], *(n + g.number(0, 2) for n in out)])
    g.node(name, [x, g.given(index.astype(np.int64), g.chance(0.4)), larger], exact=True, kernel_shape=kernel,
           strides=strides, pads=pads if any(pads) else None)  # fmt: skip


@place("Col2Im")
def _col2im(g: Graph, name: str) -> None:
    rank = g.pick((1, 2, 2, 3))
    image, block = _sizes(g, rank, 2, 8), [g.number(1, 3) for _ in range(rank)]
    strides, dilations = ([g.pick((1, 1, 2)) for _ in range(rank)] for _ in range(2))
    pads = [g.number(0, 1) for _ in range(2 * rank)] if g.chance(0.4) else [0] * 2 * rank
    counts = [
        (n + pads[i] + pads[i + rank] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        for i, n in enumerate(image)
    ]
    if min(counts) < 1:
        raise UnfitError
    channels = g.number(1, 3)
    x = g.like(g.dtype([t for t in types(g, name) if t != "bool"]),
               (g.number(1, 2), channels * int(np.prod(block)), int(np.prod(counts))))  # fmt: skip
    given = {"strides": strides, "dilations": dilations, "pads": pads}
    plain = {"strides": 1, "dilations": 1, "pads": 0}
    given = {key: value for key, value in given.items() if set(value) != {plain[key]} or g.chance(0.3)}
    g.node(name, [x, g.given(list(image)), g.given(block)], **given)


@place("DeformConv")
def _deform_conv(g: Graph, name: str) -> None:
    if g.special:
        raise UnfitError
    dtype = g.dtype([t for t in types(g, name) if t in _WIDE])
    group, per_offset = g.pick((1, 1, 2)), g.pick((1, 1, 2))
    channels = group * per_offset * g.number(1, 2)
    batch, sizes, kernel = g.number(1, 2), _sizes(g, 2, 3, 7), [g.number(1, 3) for _ in range(2)]
    strides, dilations = ([g.pick((1, 1, 2)) for _ in range(2)] for _ in range(2))
    pads = [g.number(0, 1) for _ in range(4)]
    out = [(n + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
           for i, n in enumerate(sizes)]  # fmt: skip
    if min(out) < 1:
        raise UnfitError
    places = per_offset * kernel[0] * kernel[1]
    maps = group * g.number(1, 3)
    inputs: list[Value | None] = [
        g.like(dtype, (batch, channels, *sizes)),
        g.like(dtype, (maps, channels // group, *kernel)),
        g.new(dtype, (batch, 2 * places, *out), -2, 2),
        g.like(dtype, (maps,)) if g.chance(0.5) else None,
        g.new(dtype, (batch, places, *out), 0, 1) if g.chance(0.5) else None,
    ]
    g.node(name, inputs, strides=strides, dilations=dilations, pads=pads, group=group, offset_group=per_offset,
           kernel_shape=kernel if g.chance(0.5) else None)  # fmt: skip
    as_float32(g)


@place("NonMaxSuppression")
def _non_max_suppression(g: Graph, name: str) -> None:
    batch, classes, count = g.number(1, 2), g.number(1, 3), g.number(1, 12)
    low, size = g.data("float32", (batch, count, 2), 0, 8), g.data("float32", (batch, count, 2), 1, 5)
    center = g.chance(0.4)
    boxes = np.concatenate([low + size / 2, size] if center else [low, low + size], -1)
    if not center and g.chance(0.3):  # corners in any order
        boxes = boxes[..., [2, 3, 0, 1]]
    order = np.stack([g.rng.permutation(count) for _ in range(batch * classes)]).reshape(batch, classes, count)
    scores = (order + 1).astype(np.float32) / (count + 1)  # all different
    inputs: list[Value | None] = [g.given(np.ascontiguousarray(boxes), g.chance(0.3)), g.given(scores, g.chance(0.3))]
    inputs.append(g.given(np.asarray(g.number(0, count), np.int64).reshape(g.pick(((), (1,))))))
    if g.chance(0.8):
        inputs.append(g.given(np.asarray(g.pick((0.0, 0.1, 0.3, 0.55)), np.float32)))
        inputs.append(g.given(np.asarray(g.pick((-1.0, 0.21, 0.53)), np.float32)) if g.chance(0.5) else None)
    g.declare(name, inputs, [("int64", (None, 3), 0.0)], center_point_box=int(center) or None)
