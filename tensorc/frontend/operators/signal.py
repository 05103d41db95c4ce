"""Signal processing: windows, mel filters, Fourier transforms.

A transform is a product with a constant matrix over the interleaved real and imaginary parts. Long signals whose
length has two factors take two steps, as Cooley and Tukey have it: over the columns, then over the rows of the signal
laid out as a matrix, with the twiddle factors part of the first step's matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tensorc.frontend.call import Call, axis_of, shape_of
from tensorc.frontend.reader import element_type
from tensorc.frontend.registry import Rule, operator
from tensorc.ir.graph import Value

#: Signals up to this length are transformed by one product: its matrix stays in a near cache.
_ONE_PRODUCT = 128


def _window(values: Callable[[np.ndarray], np.ndarray]) -> Rule:
    """A window function: `values` of its angles, which go around once."""

    def rule(call: Call) -> Value:
        size = call.number(0)
        if size < 0:
            raise ValueError(f"the size {size} is negative")
        period = size if call.attr("periodic", 1) else size - 1
        with np.errstate(invalid="ignore"):  # a symmetric window of one: its only angle is 0 / 0
            angles = 2 * np.pi * np.arange(size) / np.float64(period)
        return call.constant(values(angles), element_type(call.attr("output_datatype", 1)))

    return rule


operator("HannWindow")(_window(lambda angles: 0.5 - 0.5 * np.cos(angles)))
operator("HammingWindow")(_window(lambda angles: 25 / 46 - 21 / 46 * np.cos(angles)))
operator("BlackmanWindow")(_window(lambda angles: 0.42 - 0.5 * np.cos(angles) + 0.08 * np.cos(2 * angles)))


@operator("MelWeightMatrix")
def _mel_weight_matrix(call: Call) -> Value:
    """Triangles between neighbouring bins, which lie evenly on the mel scale."""
    bands, length, rate, low, high = (call.number(i) for i in range(5))
    if bands < 0 or length < 1 or rate < 1:
        raise ValueError(f"{bands} bands of a transform of {length} at {rate} samples a second")
    mel = [2595 * math.log10(1 + hertz / 700) for hertz in (low, high)]
    points = mel[0] + np.arange(bands + 2) * ((mel[1] - mel[0]) / (bands + 2))
    bins = ((length + 1) * 700 * (10 ** (points / 2595) - 1) // rate).astype(np.int64)
    spectrum = np.arange(length // 2 + 1)[:, None]
    left, centre, right = bins[:-2], bins[1:-1], bins[2:]
    with np.errstate(all="ignore"):
        rising = np.where(centre > left, (spectrum - left) / (centre - left), spectrum == centre)
        falling = np.where(right > centre, (right - spectrum) / (right - centre), 0)
    weights = np.where(spectrum < centre, rising * (spectrum >= left), 0)
    weights = np.where((spectrum >= centre) & (spectrum < right), falling, weights)
    weights = np.where((spectrum == centre) & (centre == right), 1, weights)
    return call.constant(weights, element_type(call.attr("output_datatype", 1)))


@operator("DFT")
def _dft(call: Call) -> Value:
    x = call.input(0)
    rank = len(x.shape)
    default = call.attr("axis", 1) if call.opset < 20 else -2
    axis = axis_of(default if call.optional(2) is None else call.number(2), rank)
    if axis == rank - 1 or shape_of(x)[-1] not in (1, 2):
        raise ValueError(f"axis {axis} of {x.type} holds no signal: the last axis is a number's 1 or 2 parts")
    inverse, onesided = bool(call.attr("inverse", 0)), bool(call.attr("onesided", 0))
    length = None if call.optional(1) is None else call.number(1)
    if length is None:
        extent = shape_of(x)[axis]
        length = 2 * (extent - 1) if inverse and onesided else extent
    return _transform(call, x, axis, length, inverse, onesided)


@operator("STFT")
def _stft(call: Call) -> Value:
    """Frames are gathered, weighted and transformed."""
    x, window = call.input(0), call.optional(2)
    step = call.number(1)
    shape = shape_of(x)
    if len(shape) not in (2, 3) or step < 1:
        raise ValueError(f"frames {step} apart of {x.type}: a signal is [batch, length, 1 or 2]")
    default = shape[1] if window is None else shape_of(window)[0]
    length = default if call.optional(3) is None else call.number(3)
    if not 0 < length <= shape[1] or (window is not None and shape_of(window) != (length,)):
        raise ValueError(f"frames of {length} do not fit {x.type}" + (f" and {window.type}" if window else ""))
    count = (shape[1] - length) // step + 1
    positions = np.arange(count)[:, None] * step + np.arange(length)
    frames = call("gather", call.reshape(x, (*shape, 1)[:3]), call.constant(positions, "int64"), axis=1)
    if window is not None:
        frames = call("mul", frames, call.reshape(window, (length, 1)))
    return _transform(call, frames, 2, length, inverse=False, onesided=bool(call.attr("onesided", 1)))


def _transform(call: Call, x: Value, axis: int, length: int, inverse: bool, onesided: bool) -> Value:
    """The transform of `length` elements along `axis` of [..., 1 or 2]; x is cut or filled up with zeros.

    One-sided, the result of a forward transform is the first half of the spectrum, and x that of an inverse one,
    whose result is real.
    """
    if length < 1:
        raise ValueError(f"a transform of {length} elements")
    halved = length // 2 + 1
    rank, parts = len(x.shape), shape_of(x)[-1]
    perm = (*(i for i in range(rank - 1) if i != axis), axis, rank - 1)
    x = call("transpose", x, perm=perm)
    *lead, extent, _ = shape_of(x)
    taken = halved if inverse and onesided else length
    x = call("pad", x, before=(0,) * rank, after=(*(0,) * (rank - 2), taken - extent, 0), mode="constant", value=0)
    batch = math.prod(lead)
    if inverse and onesided:
        count, kept = length, 1
        matrix = _half_inverse(length, parts)
        result = _product(call, call.reshape(x, (batch, taken * parts)), matrix)
    else:
        count, kept = halved if onesided else length, 2
        result = _complex(call, call.reshape(x, (batch, length, parts)), inverse, count)
    result = call.reshape(result, (*lead, count, kept))
    return call("transpose", result, perm=[perm.index(i) for i in range(rank)])


def _complex(call: Call, x: Value, inverse: bool, count: int) -> Value:
    """The first `count` elements of the transform of [batch, length, parts], as [batch, count, 2]."""
    batch, length, parts = shape_of(x)
    sign = 1 if inverse else -1
    scale = 1 / length if inverse else 1.0
    columns = _factor(length)
    if columns == 1:
        turns = np.outer(np.arange(length), np.arange(count)) % length / length
        return _product(call, call.reshape(x, (batch, length * parts)), _matrix(turns, sign, scale)[:, :parts])
    rows = length // columns
    # Element a * columns + b; result c + rows * d. First along a, for each b, then along b.
    a, b = np.arange(rows), np.arange(columns)
    inner = (np.outer(a, a)[None] * columns + b[:, None, None] * a) % length / length
    x = call("transpose", call.reshape(x, (batch, rows, columns, parts)), perm=(2, 0, 1, 3))
    first = _product(call, call.reshape(x, (columns, batch, rows * parts)), _matrix(inner, sign, scale)[:, :, :parts])
    x = call("transpose", call.reshape(first, (columns, batch, rows, 2)), perm=(1, 2, 0, 3))
    outer = _matrix(np.outer(b, b) % columns / columns, sign, 1.0)
    second = _product(call, call.reshape(x, (batch, rows, columns * 2)), outer)
    x = call("transpose", call.reshape(second, (batch, rows, columns, 2)), perm=(0, 2, 1, 3))
    whole = call.reshape(x, (batch, length, 2))
    return call("slice", whole, starts=(0, 0, 0), sizes=(batch, count, 2), steps=(1, 1, 1))


def _factor(length: int) -> int:
    """The greatest factor up to the square root of a length that is worth two steps, else 1."""
    if length <= _ONE_PRODUCT:
        return 1
    return max(n for n in range(1, math.isqrt(length) + 1) if length % n == 0)


def _matrix(turns: np.ndarray, sign: int, scale: float) -> np.ndarray:
    """Multiplication by scale * exp(sign * 2 pi i turns[..., n, k]) as real [..., n, 2, k, 2]."""
    angles = sign * 2 * np.pi * turns
    real, imaginary = scale * np.cos(angles), scale * np.sin(angles)
    return np.stack([np.stack([real, imaginary], -1), np.stack([-imaginary, real], -1)], -3)


def _half_inverse(length: int, parts: int) -> np.ndarray:
    """[half, parts, length, 1]: what the other half would add is what its mirror image adds, but to the first element
    and, of an even length, the last, which have none."""
    half = np.arange(length // 2 + 1)
    turns = np.outer(half, np.arange(length)) % length / length
    double = np.where((half == 0) | (2 * half == length), 1, 2)[:, None, None, None]
    matrix: np.ndarray = double * _matrix(turns, 1, 1 / length)[..., :1]
    return matrix[:, :parts]


def _product(call: Call, x: Value, matrix: np.ndarray) -> Value:
    """x [..., n * parts] times [..., n, parts, k, kept]."""
    flat = matrix.reshape(*matrix.shape[:-4], matrix.shape[-4] * matrix.shape[-3], -1)
    return call("matmul", x, call.constant(flat, x.dtype))
