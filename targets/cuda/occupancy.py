"""How many blocks of a kernel a multiprocessor holds at once, and what keeps it from more.

The rules are those of the CUDA C Programming Guide ("Hardware Multithreading") with the granularities of NVIDIA's
occupancy calculator: registers are given out to warps in pieces of 256, shared memory to blocks in pieces of 128 bytes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from targets.cuda.gpu import Gpu

WARP = 32
#: Warps take turns on so many parts of a multiprocessor, which have its registers in equal shares.
_PARTS = 4
_REGISTER_PIECE, _SHARED_PIECE = 256, 128
#: Of each block's shared memory, from compute capability 8.0 on: the driver's own.
_RESERVED = 1 << 10
#: Blocks of a multiprocessor at most; 32 where nothing is said.
_MOST_BLOCKS = {75: 16, 86: 16, 89: 24, 120: 24}


@dataclass(frozen=True)
class Occupancy:
    """`blocks` and `warps` of a multiprocessor at once, of `most_warps` that it can hold; `limit` says what there is no
    more of: "threads", "blocks", "registers" or "shared memory". No blocks at all: the kernel cannot be launched."""

    blocks: int
    warps: int
    most_warps: int
    limit: str

    @property
    def share(self) -> float:
        return self.warps / self.most_warps

    def to_json(self) -> dict[str, Any]:
        return {"blocks": self.blocks, "warps": self.warps, "share": self.share, "limit": self.limit}


@functools.cache
def occupancy(gpu: Gpu, threads: int, registers: int, shared: int) -> Occupancy:
    """Of a kernel with blocks of `threads` threads of `registers` registers each and `shared` bytes of shared memory,
    static and dynamic."""
    warps = -(-threads // WARP)
    most_warps = gpu.threads // WARP
    of_warp = max(_rounded(registers * WARP, _REGISTER_PIECE), _REGISTER_PIECE)
    warps_by_registers = gpu.registers // _PARTS // of_warp * _PARTS
    of_block = _rounded(shared + (_RESERVED if gpu.capability >= 80 else 0), _SHARED_PIECE)
    room = {
        "threads": most_warps // warps,
        "blocks": _MOST_BLOCKS.get(gpu.capability, 32),
        "registers": warps_by_registers // warps,
        "shared memory": gpu.shared // of_block if of_block else gpu.threads,
    }
    if shared > gpu.shared_block:
        room["shared memory"] = 0
    limit = min(room, key=room.__getitem__)
    return Occupancy(room[limit], room[limit] * warps, most_warps, limit)


def _rounded(number: int, piece: int) -> int:
    return -(-number // piece) * piece
