"""Fourier transforms and windows."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from benchmarks.fuzzing.graphs import Graph, UnfitError
from benchmarks.fuzzing.operators.registry import place, types


@place("HannWindow", "HammingWindow", "BlackmanWindow")
def _window(g: Graph, name: str) -> None:
    # A window of one element is a division of 0 by 0 when it is symmetric.
    size = g.given(np.asarray(g.number(2, 40), g.pick((np.int64, np.int32))))
    kind = g.pick((None, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16))
    g.node(name, [size], periodic=g.pick((None, 0, 1)), output_datatype=kind)


@place("DFT")
def _dft(g: Graph, name: str) -> None:
    if g.special:
        raise UnfitError  # which numbers an infinity reaches is a matter of the algorithm
    inverse = g.chance(0.3)
    real = not inverse and g.chance(0.5)
    shape = (*(g.number(1, 4) for _ in range(g.number(1, 2))), g.pick((1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 32)))
    order = [int(i) for i in g.rng.permutation(len(shape))]
    shape = tuple(shape[i] for i in order)
    x = g.like(g.dtype(types(g, name)), (*shape, 1 if real else 2))
    axis = g.number(0 if g.opset < 20 else 1 if len(shape) > 1 else 0, len(shape) - 1)
    if axis == 0 and len(shape) > 1:
        raise UnfitError  # the first axis is the batch
    length = g.given(np.asarray(g.number(1, 20), np.int64)) if g.chance(0.4) else None
    onesided = 1 if real and g.chance(0.4) else g.pick((None, 0))
    if g.opset >= 20:
        where = g.given(np.asarray(g.pick((axis, axis - len(shape) - 1)), np.int64))
        g.node(name, [x, length, where], inverse=int(inverse) or None, onesided=onesided)
    else:
        g.node(name, [x, length], inverse=int(inverse) or None, onesided=onesided, axis=axis)


@place("STFT")
def _stft(g: Graph, name: str) -> None:
    if g.special:
        raise UnfitError
    dtype = g.dtype(types(g, name))
    length, frame = g.number(16, 60), g.pick((2, 3, 4, 5, 8, 15, 16))
    onesided = g.pick((None, 0, 1))
    real = onesided != 0 or g.chance(0.5)  # the conjugate half is missing only where it is known
    x = g.like(dtype, (g.number(1, 3), length, 1 if real else 2))
    step = g.given(np.asarray(g.number(1, 9), np.int64))
    window = g.like(dtype, (frame,)) if g.chance(0.6) else None
    given = g.given(np.asarray(frame, np.int64)) if window is None or g.chance(0.5) else None
    g.node(name, [x, step, window, given], onesided=onesided)


@place("MelWeightMatrix")
def _mel(g: Graph, name: str) -> None:
    kind = g.pick((np.int64, np.int32))
    rate = g.pick((8000, 16000, 22050))
    whole = [g.given(np.asarray(n, kind)) for n in (g.number(1, 16), g.pick((16, 31, 64, 256)), rate)]
    edges = [g.given(np.asarray(n, np.float32)) for n in (g.pick((0.0, 20.0, 125.0)), rate / g.pick((2.0, 4.0)))]
    g.node(name, [*whole, *edges])
