"""Kernels of groups that only compute elements from elements, for operands of any order in memory.

A thread gives some neighbouring elements, and moves them at once where they lie together. Where the fast axis of the
result is another one in what it is made of, threads follow each other in the operand's order, each with elements that
are neighbours in the result: what a warp reads at once lies together, and what a thread writes is a whole sector of 32
bytes, so that neither side wastes traffic and no shared memory is needed between them. Where an operand has only a few
neighbours along another axis (blocks of channels), those are a thread's, and threads follow the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from targets.cpu.kernels.elementwise import collapse
from targets.cuda.gpu import Gpu
from targets.cuda.kernels.kernel import CudaGroup, Kernel
from tensorc.ir import Graph, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.lowering.gpu import BlockBuilder
from tensorc.lowering.indexing import Elements, Index, Source, ravel, unravel
from tensorc.lowering.tir import Expr, const
from tensorc.lowering.wide import WIDEST

_THREADS = 128
#: Moves of one operand that a thread makes, at most.
_MOST_MOVES = 4
#: Bytes of memory that are moved as one.
_SECTOR = 32


@dataclass(frozen=True)
class _Plan:
    """Threads enumerate the axes of the result in `order`, the last the fastest; each has `lanes` neighbours along
    `axis`, which is counted in as many."""

    axis: int
    lanes: int
    order: tuple[int, ...]


def lower_elementwise(body: Graph, gpu: Gpu) -> Kernel:
    body = collapse(body)
    shape = static_shape(body.outputs[0].shape) or (1,)
    if any((static_shape(value.shape) or (1,)) != shape for value in body.outputs):
        raise ValueError(f"the outputs of an elementwise group differ in shape: {body.outputs}")
    if 0 in shape:
        return CudaGroup(body, gpu, 32).launched(1)
    if len(shape) == 1:
        return _flat(body, gpu, shape[0])
    plan = _plan(body, shape)
    extents = [extent // plan.lanes if axis == plan.axis else extent for axis, extent in enumerate(shape)]
    count = math.prod(extents)
    threads = _threads(count)
    group = CudaGroup(body, gpu, threads)
    builder = group.builder

    def write() -> None:
        places = unravel(number, [extents[axis] for axis in plan.order])
        index: list[Expr] = [0] * len(shape)
        for axis, place in zip(plan.order, places, strict=True):
            index[axis] = place if isinstance(place, int) else builder.bind(place)
        first = index[plan.axis] * plan.lanes
        with builder.vector(plan.lanes) as lane:
            index[plan.axis] = first + lane
            group.store_outputs(index)

    number = builder.bind(builder.block * threads + builder.thread)
    _where(builder, number, count, threads, write)
    return group.launched(max(-(-count // threads), 1))


def _flat(body: Graph, gpu: Gpu, size: int) -> Kernel:
    """All axes are one: what is left behind the last whole vector is written element by element, by the threads that
    follow those of the vectors."""
    lanes = min(_most_lanes(body), 1 << max(size.bit_length() - 1, 0))
    whole, rest = divmod(size, lanes)
    count = whole + rest
    threads = _threads(count)
    group = CudaGroup(body, gpu, threads)
    builder = group.builder

    def vectors() -> None:
        with builder.vector(lanes) as lane:
            group.store_outputs([number * lanes + lane][: len(body.outputs[0].shape)])

    def elements() -> None:
        group.store_outputs([number + whole * (lanes - 1)])

    number = builder.bind(builder.block * threads + builder.thread)
    if rest:
        builder.when(number < whole, vectors, lambda: builder.when(number < count, elements))
    else:
        _where(builder, number, count, threads, vectors)
    return group.launched(max(-(-count // threads), 1))


def _threads(count: int) -> int:
    """Of a block: whole warps, and no more than there is work for."""
    return min(-(-max(count, 1) // 32) * 32, _THREADS)


def _where(builder: BlockBuilder, number: Expr, count: int, threads: int, write: Callable[[], None]) -> None:
    if count % threads or not count:
        builder.when(number < count, write)
    else:
        write()


def _most_lanes(body: Graph) -> int:
    """Elements that are one move of the narrowest type, and not too many of the widest."""
    values = [*body.inputs, *body.outputs]
    sizes = [numpy_dtype(value.dtype).itemsize for value in values if value.type.size > 1] or [WIDEST]
    return min(WIDEST // min(sizes), _MOST_MOVES * WIDEST // max(sizes))


# Where elements come from ----------------------------------------------------------------------------------


def _plan(body: Graph, shape: Sequence[int]) -> _Plan:
    last = len(shape) - 1
    natural = tuple(range(len(shape)))
    moves = _Moves(body, shape)
    most = _most_lanes(body)
    lanes = _dividing(shape[last], most)
    while lanes > 1 and not moves.together(last, lanes):
        lanes //= 2
    if lanes > 1 or moves.together(last, min(shape[last], 2)):
        return _Plan(last, lanes, natural)
    sector = max(_SECTOR // numpy_dtype(body.outputs[0].dtype).itemsize, 2)
    for axis in reversed(range(last)):
        few = _dividing(shape[axis], 2 * most)
        if shape[axis] < 2 or not moves.together(axis, min(shape[axis], max(few, 2))):
            continue
        if not moves.together(axis, min(shape[axis], 32)) and few > 1:
            return _Plan(axis, few, natural)
        return _Plan(last, _dividing(shape[last], sector), moves.order())
    return _Plan(last, 1, natural)


def _dividing(extent: int, most: int) -> int:
    """The greatest power of two that divides `extent`, up to `most`."""
    return min(extent & -extent, most) if extent else 1


class _Moves:
    """Where the elements of the larger operands lie, found by asking for a few elements of the result."""

    def __init__(self, body: Graph, shape: Sequence[int]):
        self.body, self.shape = body, shape
        size = math.prod(shape)
        self.large = [value for value in body.inputs if 2 * value.type.size >= size and value.type.size > 1]
        self.zero = self._places([0] * len(shape))

    def _places(self, index: Index) -> dict[Value, list[int]]:
        """For each large operand the positions that are read for the element at `index`; what is data counts as 0."""
        found: dict[Value, list[int]] = {value: [] for value in self.body.inputs}
        builder = BlockBuilder(1)

        def source(value: Value) -> Source:
            extents = static_shape(value.shape)

            def read(index: Index) -> Expr:
                known = [i if isinstance(i, int) else 0 for i in index]
                found[value].append(int(ravel(known, extents)))
                return builder.keep(builder.load(buffers[value], 0)) if value.dtype != "bool" else const(True, "bool")

            return read

        buffers = {
            value: builder.parameter(f"in{number}", value.dtype, 1) for number, value in enumerate(self.body.inputs)
        }
        elements = Elements(builder, {value: source(value) for value in self.body.inputs})
        for value in self.body.outputs:
            elements.evaluate(value, index)
        return {value: found[value] for value in self.large}

    def together(self, axis: int, extent: int) -> bool:
        """Whether as many neighbours along an axis of the result, at a multiple of as many, are neighbours in all large
        operands too, or the same."""
        return all(self._neighbours(axis, extent, first) for first in self._samples(axis, extent))

    def _samples(self, axis: int, extent: int) -> list[int]:
        return [0, self.shape[axis] // 2 // extent * extent] if self.shape[axis] >= extent else []

    def _neighbours(self, axis: int, extent: int, first: int) -> bool:
        def at(step: int) -> dict[Value, list[int]]:
            index = [extent // 2 if extent > 2 else 0 for extent in self.shape]
            index[axis] = first + step
            return self._places(index)

        begin, end = at(0), at(min(extent, self.shape[axis]) - 1)
        return all(
            not begin[value] or any(a + step in end[value] for a in begin[value] for step in (0, extent - 1))
            for value in self.large
        )

    def order(self) -> tuple[int, ...]:
        """The result's axes in the order of the largest operand, those first whose steps are the longest."""
        if not self.large:
            return tuple(range(len(self.shape)))
        value = max(self.large, key=lambda v: v.type.nbytes)

        def step(axis: int) -> int:
            index = [0] * len(self.shape)
            index[axis] = 1
            if self.shape[axis] < 2 or not self.zero[value]:
                return 0
            return abs(self._places(index)[value][0] - self.zero[value][0])

        steps = [step(axis) if self.shape[axis] > 1 else math.inf for axis in range(len(self.shape))]
        return tuple(sorted(range(len(self.shape)), key=lambda axis: -steps[axis]))
