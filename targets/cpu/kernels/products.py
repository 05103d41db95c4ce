"""The innermost step of products by packed weights: one element of the left operand against a vector of weights.

Of bytes a step is `TOGETHER` neighbouring elements, which one instruction multiplies and adds to sums in int32; the
weights of a step lie together for each column. Everything around it counts in steps and is the same.

Weights in bfloat16 go in pairs, of two steps of the reduction. An instruction of some CPUs (AVX512-BF16) multiplies
them by pairs of bfloat16, and adds both products to a sum in float32. Elsewhere the layout is worth having too: of the
32 bits that a column has in a vector, one weight is the upper half of a float32 and the other becomes that by a shift,
where weights on their own would have to be spread over a vector twice as wide first.
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
from tensorc.lowering.conversion import convert
from tensorc.lowering.indexing import ravel
from tensorc.lowering.tir import Buffer, Expr

#: Weights of bfloat16 for one column that lie together.
PAIR = 2


def together(x: Value, w: Value) -> int:
    """Elements of `x` that a step multiplies by weights `w`, which are [.., reduction, ..]."""
    if multiplies_bytes(x.type, w.type):
        return TOGETHER
    if w.dtype != "bfloat16" or x.dtype != "float32" or int(w.shape[1]) % PAIR:
        return 1
    plain = len(w.shape) == 5 and (len(x.shape) == 4 or int(x.shape[4]) % PAIR)  # channels are not the last axis
    return 1 if plain else PAIR


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
        self.weight_type = w.dtype
        self.dtype = dtype
        self.together = together(x, w)
        self.bytes = multiplies_bytes(x.type, w.type)
        #: Where pairs of bfloat16 lie that an instruction takes.
        self.pairs = _pairs(group, x) if self.together == PAIR and group.machine.multiplies_bfloat16 else None
        if self.bytes:
            if x not in group.buffers:
                raise UnsupportedError("bytes are multiplied from where they lie, and here they are computed")
            if not group.machine.multiplies_bytes:
                raise UnsupportedError(f"{group.machine.name} has no instruction that multiplies bytes")

    @property
    def parts(self) -> tuple[int, str]:
        """What a step takes of `x`: so many numbers of a type."""
        if self.bytes or self.pairs is not None:
            return 1, "int32"
        return self.together, self.dtype

    def step(self, index: Sequence[Expr]) -> list[Expr]:
        """What a step takes of `x`; the last index counts steps."""
        *lead, last = index
        if self.bytes or self.pairs is not None:
            source = self.x if self.pairs is None else self.pairs
            first = ravel([*lead, last * self.together], static_shape(source.shape))
            return [self.group.builder.word(self.group.buffers[source], first, self.together)]
        evaluate = self.group.elements.evaluate
        return [
            tir.cast(evaluate(self.x, [*lead, last if self.together == 1 else last * self.together + number]),
                     self.dtype)
            for number in range(self.together)
        ]  # fmt: skip

    def add(self, sums: Buffer, at: Callable[[Expr], Expr], step: Sequence[Expr], weight: Expr, lanes: int) -> None:
        """Add the step's products by the weights from `weight` on to the sums, lane by lane `at` their places."""
        builder = self.group.builder
        if self.bytes:
            builder.add_products(sums, at(0), step[0], self.weights, weight, lanes)
        elif self.pairs is not None:
            builder.add_pair_products(sums, at(0), step[0], self.weights, weight, lanes)
        elif self.together == PAIR:
            builder.add_products_by_pairs(sums, at(0), step[0], step[1], self.weights, weight, lanes)
        else:
            with builder.vector(lanes) as lane:
                tap = convert(builder.keep, builder.load(self.weights, weight + lane), self.weight_type, self.dtype)
                builder.store(sums, builder.load(sums, at(lane)) + step[0] * tap, at(lane))


def _pairs(group: GroupKernel, x: Value) -> Value | None:
    """The input in bfloat16 whose elements `x` has, if it is one of the kernel's."""
    node = x.producer
    if node is None or node.op != "cast" or node.inputs[0].dtype != "bfloat16":
        return None
    return node.inputs[0] if node.inputs[0] in group.buffers else None
