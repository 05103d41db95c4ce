"""What every kernel of a fused group has in common: its parameters, its elements, how it stores its results.

A group's kernel takes a pointer for each input of the body, then one for each output, then this thread's scratch
memory when it asked for some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from targets.cpu.machine import Machine
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import Elements, Index, Source, buffer_source, ravel
from tensorc.lowering.tir import Buffer, Expr, KernelBuilder

#: Opens a loop of so many steps; gives its variable.
Loop = Callable[[int], AbstractContextManager[Expr]]

#: Operators whose code is long: in an epilogue they are written once and looped over, not once for each register.
_LONG = frozenset({"cos", "elu", "erf", "exp", "gelu", "log", "pow", "sigmoid", "silu", "sin", "softplus", "tanh"})


def accumulator(dtype: str) -> str:
    """The type that sums of products of `dtype` are held in."""
    return "float32" if dtype == "float16" else dtype


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
        if any(value.dtype == "bfloat16" for value in body.values()):
            raise UnsupportedError("bfloat16 is not lowered")  # TVM's code generator has no arithmetic for it
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

    def epilogue(self, acc: Buffer, vectors: int, lanes: int) -> tuple[Buffer, Loop]:
        """The buffer to take a register tile's results from, and the kind of loop to go over them with.

        Registers are unrolled over. Where what follows is long, that would repeat it for each of them: the results
        are laid down first, `vectors` of `lanes`, and what follows is a loop.
        """
        builder = self.builder
        if not any(node.op in _LONG for node in self.body.nodes):
            return acc, builder.unrolled
        results = builder.registers(acc.dtype, vectors * lanes, "results")
        with builder.unrolled(vectors) as j, builder.vector(lanes) as lane:
            builder.store(results, builder.load(acc, j * lanes + lane), j * lanes + lane)
        return results, builder.serial

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
