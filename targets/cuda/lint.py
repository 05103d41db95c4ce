"""What a kernel's accesses to memory cost its warps, found by running it: sectors of global memory, for the bytes that
are used, and turns of shared memory's banks.

The kernel's own CUDA C runs on the CPU (`emulator`), and each access of each lane is noted. A GPU moves global memory
in sectors of 32 bytes, and its shared memory has 32 banks of 4 bytes, each of which serves one address a turn (CUDA C++
Best Practices Guide, "Coalesced Access to Global Memory" and "Shared Memory and Memory Banks").
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from targets.cuda.device import Call
from targets.cuda.emulator.device import launch, traced_for_host
from tensorc.toolchain import find_tool

_MOST_PLACES = 4096


@dataclass(frozen=True)
class Access:
    """All requests of warps from one place in the code: sectors (global) or turns (shared) that they took, and the
    least that would have held the bytes. `line` is the place's, in the kernel's text."""

    line: str
    is_shared: bool
    is_store: bool
    requests: int
    taken: int
    least: int

    @property
    def factor(self) -> float:
        """1 is the best: neighbouring lanes use neighbouring bytes, no bank is asked twice."""
        return self.taken / max(self.least, 1)


def accesses(name: str, source: str, call: Call) -> list[Access]:
    """Of one launch, in the order of their first time. It runs the kernel: `call`'s arguments are addresses here.

    Raises as the emulator does.
    """
    with traced_for_host(name, source) as kernel:
        launch(kernel.launch, call)
        rows = np.zeros((_MOST_PLACES, 6), np.int64)
        count = kernel.costs(rows.ctypes.data, _MOST_PLACES)
        lines = _lines(kernel.library, [int(row[0]) - kernel.base for row in rows[:count]])
    return [
        Access(kernel.text[line - 1].strip() if line else "", bool(is_shared), bool(is_store), *counts)
        for line, (_, is_shared, is_store, *counts) in zip(lines, rows[:count].tolist(), strict=True)
    ]


def _lines(library: Path, places: Sequence[int]) -> list[int]:
    """For each place the line of the kernel's text, 0 where that is not known. A place is what is called comes back to:
    the line before has the call, perhaps through functions that are written out there."""
    if not places:
        return []
    command = [find_tool("addr2line", "saying where a kernel's accesses stand"), "-a", "-i", "-e", str(library)]
    addresses = [hex(place - 1) for place in places]
    printed = subprocess.run([*command, *addresses], capture_output=True, text=True, check=True).stdout
    found = []
    for frames in re.split(r"^0x[0-9a-f]+\n", printed, flags=re.MULTILINE)[1:]:
        own = re.findall(rf"{library.stem}\.cpp:(\d+)", frames)
        found.append(int(own[-1]) if own else 0)
    return found
