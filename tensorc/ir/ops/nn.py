"""Operators with arithmetic worth scheduling: matrix products, convolutions, pooling, attention.

Tensors of images are [N, C, spatial...]; any number of spatial axes has a numpy meaning, targets may lower fewer.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from tensorc.ir import dims
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType, limits, widened


def window_output(extent: dims.Dim, kernel: int, stride: int, before: int, after: int, dilation: int,
                  ceil: bool = False) -> dims.Dim:  # fmt: skip
    """Output extent of a sliding window. With `ceil`, a window that starts inside is kept though it ends outside."""
    span = dims.sub(dims.add(extent, before + after), dilation * (kernel - 1) + 1)
    if isinstance(span, int) and span < 0:
        raise TypeError(f"a window of {kernel}, {dilation} apart, does not fit {extent} padded by {before} and {after}")
    if not ceil:
        return dims.add(dims.floordiv(span, stride), 1)
    out = dims.add(dims.ceildiv(span, stride), 1)
    if isinstance(out, int) and isinstance(extent, int) and (out - 1) * stride >= extent + before:
        out -= 1
    return out


def conv_output_shape(x: TensorType, w: TensorType, attrs: Attrs) -> tuple[dims.Dim, ...]:
    groups = attrs["groups"]
    spatial = x.rank - 2
    if w.rank != x.rank or any(len(attrs[key]) != n for key, n in (("strides", spatial), ("dilations", spatial), ("pads", 2 * spatial))):  # fmt: skip  # noqa: E501
        raise TypeError(f"convolution of {x} with {w}: strides, dilations and pads must fit {spatial} spatial axes")
    if x.shape[1] != dims.mul(w.shape[1], groups):
        raise TypeError(f"{x} has {x.shape[1]} channels, the filter {w} in {groups} groups takes {dims.mul(w.shape[1], groups)}")  # fmt: skip  # noqa: E501
    if not isinstance(w.shape[0], int) or w.shape[0] % groups:
        raise TypeError(f"{w.shape[0]} filters do not divide into {groups} groups")
    sizes = dims.static_shape(w.shape[2:])
    return (x.shape[0], w.shape[0], *(
        window_output(x.shape[2 + i], sizes[i], attrs["strides"][i], attrs["pads"][i], attrs["pads"][spatial + i],
                      attrs["dilations"][i])
        for i in range(spatial)
    ))  # fmt: skip


def multiplies_bytes(a: TensorType, b: TensorType) -> bool:
    """Unsigned by signed ones: their sums do not wrap, as those of other small integers do, but are in int32."""
    return (a.dtype, b.dtype) == ("uint8", "int8")


def has_narrow_weights(a: TensorType, b: TensorType) -> bool:
    """float32 by weights that are kept in 16 bits: sums are in float32."""
    return a.dtype == "float32" and b.dtype in ("bfloat16", "float16")


def product_dtype(a: TensorType, b: TensorType) -> str:
    """Of sums of products."""
    if multiplies_bytes(a, b):
        return "int32"
    if has_narrow_weights(a, b):
        return a.dtype
    if a.dtype != b.dtype:
        raise TypeError(f"cannot multiply {a} by {b}: the element types differ")
    return a.dtype


def summed(array: np.ndarray) -> np.ndarray:
    """`array` in the type that sums of its products are computed in."""
    return array.astype(np.int32) if array.dtype.itemsize == 1 and array.dtype.kind in "iu" else widened(array)


def _conv(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, w = types
    return [TensorType(product_dtype(x, w), conv_output_shape(x, w, attrs))]


def _windows(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
             out: Sequence[int]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:  # fmt: skip
    """For each offset in the kernel, the padded input's elements that meet it at every output position."""
    for offset in itertools.product(*map(range, kernel)):
        spatial = [
            slice(o * d, o * d + (n - 1) * s + 1, s) for o, d, n, s in zip(offset, dilations, out, strides, strict=True)
        ]
        yield offset, x[:, :, *spatial]


