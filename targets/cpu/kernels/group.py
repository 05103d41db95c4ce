"""What every kernel of a fused group has in common: its parameters, its elements, how it stores its results.

A group's kernel takes a pointer for each input of the body, then one for each output, then this thread's scratch
memory when it asked for some.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from targets.cpu.machine import Machine
from tensorc.ir import Graph, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import Elements, Index, Source, buffer_source, ravel
from tensorc.lowering.tir import Buffer, Expr, KernelBuilder


@dataclass(frozen=True)
class Kernel:
    """A kernel ready to be compiled. `tasks` can run in any order, on any thread; `schedule` says how it was built."""

    function: Any
    tasks: int
    scratch_bytes: int
    schedule: str


class GroupKernel:
    """Writes the kernel of one body. Subclasses of nothing: each kind of kernel uses it."""

    def __init__(self, body: Graph, machine: Machine):
        self.body = body
        self.machine = machine
        self.builder = KernelBuilder()
        self.buffers: dict[Value, Buffer] = {}
        for number, value in enumerate(body.inputs):
            self.buffers[value] = self.builder.parameter(f"in{number}", value.dtype, value.type.size)
        self.outputs: list[Buffer] = [
            self.builder.parameter(f"out{number}", value.dtype, value.type.size)
            for number, value in enumerate(body.outputs)
        ]
        sources: dict[Value, Source] = {
            value: buffer_source(self.builder, buffer, value) for value, buffer in self.buffers.items()
        }
        self.elements = Elements(self.builder, sources)
        self.scratch_bytes = 0

    def scratch(self, dtype: str, elements: int) -> Buffer:
        """Memory of this thread's own, used within one task. At most one buffer a kernel."""
        self.scratch_bytes = elements * numpy_dtype(dtype).itemsize
        return self.builder.parameter("scratch", dtype, elements)

    def store_outputs(self, index: Index) -> None:
        """Store the element at `index` of every output (they all have one shape)."""
        for value, buffer in zip(self.body.outputs, self.outputs, strict=True):
            element = self.elements.evaluate(value, index)
            if value.dtype == "bool":
                element = tir.cast(element, "int8")
            self.builder.store(buffer, element, ravel(index, static_shape(value.shape)))

    def finish(self, tasks: int, schedule: str = "") -> Kernel:
        return Kernel(self.builder.function("kernel"), tasks, self.scratch_bytes, schedule)


def vector_blocks(builder: KernelBuilder, extent: int, lanes: int) -> Iterable[tuple[Expr, int]]:
    """Loops over `extent` elements: yields (first element, lanes) inside a serial loop of whole vectors, then for the
    rest. The caller opens `builder.vector(lanes)` itself."""
    whole = extent // lanes
    if whole:
        with builder.serial(whole, name="b") as block:
            yield block * lanes, lanes
    if extent % lanes:
        yield whole * lanes, extent % lanes
