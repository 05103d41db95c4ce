"""What a CUDA kernel is to those who launch it, and what the kernels of fused groups have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from targets.cpu.kernels.group import GroupKernel
from targets.cuda.gpu import Gpu
from targets.packing import Packing
from tensorc.ir import Graph, Value
from tensorc.lowering.gpu import BlockBuilder
from tensorc.search.schedule import Schedule
from tensorc.search.space import ScheduleJson


@dataclass(frozen=True)
class Kernel:
    """A kernel ready to be printed. Its parameters are pointers to the body's inputs, then its outputs, then to
    `scratch_bytes` of memory on the device, if it asks for any, then to `counters` int32 that are 0 when it begins and
    that it leaves 0.

    `shared_bytes` is the dynamic shared memory of a block. `packings` has the numbers of the inputs that are not read
    as the body's types say: they must be constants. `schedule` is empty where there is nothing to choose.
    """

    function: Any
    blocks: int
    threads: int
    shared_bytes: int = 0
    scratch_bytes: int = 0
    counters: int = 0
    schedule: ScheduleJson = field(default_factory=dict)
    packings: Mapping[int, Packing] = field(default_factory=dict)


@dataclass(frozen=True)
class _Block:
    """What `GroupKernel` asks of a machine."""

    threads: int

    def builder(self) -> BlockBuilder:
        return BlockBuilder(self.threads)


class CudaGroup(GroupKernel):
    """A `GroupKernel` of blocks of `threads` threads."""

    builder: BlockBuilder

    def __init__(self, body: Graph, gpu: Gpu, threads: int, packings: Mapping[Value, Packing | None] | None = None):
        super().__init__(body, _Block(threads), packings)
        self.gpu = gpu
        self.dynamic_bytes = 0
        self.counters = 0

    def launched(self, blocks: int, schedule: Schedule | None = None, resident: int = 0) -> Kernel:
        """The kernel for so many blocks. Where it is known how many of them are `resident` in a multiprocessor, that is
        said: the assembler knows nothing of dynamic shared memory, and would keep registers in memory for more."""
        function = self.builder.launched("kernel", blocks, self.is_in_place, resident)
        chosen = {} if schedule is None else schedule.to_json()
        return Kernel(function, blocks, self.builder.threads, self.dynamic_bytes, self.scratch_bytes, self.counters,
                      chosen, self.packings)  # fmt: skip
