"""Kernels that are written as independent tasks, a thread each: those of the CPU, with vectors of one number.

Right for every group that the CPU target knows, and fast where tasks are many and short. What networks spend their time
in has kernels of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from targets.cpu.kernels import lower as lower_tasks
from targets.cpu.machine import Machine
from targets.cuda.kernels.kernel import Kernel
from tensorc.ir import Graph
from tensorc.lowering.gpu import TaskBuilder

_THREADS = 128


@dataclass(frozen=True)
class _Thread(Machine):
    """A thread as a CPU target's machine."""

    @property
    def vector_bits(self) -> int:
        return 32

    def builder(self) -> TaskBuilder:
        return TaskBuilder(_THREADS)


#: The registers of a thread stand for those of vectors, its share of the caches for them.
_THREAD = _Thread("a thread", "", frozenset(), cores=1, l1=16 << 10, l2=64 << 10, l3=1 << 20)


def lower_as_tasks(body: Graph) -> Kernel:
    """Raises UnsupportedError for what has no kernel."""
    kernel = lower_tasks(body, _THREAD)
    blocks = -(-kernel.tasks // _THREADS)
    scratch_bytes = kernel.scratch_bytes * blocks * _THREADS
    function = kernel.function(kernel.tasks)
    return Kernel(function, blocks, _THREADS, scratch_bytes=scratch_bytes, packings=kernel.packings)
