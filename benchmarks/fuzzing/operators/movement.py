"""Operators that only move elements, or ask for shapes."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzzing.graphs import Graph, UnfitError
from benchmarks.fuzzing.operators.registry import place, types


def _factors(g: Graph, size: int) -> list[int]:
    shape = []
    for _ in range(g.number(0, 4)):
        factor = g.pick([f for f in range(1, min(size, 70) + 1) if size % f == 0])
        shape.append(factor)
        size //= factor
    shape.insert(g.number(0, len(shape)), size)
    return shape


@place("Reshape")
def _reshape(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    size = int(np.prod(x.shape))
    if not size:
        g.node(name, [x, g.given([0, 3])], exact=True, allowzero=1) if g.opset >= 14 else None
        return
    shape = _factors(g, size)
    if g.chance(0.4):
        shape[g.number(0, len(shape) - 1)] = -1
    for axis in range(min(len(shape), x.rank)):
        if shape[axis] == x.shape[axis] and g.chance(0.3):
            shape[axis] = 0
    g.node(name, [x, g.given(shape)], exact=True)


@place("Flatten")
def _flatten(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    g.node(name, [x], exact=True, axis=None if x.rank and g.chance(0.3) else g.number(-x.rank, x.rank))


@place("Squeeze", "Unsqueeze")
def _squeeze(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    if name == "Unsqueeze":
        axes = g.axes(x.rank + 2)[:2] if x.rank else [0]
        count = x.rank + len(axes)
        axes = list(dict.fromkeys(a % count - (count if a < 0 else 0) for a in axes))
        if len({a % count for a in axes}) != len(axes) or not axes:
            raise UnfitError
    else:
        axes = [a for a in g.axes(x.rank) if x.shape[a] == 1]
    if g.opset < 13:
        g.node(name, [x], exact=True, axes=axes or None)
    else:
        g.node(name, [x, g.given(axes) if axes else None], exact=True)


@place("Transpose")
def _transpose(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    perm = None if g.chance(0.2) else [int(a) for a in g.rng.permutation(x.rank)]
    g.node(name, [x], exact=True, perm=perm)


@place("Shape", "Size")
def _shape(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    ends = {k: g.number(-4, 4) for k in ("start", "end") if name == "Shape" and g.opset >= 15 and g.chance(0.4)}
    g.node(name, [x], exact=True, **ends)


@place("Concat")
def _concat(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    parts = [x]
    for _ in range(g.number(0, 3)):
        shape = list(x.shape)
        shape[axis] = g.pick((1, 2, 3, 5, x.shape[axis]))
        parts.append(g.like(x.dtype, shape))
    g.node(name, [parts[int(i)] for i in g.rng.permutation(len(parts))], exact=True, axis=axis)


@place("Split")
def _split(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axis = g.axis(x.rank)
    size, count = x.shape[axis], g.number(1, 4)
    if g.chance(0.5):
        cuts = sorted(g.number(0, size) for _ in range(count - 1))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
        if g.opset < 13:
            g.node(name, [x], count, exact=True, axis=axis, split=sizes)
        else:
            g.node(name, [x, g.given(sizes)], count, exact=True, axis=axis)
    elif g.opset >= 18:
        if (count - 1) * -(-size // count) > size:
            raise UnfitError
        g.node(name, [x], count, exact=True, axis=axis, num_outputs=count)
    else:
        g.node(name, [x], g.pick([c for c in range(1, 5) if size % c == 0]), exact=True, axis=axis)


@place("Slice")
def _slice(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axes = g.axes(x.rank, 1)
    starts = [g.number(-x.shape[a] - 2, x.shape[a] + 2) for a in axes]
    ends = [g.pick((g.number(-x.shape[a] - 2, x.shape[a] + 2), 2**31 - 1, -(2**31))) for a in axes]
    steps = [g.pick((1, 1, 1, 2, 3, -1, -2)) for _ in axes]
    if g.chance(0.5):
        g.node(name, [x, g.given(starts), g.given(ends), g.given(axes), g.given(steps)], exact=True)
    else:
        g.node(name, [x, g.given(starts), g.given(ends), g.given(axes)], exact=True)


@place("Expand")
def _expand(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    g.node(name, [x, g.given(list(g.partner([*g.dims(0, 1), *(s if s != 1 else g.pick((1, 3, 4)) for s in x.shape)])))],
           exact=True)  # fmt: skip


@place("Tile")
def _tile(g: Graph, name: str) -> None:
    x = g.any(types(g, name))
    g.node(name, [x, g.given([g.pick((1, 1, 2, 3, 0 if g.empty else 1)) for _ in x.shape])], exact=True)


@place("Pad")
def _pad(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    modes = ["constant", "edge", "reflect"] + (["wrap"] if g.opset >= 19 else [])
    mode = g.pick(modes)
    if mode != "constant" and 0 in x.shape:
        raise UnfitError
    most = [max(min(4, size - (mode == "reflect")), 0) for size in x.shape]
    low = [-min(size // 3, 2) if mode == "constant" and g.chance(0.2) else 0 for size in x.shape]
    pads = [g.number(a, b) for a, b in zip(low * 2, most * 2, strict=True)]
    value = g.new(x.dtype, (), constant=True) if mode == "constant" and g.chance(0.5) else None
    if g.opset >= 18 and g.chance(0.3):
        axes = g.axes(x.rank, 1)
        pads = [pads[a % x.rank] for a in axes] + [pads[x.rank + a % x.rank] for a in axes]
        g.node(name, [x, g.given(pads), value, g.given(axes)], exact=True, mode=mode)
    else:
        g.node(name, [x, g.given(pads), value], exact=True, mode=mode)


@place("DepthToSpace", "SpaceToDepth")
def _blocks(g: Graph, name: str) -> None:
    b = g.pick((1, 2, 3))
    n, c, h, w = (g.number(1, 4) for _ in range(4))
    shape = (n, c * b * b, h, w) if name[0] == "D" else (n, c, h * b, w * b)
    mode = g.pick((None, "DCR", "CRD")) if name[0] == "D" else None
    g.node(name, [g.like(g.dtype(types(g, name)), shape)], exact=True, blocksize=b, mode=mode)


@place("CenterCropPad")
def _center(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1)
    axes = g.axes(x.rank, 1) if g.chance(0.5) else None
    sizes = [max(x.shape[a] + g.number(-5, 5), 0 if g.empty else 1) for a in (axes or range(x.rank))]
    # ONNX Runtime's own body of it is wrong for int32.
    kind = np.int32 if g.chance(0.1) else np.int64
    g.node(name, [x, g.given(np.asarray(sizes, kind))], exact=True, axes=axes)
