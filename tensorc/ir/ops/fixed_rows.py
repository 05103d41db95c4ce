"""Softmax, normalisations and attention of fixed-point numbers: integer algorithms that hardware does step by step.

Each says how far it is from the real function of the same numbers; the rounding of numbers to their grids comes on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorc.ir.dims import static_shape
from tensorc.ir.ops.curves import Reciprocal, exponentials, halved, weight_bits
from tensorc.ir.ops.fixed import fixed_limits
from tensorc.ir.ops.nn import attention_type
from tensorc.ir.ops.table import OPS, REQUIRED, Attrs, Kind, register
from tensorc.ir.types import TensorType


def _raw(x: np.ndarray, fraction: int) -> np.ndarray:
    return np.rint(x * 2.0**fraction).astype(np.int64)


def _weights(rows: np.ndarray, best: np.ndarray, table: np.ndarray) -> np.ndarray:
    """exp(x - best), from a table of exp(-d) whose last entry is 0."""
    return np.asarray(table[np.minimum(np.abs(rows - best), len(table) - 1)])


def softmax_numpy(x: np.ndarray, fraction: int, width: int) -> np.ndarray:
    """Softmax over the last axis, as numbers of `width` bits, all behind the point.

    One pass over a row keeps b, the greatest number so far, and s, the sum of exp(x - b) so far, with
    p = weight_bits(row, width + 1) bits behind the point. For each x, e = exp(-|x - b|), from a table, so no exponent
    is positive: if x > b, then s = round(s e) + 1 and b = x, else s = s + e. A second pass over the row gives
    round(exp(x - b) (1 / s)), the greatest number of `width` bits where that is 1.

    The entries of the table are off by half a step, and every element adds no more than another half to s: s is off by
    n / 2^(p + 1) of itself, for n elements (by induction; s >= 1). With 1 / s off by 2^-(width + 3) of itself, each
    result is within one step, 2^-width, of softmax(x). Greater or equal numbers of a row get greater or equal results.
    """
    rows = _raw(x, fraction).reshape(-1, x.shape[-1] if x.ndim else 1)
    count = rows.shape[1]
    if not rows.size:
        return np.zeros_like(x)
    bits = weight_bits(count, width + 1)
    table = exponentials(fraction, bits)
    best, total = rows[:, 0], np.full(len(rows), 1 << bits, np.int64)
    for number in rows[:, 1:].T:
        e = _weights(number, best, table)
        total = np.where(number > best, halved(total * e, bits) + (1 << bits), total + e)
        best = np.maximum(best, number)
    reciprocal = softmax_reciprocal(width)
    y, power = reciprocal.of(total)
    scaled = (_weights(rows, best[:, None], table) * y[:, None]) >> (power - bits)[:, None]
    code = np.minimum(halved(scaled, reciprocal.fraction + bits - width), fixed_limits(width, 0)[1])
    return np.asarray(code * 2.0**-width).reshape(x.shape)


def softmax_reciprocal(width: int) -> Reciprocal:
    return Reciprocal(width + 3)


def top_k_numpy(x: np.ndarray, k: int, largest: int) -> np.ndarray:
    """As `top_k` along the last axis."""
    return OPS["top_k"].evaluate([x], {"axis": x.ndim - 1, "k": k, "largest": largest})[0]


def norm_numpy(x: np.ndarray, axis: int, epsilon: float, centred: int, fraction: int, result: int) -> np.ndarray:
    """(x - mean) / sqrt(variance + epsilon) over the axes from `axis` on, or without `centred` x / sqrt(mean(x^2) +
    epsilon), with `result` bits behind the point.

    For the n whole numbers x of a row, one pass makes S = sum(x), 0 if not `centred`, and Q = sum(x^2). The result is
    round((n x - S) (1 / sqrt(n Q - S^2 + E))), where E stands for epsilon: all but the root is exact.

    Results are no greater than sqrt(n), and the root is off by 2^-(result + 1) / sqrt(n) of itself: with the rounding,
    results are within one step, 2^-result, of what a real root of the same E makes.
    """
    shape = x.shape[axis:]
    count = math.prod(shape)
    rows = _raw(x, fraction).reshape(-1, count)
    total = rows.sum(1, keepdims=True) if centred else np.zeros((len(rows), 1), np.int64)
    variance = count * (rows**2).sum(1, keepdims=True) - total**2 + norm_epsilon(epsilon, count, fraction)
    root = norm_root(count, result)
    y, power = root.of(variance)
    limit = norm_limit(count, result)
    code = np.clip(halved(((count * rows - total) * y) >> power, root.fraction - result), -limit, limit)
    return np.asarray(code * 2.0**-result).reshape(x.shape)


def norm_epsilon(epsilon: float, count: int, fraction: int) -> int:
    """Epsilon as it is added to count^2 4^fraction variances: at least 1, so that no root is of 0."""
    return max(1, round(epsilon * count**2 * 4.0**fraction))


def norm_root(count: int, result: int) -> Reciprocal:
    return Reciprocal(result + 1 + math.ceil(math.log2(count) / 2), root=True)


def norm_limit(count: int, result: int) -> int:
    """The greatest result: |x - mean| <= sqrt(n) sqrt(variance)."""
    return math.isqrt(count << 2 * result) + 1


def attention_numpy(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None, *, scale: float,
    fractions: tuple[int, int, int], scores: int, bits: int, width: int, result: int, signed: int,
) -> np.ndarray:  # fmt: skip
    """softmax(q k^T scale + mask) v, numbers of `width` bits with `result` behind the point; q, k and v have
    `fractions`.

    The exact products q k^T times `scale` (of 16 bits) are rounded to scores with `scores` bits behind the point;
    these and the mask, which has as many, make x.
    The greatest of a query's scores, b, is found as they are made. Then e = exp(x - b), from a table, with p =
    weight_bits(keys, bits + 1) bits behind the point; s = sum(e) and a = sum(e v) are exact, whatever the order of the
    keys. The result is round(a (1 / s)): a, normalised as s is, is cut to p bits behind those that it has of v.

    Scores are off by 2^-(scores + 1) and a little of `scale`. Besides, the weights e / s are off by 2^-(bits + 1) in
    all, and 1 / s by 2^-(bits + 3) of itself: together less than 2^-bits of the greatest |v|, and half a step.
    """
    repeat = q.shape[2] // max(k.shape[2], 1)
    qs, ks, vs = (_raw(t, f).transpose(0, 2, 1, 3) for t, f in zip((q, k, v), fractions, strict=True))
    ks, vs = np.repeat(ks, repeat, axis=1), np.repeat(vs, repeat, axis=1)
    factor, places = attention_scale(scale)
    x = halved(qs @ ks.swapaxes(-1, -2) * factor, fractions[0] + fractions[1] + places - scores)
    if mask is not None:
        x = x + _raw(mask, scores)
    p = weight_bits(k.shape[1], bits + 1)
    e = _weights(x, x.max(-1, keepdims=True), exponentials(scores, p))
    reciprocal = softmax_reciprocal(bits)
    y, power = reciprocal.of(e.sum(-1, keepdims=True))
    code = halved(((e @ vs) >> (power - p)) * y, reciprocal.fraction + p + fractions[2] - result)
    return np.asarray(np.clip(code, *fixed_limits(width, signed)).transpose(0, 2, 1, 3) * 2.0**-result)


def attention_scale(scale: float) -> tuple[int, int]:
    """(factor, places): factor / 2^places is `scale`, rounded to 16 bits; an odd factor, if it is not 0."""
    if not scale:
        return 0, 0
    mantissa, exponent = math.frexp(scale)
    factor, places = round(mantissa * (1 << 16)), 16 - exponent
    zeros = (factor & -factor).bit_length() - 1
    return factor >> zeros, places - zeros


def _float64(types: Sequence[TensorType]) -> None:
    for type in types:
        if type.dtype != "float64":
            raise TypeError(f"fixed-point numbers are held in float64, not {type.dtype}")


def _softmax(types: Sequence[TensorType], _attrs: Attrs) -> list[TensorType]:
    _float64(types)
    return list(types)


def _top_k(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    _float64(types)
    (x,) = types
    (count,) = static_shape(x.shape[-1:])
    if not 1 <= attrs["k"] <= count:
        raise TypeError(f"there are no {attrs['k']} elements in a row of {x}")
    return [TensorType("int64", (*x.shape[:-1], attrs["k"]))]


def _norm(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    _float64(types)
    if not 0 <= attrs["axis"] < types[0].rank:
        raise TypeError(f"axis {attrs['axis']} is not an axis of {types[0]}")
    if not math.prod(static_shape(types[0].shape[attrs["axis"] :])):
        raise TypeError(f"{types[0]} has no elements to normalise")
    return list(types)


def _attention(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    _float64(types)
    if not types[1].shape[1]:
        raise TypeError(f"attention to no keys: {types[1]}")
    return attention_type(types, attrs)


register(
    "fixed_softmax", Kind.ANCHOR, 1, _softmax, softmax_numpy,
    "softmax over the last axis in one pass; x has `fraction` bits behind the point, the result `width`, and no others",
    fraction=REQUIRED, width=REQUIRED,
)  # fmt: skip
register(
    "fixed_top_k", Kind.ANCHOR, 1, _top_k, top_k_numpy,
    "where in a row the k greatest (or least) numbers stand, best first, equal ones in order", k=REQUIRED, largest=1,
)  # fmt: skip
register(
    "fixed_norm", Kind.ANCHOR, 1, _norm, norm_numpy,
    "(x - mean) / sqrt(variance + epsilon) over the axes from `axis` on, with `result` bits behind the point; without "
    "`centred` the mean counts as 0",
    axis=REQUIRED, epsilon=REQUIRED, centred=1, fraction=REQUIRED, result=REQUIRED,
)  # fmt: skip
register(
    "fixed_attention", Kind.ANCHOR, (3, 4), _attention, attention_numpy,
    "softmax(q k^T scale + mask) v as `attention`; q, k and v have `fractions` bits behind the point, scores and mask "
    "`scores`, the result is one of `width` bits with `result` behind the point, and right to about `bits` bits",
    scale=REQUIRED, fractions=REQUIRED, scores=REQUIRED, bits=REQUIRED, width=REQUIRED, result=REQUIRED, signed=1,
)  # fmt: skip
