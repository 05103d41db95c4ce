"""What every kernel of a fused group has in common: its parameters, its elements, how it stores its results.

A group's kernel takes a pointer for each input of the body, then one for each output, then this thread's scratch
memory when it asked for some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from passes.legalize import WIDTH_FREE, is_mixed_product
from passes.memory.in_place import replaceable
from targets.packing import Packing
from tensorc.errors import UnsupportedError
from tensorc.ir import Graph, Node, Value
from tensorc.ir.dims import static_shape
from tensorc.ir.ops.trigonometry import TRIGONOMETRIC
from tensorc.ir.types import STORED, is_integer, numpy_dtype
from tensorc.lowering import tir
from tensorc.lowering.indexing import Elements, Index, Source, buffer_source, ravel
from tensorc.lowering.tir import Buffer, Expr, KernelBuilder, const
from tensorc.search.schedule import Schedule
from tensorc.search.space import ScheduleJson

#: Opens a loop of so many steps; gives its variable.
Loop = Callable[[int], AbstractContextManager[Expr]]

#: Operators whose code is long: in an epilogue they are written once and looped over, not once for each register.
LONG = TRIGONOMETRIC | {
    "cos", "elu", "erf", "exp", "gelu", "log", "pow", "sigmoid", "silu", "sin", "softplus", "tanh",
}  # fmt: skip


def accumulator(dtype: str) -> str:
    """The type that sums of products of `dtype` are held in."""
    return "float32" if dtype == "float16" else dtype


@dataclass(frozen=True)
class Kernel:
    """A kernel ready to be compiled. `tasks` can run in any order, on any thread.

    `schedule` is empty where there is nothing to choose. `packings` has the numbers of the inputs that are not read as
    the body's types say: they must be constants. `parts` has the numbers of inputs of which a task reads one of so many
    equal parts: as many tasks in a row the first one, then as many the second.
    """

    function: Any
    tasks: int
    scratch_bytes: int
    schedule: ScheduleJson = field(default_factory=dict)
    packings: Mapping[int, Packing] = field(default_factory=dict)
    parts: Mapping[int, int] = field(default_factory=dict)


class HasBuilder(Protocol):
    """What `GroupKernel` asks of a machine."""

    def builder(self) -> KernelBuilder: ...


class GroupKernel:
    """Writes the kernel of one body: each kind of kernel uses it."""

    def __init__(self, body: Graph, machine: HasBuilder, packings: Mapping[Value, Packing | None] | None = None):
        for node in body.nodes:
            narrow = any(v.dtype in STORED for v in (*node.inputs, *node.outputs))
            if narrow and node.op not in WIDTH_FREE and not is_mixed_product(node):
                raise UnsupportedError(f"{node.op} of {node.output.type} is not lowered: nothing computes in that type")
        self.body = body
        self.builder = machine.builder()
        self.buffers: dict[Value, Buffer] = {}
        self.packings: dict[int, Packing] = {}
        for number, value in enumerate(body.inputs):
            packing = (packings or {}).get(value)
            if packing is not None:
                self.packings[number] = packing
            size = value.type.size if packing is None else math.prod(packing.shape)
            self.buffers[value] = self.builder.parameter(f"in{number}", value.dtype, size)
        self.outputs: list[Buffer] = [
            self.builder.parameter(f"out{number}", value.dtype, value.type.size)
            for number, value in enumerate(body.outputs)
        ]
        sources: dict[Value, Source] = {
            value: buffer_source(self.builder, buffer, value) for value, buffer in self.buffers.items()
        }
        self.elements = Elements(self.builder, sources)
        self.scratch_bytes = 0

    def sums_of(self, node: Node) -> tuple[Value, Source]:
        """The value that the kernel's sums are in the end, and what they begin with: where whole numbers are added to
        the products of `node`, which come from memory, that is where they begin."""
        result = node.output
        user = result.users[0] if len(result.users) == 1 and result not in self.body.outputs else None
        if user is not None and user.op == "add" and is_integer(result.dtype):
            other = user.inputs[1] if user.inputs[0] is result else user.inputs[0]
            if other is not result and other in self.buffers and user.output.type == result.type:
                return user.output, lambda index: self.elements.broadcast(other, index)
        return result, lambda _: const(0, accumulator(result.dtype))

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
        if not any(node.op in LONG for node in self.body.nodes):
            return acc, builder.unrolled
        results = builder.registers(acc.dtype, vectors * lanes, "results")
        with builder.unrolled(vectors) as j, builder.vector(lanes) as lane:
            builder.store(results, builder.load(acc, j * lanes + lane), j * lanes + lane)
        return results, builder.serial

    @property
    def is_in_place(self) -> bool:
        """Whether a result may be written over an operand."""
        return bool(replaceable(self.body))

    def finish(self, tasks: int, schedule: Schedule | None = None, parts: Mapping[Value, int] | None = None) -> Kernel:
        chosen = {} if schedule is None else schedule.to_json()
        numbers = {self.body.inputs.index(value): count for value, count in (parts or {}).items()}
        function = self.builder.function("kernel", self.is_in_place)
        return Kernel(function, tasks, self.scratch_bytes, chosen, self.packings, numbers)


def vector_blocks(builder: KernelBuilder, extent: int, lanes: int) -> Iterable[tuple[Expr, int]]:
    """Loops over `extent` elements: yields (first element, lanes) inside a serial loop of whole vectors, then for the
    rest. The caller opens `builder.vector(lanes)` itself."""
    whole = extent // lanes
    if whole:
        with builder.serial(whole, name="b") as block:
            yield block * lanes, lanes
    if extent % lanes:
        yield whole * lanes, extent % lanes
