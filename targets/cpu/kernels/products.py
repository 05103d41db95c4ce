"""The innermost step of products by packed weights: one element of the left operand against a vector of weights.

Of bytes a step is `TOGETHER` neighbouring elements, which one instruction multiplies and adds to sums in int32; the
weights of a step lie together for each column. Everything around it counts in steps and is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from passes.rules.quantized import TOGETHER
from targets.cpu.kernels.group import GroupKernel
from tensorc.errors import UnsupportedError
from tensorc.ir import Value
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.nn import multiplies_bytes
from tensorc.lowering import tir
from tensorc.lowering.indexing import ravel
from tensorc.lowering.tir import Buffer, Expr


def together(x: Value, w: Value) -> int:
    """Elements of `x` that a step multiplies by weights `w`."""
    return TOGETHER if multiplies_bytes(x.type, w.type) else 1


def in_steps(matrix: np.ndarray, count: int) -> np.ndarray:
    """[K, N] as [K / count, N * count]: the elements of a step behind each other for each column."""
    if count == 1:
        return matrix
    depth, columns = matrix.shape
    return np.ascontiguousarray(matrix.reshape(depth // count, count, columns).transpose(0, 2, 1)).reshape(
        depth // count, columns * count
    )


class Products:
    """Reads `x` a step at a time, and adds products by the weights `w` to sums of type `dtype`."""

    def __init__(self, group: GroupKernel, x: Value, w: Value, dtype: str):
        self.group = group
        self.x = x
        self.weights = group.buffers[w]
        self.dtype = dtype
        self.together = together(x, w)
        if self.together > 1:
            if x not in group.buffers:
                raise UnsupportedError("bytes are multiplied from where they lie, and here they are computed")
            if not group.machine.multiplies_bytes:
                raise UnsupportedError(f"{group.machine.name} has no instruction that multiplies bytes")

    def step(self, index: Sequence[Expr]) -> Expr:
        """What a step takes of `x`; the last index counts steps."""
        if self.together == 1:
            return tir.cast(self.group.elements.evaluate(self.x, list(index)), self.dtype)
        *lead, last = index
        first = ravel([*lead, last * self.together], static_shape(self.x.shape))
        return self.group.builder.word(self.group.buffers[self.x], first)

    def add(self, sums: Buffer, at: Callable[[Expr], Expr], step: Expr, weight: Expr, lanes: int) -> None:
        """Add the step's products by the weights from `weight` on to the sums, lane by lane `at` their places."""
        builder = self.group.builder
        if self.together > 1:
            builder.add_products(sums, at(0), step, self.weights, weight, lanes)
            return
        with builder.vector(lanes) as lane:
            tap = tir.cast(builder.load(self.weights, weight + lane), self.dtype)
            builder.store(sums, builder.load(sums, at(lane)) + step * tap, at(lane))
