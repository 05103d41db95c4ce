"""Normalizations with scales and shifts."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from benchmarks.fuzzing.graphs import Graph, UnfitError
from benchmarks.fuzzing.operators.registry import place, types
from benchmarks.fuzzing.operators.windows import image


@place("BatchNormalization")
def _batch_norm(g: Graph, name: str) -> None:
    x = g.any(types(g, name), 2, 4, fits=lambda v: 0 not in v.shape)
    channels = (x.shape[1],)
    mean = [g.like(x.dtype, channels) for _ in range(3)]
    g.node(name, [x, *mean, g.new(x.dtype, channels, 0.5, 2.0)], epsilon=g.pick((None, 1e-3)))


@place("InstanceNormalization")
def _instance_norm(g: Graph, name: str) -> None:
    x, sizes = image(g, types(g, name))
    if math.prod(sizes) == 1:  # its difference to itself is a rounding to some engines, which the root makes large
        raise UnfitError
    g.node(name, [x, g.like(x.dtype, x.shape[1:2]), g.like(x.dtype, x.shape[1:2])], epsilon=g.pick((None, 1e-3)))


@place("GroupNormalization")
def _group_norm(g: Graph, name: str) -> None:
    # In float32 inside, whatever the type, unless the model says otherwise.
    x, _ = image(g, [t for t in types(g, name) if t != "float64"])
    groups = g.pick([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0])
    size = (groups if g.opset < 21 else x.shape[1],)
    stash = None
    if x.dtype == "float64":  # the body computes in float32 unless it is told otherwise
        if g.opset < 21:
            raise UnfitError
        stash = TensorProto.DOUBLE
    # ONNX infers no type for what its body computes.
    g.end(name, [x, g.like(x.dtype, size), g.like(x.dtype, size)], [(x.dtype, x.rank)], loose=True, num_groups=groups,
          stash_type=stash)  # fmt: skip


@place("LayerNormalization", "RMSNormalization")
def _layer_norm(g: Graph, name: str) -> None:
    x = g.any(types(g, name), low=1, fits=lambda v: 0 not in v.shape)
    axis = g.axis(x.rank)
    shape = x.shape[axis % x.rank :]
    bias = g.like(x.dtype, shape) if name[0] == "L" and g.chance(0.5) else None
    g.node(name, [x, g.like(x.dtype, shape), bias], axis=axis, epsilon=g.pick((None, 1e-3)))


@place("MeanVarianceNormalization")
def _mean_variance(g: Graph, name: str) -> None:
    # ONNX's own body of it is for float32 alone.
    x = g.any(("float32",), 4, 4, fits=lambda v: 0 not in v.shape)
    axes = g.axes(x.rank, 1)
    # What is all alike has a deviation that is a rounding.
    if np.prod([x.shape[a] for a in axes]) < 2:
        raise UnfitError
    g.end(name, [x], [(x.dtype, x.rank)], loose=True, axes=axes)
