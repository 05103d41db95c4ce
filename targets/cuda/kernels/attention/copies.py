"""How rows of attention's operands come to shared memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from passes.lower_precision import widens
from targets.cuda.kernels.attention.tiles import Tile
from targets.cuda.kernels.kernel import CudaGroup
from tensorc.ir import Value
from tensorc.ir.dims import static_shape
from tensorc.ir.types import STORED, numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.conversion import convert
from tensorc.lowering.tir import Buffer, Expr, const

#: What a loop over copies has at most, to be unrolled.
_MOST_UNROLLED = 16


@dataclass(frozen=True)
class Copies:
    """To a block's `memory`, as elements of `dtype`: by asynchronous copies where the operand lies in such."""

    group: CudaGroup
    memory: Buffer
    dtype: str

    def rows(self, value: Value, tile: Tile, base: Expr, index: Callable[[Expr], tuple[list[Expr], Expr]]) -> None:
        """The rows of an operand to `tile`, which is `base` bytes further on. `index` gives the first three places of
        a row's elements, inside the operand, and whether they are wanted; what is not is zero."""
        builder = self.group.builder
        elements = 16 // int(numpy_dtype(self.dtype).itemsize)
        depth = static_shape(value.shape)[3]
        lying = _strided(self.group, value)
        source = source_of(value).dtype
        copies = lying is not None and source == self.dtype and depth % elements == 0
        copies = copies and lying is not None and lying.lies_in_chunks(elements)
        chunks, threads = tile.rows * tile.chunks, builder.threads
        steps = -(-chunks // threads)

        def move(number: Expr) -> None:
            row, chunk = (
                builder.bind(tir.floor_div(number, tile.chunks)),
                builder.bind(tir.floor_mod(number, tile.chunks)),
            )
            outer, valid = index(row)
            to = builder.address(self.memory, base + tile.place(row, chunk))
            if depth < tile.chunks * elements:
                valid = tir.logical("and", valid, chunk * elements < depth)
            if copies:
                assert lying is not None
                place = lying.place([*outer, chunk * elements])
                builder.call("tc_copy_async<16>", to, builder.address(lying.buffer, place), _int(valid))
                return
            held = builder.registers(self.dtype, elements, "chunk")
            with builder.vector(elements) as v:
                d = builder.bind(chunk * elements + v)
                inside = valid
                if depth % elements:
                    inside = tir.logical("and", inside, d < depth)
                at = d if depth == tile.chunks * elements else builder.bind(tir.minimum(d, depth - 1))
                element = self.group.elements.evaluate(value, [*outer, at])
                element = convert(builder.keep, element, value.dtype, self.dtype)
                if not isinstance(inside, bool):
                    zero = const(0, STORED.get(self.dtype, self.dtype))
                    element = tir.select(inside, builder.keep(element), zero)
                builder.store(held, element, v)
            builder.call(f"tc_store<{elements}>", to, builder.address(held, 0))

        with (builder.unrolled if copies and steps <= _MOST_UNROLLED else builder.serial)(steps) as step:
            number = builder.bind(step * threads + builder.thread)
            if chunks % threads:
                builder.when(number < chunks, lambda: move(number))
            else:
                move(number)


def source_of(value: Value) -> Value:
    """What `value` is, moved and widened."""
    while value.producer is not None and (value.producer.op in ("slice", "transpose") or widens(value.producer)):
        value = value.producer.inputs[0]
    return value


@dataclass(frozen=True)
class _Strided:
    """Elements of a buffer: the first one's place, and how far the next along each axis is."""

    buffer: Buffer
    first: int
    strides: tuple[int, ...]

    def place(self, index: list[Expr]) -> Expr:
        total: Expr = self.first
        for i, stride in zip(index, self.strides, strict=True):
            total = total + i * stride
        return total

    def lies_in_chunks(self, elements: int) -> bool:
        """Whether neighbours along the last axis lie side by side from multiples of `elements` on."""
        return self.strides[-1] == 1 and all(n % elements == 0 for n in (self.first, *self.strides[:-1]))


def _strided(group: CudaGroup, value: Value) -> _Strided | None:
    """How `value` lies in memory, before it is widened; None for what does not, or is computed."""
    if value in group.buffers:
        shape = static_shape(value.shape)
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return _Strided(group.buffers[value], 0, strides)
    node = value.producer
    inner = _strided(group, node.inputs[0]) if node is not None and node.inputs else None
    if node is None or inner is None:
        return None
    if widens(node):
        return inner
    if node.op == "transpose":
        return _Strided(inner.buffer, inner.first, tuple(inner.strides[axis] for axis in node.attrs["perm"]))
    if node.op == "slice":
        starts, steps = node.attrs["starts"], node.attrs["steps"]
        first = inner.first + sum(start * stride for start, stride in zip(starts, inner.strides, strict=True))
        strides = tuple(step * stride for step, stride in zip(steps, inner.strides, strict=True))
        return _Strided(inner.buffer, first, strides)
    return None


def _int(condition: Expr) -> Expr:
    return int(condition) if isinstance(condition, bool) else tir.cast(condition, "int32")
