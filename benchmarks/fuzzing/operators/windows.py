"""Operators on images: windows that move, and resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.fuzzing.graphs import INTS, Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import place, types


def moves(g: Graph, sizes: Sequence[int], kernel: Sequence[int]) -> dict[str, Any]:
    """Strides, dilations and pads such that each window lies at least in part inside."""
    rank = len(sizes)
    attributes: dict[str, Any] = {}
    dilations = [g.pick((1, 1, 1, 2)) for _ in range(rank)] if g.chance(0.3) else [1] * rank
    if any(d != 1 for d in dilations):
        attributes["dilations"] = dilations
    if g.chance(0.5):
        attributes["strides"] = [g.number(1, 3) for _ in range(rank)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    if g.chance(0.2):
        attributes["auto_pad"] = g.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
        pads = [0] * 2 * rank
    else:
        pads = (
            [g.number(0, k - 1) for k in kernel] * 2 if g.chance(0.5) else [g.number(0, k - 1) for k in [*kernel] * 2]
        )
        if any(pads):
            attributes["pads"] = pads
    if any(size + pads[i] + pads[i + rank] < span for i, (size, span) in enumerate(zip(sizes, spans, strict=True))):
        raise UnfitError
    strides = attributes.get("strides", [1] * rank)
    # Engines work out pads below zero where windows leave elements out.
    if "SAME" in str(attributes.get("auto_pad")) and any(s > n for s, n in zip(strides, spans, strict=True)):
        raise UnfitError
    return attributes


def image(g: Graph, dtypes: Sequence[str]) -> tuple[Value, tuple[int, ...]]:
    """An image of one to three spatial axes, and their sizes."""
    fits = lambda v: 0 not in v.shape and int(np.prod(v.shape[2:])) <= 400  # noqa: E731
    x = g.any(dtypes, 3, 5 if g.chance(0.1) else 4, fits=fits)
    if g.chance(0.5):
        x = g.like(x.dtype, (g.number(1, 2), g.pick((1, 3, 4, 8, 16)), *(g.number(3, 10) for _ in x.shape[2:])))
    return x, x.shape[2:]


@place("Conv")
def _conv(g: Graph, name: str) -> None:
    x, sizes = image(g, types(g, name))
    kernel = tuple(g.pick([k for k in (1, 1, 2, 3, 3, 5) if k <= size + 2]) for size in sizes)
    group = g.pick([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0]) if g.chance(0.4) else 1
    out = group * g.pick((1, 2, 3, 8) if group < 8 else (1, 2))
    window = moves(g, sizes, kernel)
    w = g.like(x.dtype, (out, x.shape[1] // group, *kernel))
    bias = g.like(x.dtype, (out,)) if g.chance(0.5) else None
    g.node(name, [x, w, bias], group=group if group > 1 or g.chance(0.2) else None,
           kernel_shape=kernel if g.chance(0.5) else None, **window)  # fmt: skip


@place("ConvTranspose")
def _conv_transpose(g: Graph, name: str) -> None:
    x, sizes = image(g, types(g, name))
    kernel = [g.pick((1, 2, 3)) for _ in sizes]
    strides = [g.number(1, 3) for _ in sizes]
    w = g.like(x.dtype, (x.shape[1], g.number(1, 4), *kernel))
    extra = [g.number(0, s - 1) for s in strides] if g.chance(0.3) else None
    pads = [g.number(0, (k - 1) // 2) for k in kernel] * 2
    if any((n - 1) * s + k <= 2 * p for n, s, k, p in zip(sizes, strides, kernel, pads, strict=False)):
        raise UnfitError
    g.node(name, [x, w], strides=strides, pads=pads, output_padding=extra)


@place("MaxPool", "AveragePool", "LpPool")
def _pool(g: Graph, name: str) -> None:
    x, sizes = image(g, types(g, name))
    kernel = [g.number(1, min(3, size)) for size in sizes]
    window = moves(g, sizes, kernel)
    if "dilations" in window and g.opset < {"AveragePool": 19, "LpPool": 18}.get(name, 10):
        raise UnfitError
    if name != "MaxPool" and "dilations" in window and "SAME" in str(window.get("auto_pad")):
        raise UnfitError  # the engines forget the dilation when they pad
    if g.chance(0.3) and name != "LpPool" and "auto_pad" not in window and g.opset >= 10:
        window["ceil_mode"] = 1
    if name == "AveragePool" and g.chance(0.4):
        window["count_include_pad"] = 1
    g.node(name, [x], exact=name == "MaxPool", kernel_shape=kernel, **window)


@place("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(g: Graph, name: str) -> None:
    g.node(name, [image(g, types(g, name))[0]], exact=name == "GlobalMaxPool")


@place("LRN")
def _lrn(g: Graph, name: str) -> None:
    g.node(name, [image(g, types(g, name))[0]], size=g.pick((1, 3, 5)), bias=g.pick((None, 1.5)))


@place("Resize")
def _resize(g: Graph, name: str) -> None:
    x = g.any(types(g, name), 4, 4, fits=lambda v: 0 not in v.shape)
    if x.dtype in INTS and not x.tame:  # the reference evaluator goes through floats: integers are to be small
        x = g.new(x.dtype, x.shape, 0 if x.dtype[0] == "u" else -9, 9)
    mode = g.pick(("nearest", "linear"))
    scales = [1.0, 1.0, *(g.pick((0.5, 2.0, 1.5, 3.0)) for _ in range(2))]
    if any(int(s * n) < 1 for s, n in zip(scales, x.shape, strict=True)):
        raise UnfitError
    where = g.pick(("half_pixel", "asymmetric", "align_corners"))
    rounding = g.pick(("floor", "round_prefer_floor")) if mode == "nearest" else None
    factors = g.given(np.asarray(scales, np.float32))
    g.node(name, [x, None, factors], exact=mode == "nearest", mode=mode, coordinate_transformation_mode=where,
           nearest_mode=rounding, loose=1.0 if mode == "linear" else None)  # fmt: skip
