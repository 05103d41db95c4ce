"""Kernels of threads: `KernelBuilder` for what the threads of one block do.

A kernel is a function of pointers that all threads of all blocks begin, each with its own `block` and `thread`:

    k = BlockBuilder(threads=128)
    out = k.parameter("out0", "float32", n)
    i = k.bind(k.block * 128 + k.thread)
    k.when(i < n, lambda: k.store(out, 1.0, i))

Device functions that no expression stands for (tensor cores, asynchronous copies) are called by name; the target that
prints the code has them in its prelude.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tvm import ir, sym
from tvm import tirx as T  # noqa: N812  (as in `tir`)

from tensorc.lowering.tir import Buffer, Expr, KernelBuilder, _index, _sequence
from tensorc.lowering.wide import learn, widen


class BlockBuilder(KernelBuilder):
    """Writes what `threads` threads of a block do together. What is kept is a thread's own."""

    def __init__(self, threads: int):
        super().__init__()
        self.threads = threads
        self.block = T.Var("block", "int32")
        self.thread = T.Var("thread", "int32")
        self._memory: set[str] = set()  #: names of the buffers that are parameters
        self._analyzer = sym.Analyzer()
        self._limit(self.block, 2**31 - 1)
        self._limit(self.thread, threads)

    def _limit(self, variable: Expr, extent: int) -> None:
        self._analyzer.bind(variable, ir.Range.from_min_extent(_index(0), _index(extent)))

    def parameter(self, name: str, dtype: str, elements: int) -> Buffer:
        """The next pointer parameter: it lies at a multiple of 16 bytes."""
        self._memory.add(name)
        return super().parameter(name, dtype, elements)

    def bind(self, value: Expr, name: str = "t") -> Expr:
        variable = super().bind(value, name)
        if variable is not value:
            learn(self._analyzer, variable, value)
        return variable

    # Memory of the block --------------------------------------------------------------------------------

    def shared(self, dtype: str, elements: int, name: str = "tile") -> Buffer:
        """An array that the threads of a block share."""
        buffer = T.decl_buffer((elements,), dtype, self._name(name), scope="shared")
        self._blocks[0].insert(0, T.AllocBuffer(buffer))
        return buffer

    def dynamic_shared(self, nbytes: int, alignment: int = 64) -> Buffer:
        """Shared memory whose size the launch says, in bytes; what is beyond 48 KiB must be such."""
        buffer = T.decl_buffer((nbytes,), "uint8", "dynamic", scope="shared.dyn", data_alignment=alignment)
        self._blocks[0].insert(0, T.AllocBuffer(buffer))
        return buffer

    def sync(self) -> None:
        """All threads of the block wait for each other; what they wrote before is seen by all after."""
        self._blocks[-1].append(T.Evaluate(T.call_intrin("void", "tirx.tvm_storage_sync", ir.StringImm("shared"))))

    # Device functions -----------------------------------------------------------------------------------

    def address(self, buffer: Buffer, index: Expr = 0) -> Expr:
        """Where an element is."""
        return T.address_of(T.BufferLoad(buffer, [_index(index)]))

    def call(self, name: str, *arguments: Expr) -> None:
        """A device function that gives nothing."""
        self._blocks[-1].append(T.Evaluate(T.call_extern("void", name, *map(_index, arguments))))

    def value(self, dtype: str, name: str, *arguments: Expr) -> Expr:
        """What a device function gives, through a slot: it is called once, here."""
        return self.keep(T.call_extern(dtype, name, *map(_index, arguments)))

    # Control --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def vector(self, lanes: int, name: str = "v") -> Iterator[Expr]:
        """Neighbouring elements of one thread, moved from and to memory as many at once as can be: see `wide`."""
        if lanes == 1:
            yield 0
            return
        lane = T.Var(self._name(name), "int32")
        self._limit(lane, lanes)
        self._blocks.append([])
        self._lane = (lane, lanes)
        yield lane
        self._lane = (0, 1)
        before, inside, after = widen(self._blocks.pop(), lane, lanes, self._analyzer, self._memory, self._array)
        loop = T.For(lane, _index(0), _index(lanes), T.ForKind.UNROLLED, _sequence(inside))
        self._blocks[-1] += [*before, loop, *after]

    def _array(self, dtype: str, elements: int) -> Buffer:
        return T.decl_buffer((elements,), dtype, self._name("wide"), scope="local")

    @contextlib.contextmanager
    def _loop(self, kind: Any, extent: Expr, begin: Expr, name: str) -> Iterator[Expr]:
        with super()._loop(kind, extent, begin, name) as variable:
            if isinstance(extent, int) and extent > 1 and isinstance(begin, int):
                first, length = _index(begin), _index(extent)
                self._analyzer.bind(variable, ir.Range.from_min_extent(first, length))
            yield variable

    def prefetch(self, buffer: Buffer, index: Expr) -> None:
        """Blocks that wait make room for others here."""

    def launched(self, name: str, blocks: int, in_place: bool = False, resident: int = 0) -> Any:
        """The finished PrimFunc, for `blocks` blocks. If `resident` is not 0, a multiprocessor is to hold so many of
        them at once: as many registers a thread may have, and no fewer are aimed at."""
        (statements,) = self._blocks
        body = _sequence(statements)
        for variable, extent, tag in ((self.thread, self.threads, "threadIdx.x"), (self.block, blocks, "blockIdx.x")):
            axis = T.IterVar(ir.Range.from_min_extent(_index(0), _index(extent)), variable, T.IterVar.ThreadIndex, tag)
            body = T.AttrStmt(axis, "thread_extent", _index(extent), body)
        function = T.PrimFunc(self._params, _sequence([*self._declarations, body]))
        if resident:
            function = function.with_attr("tirx.launch_bounds_min_blocks_per_sm", resident)
        return function.with_attr("global_symbol", name).with_attr("tirx.noalias", not in_place)


class TaskBuilder(BlockBuilder):
    """For kernels that are written as independent tasks: each is a thread's."""

    def __init__(self, threads: int):
        super().__init__(threads)
        self._scratch: tuple[Buffer, int] | None = None

    def parameter(self, name: str, dtype: str, elements: int) -> Buffer:
        """Scratch memory is of so many elements for each task."""
        buffer = super().parameter(name, dtype, elements)
        if name == "scratch":
            self._scratch = (buffer, elements)
        return buffer

    def load(self, buffer: Buffer, index: Expr) -> Expr:
        return super().load(buffer, self._mine(buffer, index))

    def store(self, buffer: Buffer, value: Expr, index: Expr) -> None:
        super().store(buffer, value, self._mine(buffer, index))

    def _mine(self, buffer: Buffer, index: Expr) -> Expr:
        if self._scratch is None or buffer is not self._scratch[0]:
            return index
        return (self.block * self.threads + self.thread) * self._scratch[1] + index

    @contextlib.contextmanager
    def tasks(self) -> Iterator[Expr]:
        # Each task is a call's first: what is kept for the next ones is made.
        self._blocks[-1].append(T.Bind(self.begin, self.block * self.threads + self.thread))
        self._blocks.append([])
        yield self.begin
        body = _sequence(self._blocks.pop())
        self._blocks[-1].append(T.IfThenElse(self.begin < self.end, body, None))

    def function(self, name: str, in_place: bool = False) -> Callable[[int], Any]:
        """What makes the PrimFunc when it is known how many tasks there are."""

        def finished(tasks: int) -> Any:
            self._blocks[0].insert(0, T.Bind(self.end, _index(tasks)))
            return self.launched(name, -(-tasks // self.threads), in_place)

        return finished