def conv_numpy(x: np.ndarray, w: np.ndarray, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int],
               groups: int) -> np.ndarray:  # fmt: skip
    spatial = x.ndim - 2
    padded = np.pad(summed(x), [(0, 0), (0, 0), *((pads[i], pads[spatial + i]) for i in range(spatial))])
    kernel = w.shape[2:]
    out = [(padded.shape[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(spatial)]
    filters = summed(w).reshape(groups, w.shape[0] // groups, *w.shape[1:])
    total = np.zeros((groups, filters.shape[1], x.shape[0], *out), dtype=padded.dtype)
    for offset, part in _windows(padded, kernel, strides, dilations, out):
        grouped = part.reshape(part.shape[0], groups, -1, *part.shape[2:])
        at_offset: tuple[slice | int, ...] = (slice(None), slice(None), slice(None), *offset)
        weight = filters[at_offset]
        total += np.stack([np.tensordot(weight[g], grouped[:, g], ((1,), (1,))) for g in range(groups)])
    result = np.moveaxis(total, 2, 0)
    return np.ascontiguousarray(result.reshape(x.shape[0], w.shape[0], *out)).astype(_product_type(x, w), copy=False)


def _product_type(a: np.ndarray, b: np.ndarray) -> str:
    return product_dtype(TensorType(a.dtype.name, ()), TensorType(b.dtype.name, ()))


def _pool(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    (x,) = types
    spatial = len(attrs["kernel"])
    first = 2
    if x.rank != spatial + 2 and x.rank != spatial + 3:
        raise TypeError(f"a pooling window of {spatial} axes does not fit {x}")
    outs = tuple(
        window_output(x.shape[first + i], attrs["kernel"][i], attrs["strides"][i], attrs["pads"][i],
                      attrs["pads"][spatial + i], attrs["dilations"][i], bool(attrs["ceil"]))
        for i in range(spatial)
    )  # fmt: skip
    return [x.with_shape((*x.shape[:first], *outs, *x.shape[first + spatial :]))]


def _pool_padded(x: np.ndarray, fill: float, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int],
                 dilations: Sequence[int], out: Sequence[int]) -> np.ndarray:  # fmt: skip
    widths = [(0, 0), (0, 0)]
    for i in range(len(kernel)):
        needed = (out[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        widths.append((pads[i], max(needed - x.shape[2 + i] - pads[i], 0)))
    widths += [(0, 0)] * (x.ndim - len(widths))
    return np.pad(x, widths, constant_values=fill)


def _pool_outputs(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int],
                  dilations: Sequence[int], ceil: int) -> list[int]:  # fmt: skip
    n = len(kernel)
    return list(dims.static_shape(
        window_output(x.shape[2 + i], kernel[i], strides[i], pads[i], pads[n + i], dilations[i], bool(ceil))
        for i in range(n)
    ))  # fmt: skip


def max_pool_numpy(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int],
                   dilations: Sequence[int], ceil: int) -> np.ndarray:  # fmt: skip
    out = _pool_outputs(x, kernel, strides, pads, dilations, ceil)
    padded = _pool_padded(x, limits(x)[0], kernel, strides, pads, dilations, out)
    return np.asarray(
        functools.reduce(np.maximum, (part for _, part in _windows(padded, kernel, strides, dilations, out)))
    )


def avg_pool_numpy(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int],
                   dilations: Sequence[int], ceil: int, count_include_pad: int) -> np.ndarray:  # fmt: skip
    out = _pool_outputs(x, kernel, strides, pads, dilations, ceil)
    n = len(kernel)
    ones = np.ones_like(x)
    if count_include_pad:  # explicit padding counts; what ceil adds behind it never does
        ones = np.pad(ones, [(0, 0), (0, 0), *((pads[i], pads[n + i]) for i in range(n))] + [(0, 0)] * (x.ndim - 2 - n), constant_values=1)  # fmt: skip  # noqa: E501
    data = _pool_padded(x, 0, kernel, strides, pads, dilations, out)
    counted = _pool_padded(ones, 0, kernel, strides, (0,) * 2 * n if count_include_pad else pads, dilations, out)
    total, count = (
        functools.reduce(np.add, (part.astype(np.float64) for _, part in _windows(t, kernel, strides, dilations, out)))
        for t in (data, counted)
    )
    return np.asarray((total / np.maximum(count, 1)).astype(x.dtype))  # of nothing but padding: zero


def _matmul(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    a, b = types
    if a.rank < 2 or b.rank < 2:
        raise TypeError(f"matmul takes matrices, not {a} and {b}")
    b_rows, b_columns = (b.shape[-1], b.shape[-2]) if attrs["transpose_b"] else (b.shape[-2], b.shape[-1])
    if a.shape[-1] != b_rows:
        raise TypeError(f"cannot multiply {a} by {b}" + (" transposed" if attrs["transpose_b"] else ""))
    return [TensorType(product_dtype(a, b), (*dims.broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b_columns))]


def matmul_numpy(a: np.ndarray, b: np.ndarray, transpose_b: int = 0) -> np.ndarray:
    product = np.matmul(summed(a), summed(np.swapaxes(b, -1, -2) if transpose_b else b))
    return np.asarray(product.astype(_product_type(a, b), copy=False))


def attention_type(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    q, k, v, *mask = types
    if not (q.rank == k.rank == v.rank == 4):
        raise TypeError(f"attention takes [batch, length, heads, depth], not {q}, {k}, {v}")
    if q.shape[3] != k.shape[3] or k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0]:
        raise TypeError(f"attention over {q}, {k}, {v}: the shapes do not fit")
    if not isinstance(q.shape[2], int) or not isinstance(k.shape[2], int) or q.shape[2] % k.shape[2]:
        raise TypeError(f"{q.shape[2]} query heads do not share {k.shape[2]} key heads evenly")
    if mask and dims.broadcast(mask[0].shape, (q.shape[0], q.shape[2], q.shape[1], k.shape[1])) != (q.shape[0], q.shape[2], q.shape[1], k.shape[1]):  # fmt: skip  # noqa: E501
        raise TypeError(f"mask {mask[0]} does not broadcast to [batch, heads, queries, keys]")
    return [q.with_shape((*q.shape[:3], v.shape[3]))]


def _attention_numpy(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None, *,
                     scale: float) -> np.ndarray:  # fmt: skip
    repeat = q.shape[2] // k.shape[2]
    keys, values = (np.repeat(t, repeat, axis=2).astype(np.float64) for t in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q.astype(np.float64), keys) * scale
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.asarray(np.einsum("bhqk,bkhd->bqhd", weights, values).astype(q.dtype))


def _batch_norm(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    x, *parameters = types
    for p in parameters:
        if p.shape != (x.shape[1],):
            raise TypeError(f"batch_norm of {x}: scale, bias, mean and variance must be [{x.shape[1]}], not {p}")
    return [x]


def _batch_norm_numpy(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray,
                      epsilon: float) -> np.ndarray:  # fmt: skip
    factor = scale / np.sqrt(variance + epsilon)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return np.asarray((x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)).astype(x.dtype, copy=False))


def _same(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    return [types[0]]


def _lrn_numpy(x: np.ndarray, size: int, alpha: float, beta: float, bias: float) -> np.ndarray:
    before = (size - 1) // 2
    padded = np.pad(x.astype(np.float64) ** 2, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    squares = np.asarray(sum(padded[:, i : i + x.shape[1]] for i in range(size)))
    return np.asarray((x / (bias + alpha / size * squares) ** beta).astype(x.dtype))


register(
    "conv", Kind.ANCHOR, 2, _conv, conv_numpy,
    "cross-correlation; inputs x [N,C,spatial], w [O,C/groups,kernel]; pads are all befores, then all afters",
    strides=REQUIRED, pads=REQUIRED, dilations=REQUIRED, groups=1,
)  # fmt: skip
register("matmul", Kind.ANCHOR, 2, _matmul, matmul_numpy, "numpy's matmul of two matrices or more", transpose_b=0)
register(
    "attention", Kind.ANCHOR, (3, 4), attention_type, _attention_numpy,
    "softmax(q k^T scale + mask) v; q [B,L,H,D], k and v [B,S,H or fewer,D], mask broadcasts to [B,H,L,S]",
    scale=REQUIRED,
)  # fmt: skip
register(
    "max_pool", Kind.ANCHOR, 1, _pool, max_pool_numpy, "x is [N,C,spatial] or, blocked, [N,C/c,spatial,c]",
    kernel=REQUIRED, strides=REQUIRED, pads=REQUIRED, dilations=REQUIRED, ceil=0,
)  # fmt: skip
register(
    "avg_pool", Kind.ANCHOR, 1, _pool, avg_pool_numpy, "x is [N,C,spatial] or, blocked, [N,C/c,spatial,c]",
    kernel=REQUIRED, strides=REQUIRED, pads=REQUIRED, dilations=REQUIRED, ceil=0, count_include_pad=0,
)  # fmt: skip
register(
    "batch_norm", Kind.OPAQUE, 5, _batch_norm, _batch_norm_numpy,
    "inference form; inputs x, scale, bias, mean, variance; passes turn it into a multiply and an add", epsilon=1e-5,
)  # fmt: skip
register(
    "lrn", Kind.INJECTIVE, 1, _same, _lrn_numpy, "x / (bias + alpha/size * sum of squares of `size` channels)^beta",
    size=REQUIRED, alpha=1e-4, beta=0.75, bias=1.0,
)  # fmt: skip
