"""The innermost step of products by packed weights: one element of the left operand against a vector of weights.

Where an instruction multiplies and adds several products at once, a step is as many neighbouring elements: `TOGETHER`
bytes, added to sums in int32, or a `PAIR` of bfloat16, added to sums in float32 (AVX512-BF16). The weights of a step
lie together for each column. Everything around it counts in steps and is the same. Pairs have been run only with other
arithmetic in the instruction's place, on a CPU without it; that the instruction is generated was seen in assembly, and
nothing is known of its speed.

Other weights in 16 bits are widened to float32: where many tiles meet the same ones, once for all into scratch memory,
which leaves the inner loops as they are and saves traffic from far; where few do, as they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from passes.lower_precision import widens
from passes.rules.quantized import TOGETHER
from targets.cpu.kernels.group import GroupKernel
from targets.cpu.machine import Machine
from tensorc.errors import UnsupportedError
from tensorc.ir import Value
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.nn import multiplies_bytes
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.indexing import ravel
from tensorc.lowering.tir import Buffer, Expr

#: Elements of bfloat16 that an instruction multiplies together.
PAIR = 2
#: From so many tiles on that meet the same weights, one after the other, those are widened once for all.
_MANY_TILES = 3


def together(x: Value, w: Value, machine: Machine) -> int:
    """Elements of `x` that a step multiplies by weights `w`, which are [.., reduction, ..]."""
    if multiplies_bytes(x.type, w.type):
        return TOGETHER
    if not machine.multiplies_bfloat16 or w.dtype != "bfloat16" or x.producer is None or not widens(x.producer):
        return 1
    (source,) = x.producer.inputs
    # Neighbours in memory are multiplied: where channels are not the last axis, or an odd number, there are none.
    channels = len(w.shape) == 5 and len(x.shape) == 4
    if channels or source.producer is not None or source.dtype != "bfloat16" or int(x.shape[-1]) % PAIR:
        return 1
    return PAIR


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

    def __init__(self, group: GroupKernel, machine: Machine, x: Value, w: Value, dtype: str):
        self.group = group
        self.x = x
        self.weights = group.buffers[w]
        self.weight_type = w.dtype
        self.dtype = dtype
        self.together = together(x, w, machine)
        #: float32 memory that weights are widened into, and where they begin in it.
        self.held: tuple[Buffer, Expr] | None = None
        #: What several elements are read of at once.
        self.source = x
        if self.together == PAIR:
            assert x.producer is not None
            self.source = x.producer.inputs[0]
        if self.together == TOGETHER:
            if x not in group.buffers:
                raise UnsupportedError("bytes are multiplied from where they lie, and here they are computed")
            if not machine.multiplies_bytes:
                raise UnsupportedError(f"{machine.name} has no instruction that multiplies bytes")

    def widens(self, tiles: int) -> bool:
        """Whether weights that `tiles` tiles meet had better be widened first, by `widen`."""
        narrow = self.weight_type in ("bfloat16", "float16") and self.dtype == "float32"
        return narrow and self.together == 1 and tiles >= _MANY_TILES

    def hold_in(self, scratch: Buffer, begin: Expr = 0) -> None:
        """Read weights, which `widen` writes, from `scratch` from now on, counted from the first one there."""
        self.held = scratch, begin

    def widen(self, weight: Expr, elements: Expr, lanes: int) -> None:
        """Lay `elements` weights from `weight` on, whole vectors of `lanes`, into scratch memory."""
        assert self.held is not None
        builder, (scratch, begin) = self.group.builder, self.held
        with builder.serial(tir.floor_div(elements, lanes), name="widened") as number, builder.vector(lanes) as lane:
            builder.store(scratch, self._weight(weight + number * lanes + lane), begin + number * lanes + lane)

    def _weight(self, index: Expr) -> Expr:
        builder = self.group.builder
        return convert(builder.keep, builder.load(self.weights, index), self.weight_type, self.dtype)

    def step(self, index: Sequence[Expr]) -> Expr:
        """What a step takes of `x`; the last index counts steps."""
        if self.together == 1:
            return tir.cast(self.group.elements.evaluate(self.x, list(index)), self.dtype)
        *lead, last = index
        first = ravel([*lead, last * self.together], static_shape(self.source.shape))
        return self.group.builder.word(self.group.buffers[self.source], first, self.together)

    @property
    def step_type(self) -> str:
        return self.dtype if self.together == 1 else "int32"

    def add(self, sums: Buffer, at: Callable[[Expr], Expr], step: Expr, weight: Expr, lanes: int) -> None:
        """Add the step's products by the weights from `weight` on to the sums, lane by lane `at` their places."""
        builder = self.group.builder
        if self.together == TOGETHER:
            builder.add_products(sums, at(0), step, self.weights, weight, lanes)
            return
        if self.together == PAIR:
            builder.add_pair_products(sums, at(0), step, self.weights, weight, lanes)
            return
        with builder.vector(lanes) as lane:
            if self.held is None:
                tap = self._weight(weight + lane)
            else:
                scratch, begin = self.held
                tap = builder.load(scratch, begin + weight + lane)
            builder.store(sums, builder.load(sums, at(lane)) + step * tap, at(lane))
