"""The GPU that code is compiled for: an architecture by NVIDIA's name, and its limits."""

from __future__ import annotations

from dataclasses import dataclass

from tensorc.errors import UserError

_KIB, _MIB = 1 << 10, 1 << 20
#: Bytes that a thread moves at once: every operand of a kernel begins at a multiple of them.
ALIGNMENT = 16


@dataclass(frozen=True)
class Gpu:
    """An architecture, with the numbers of a common part of it. Bytes; `shared_block` is the most that one block can
    have, `shared` what the blocks of a multiprocessor have together.

    `rounds_products` is no property of the part but what the user allows: that products of float32 are taken of numbers
    rounded to tf32, which tensor cores multiply; sums are in float32 all the same."""

    name: str
    description: str
    multiprocessors: int
    shared: int
    shared_block: int
    l2: int
    threads: int  #: that a multiprocessor holds at once
    registers: int = 65536  #: of 32 bits, of a multiprocessor
    rounds_products: bool = False

    @property
    def capability(self) -> int:
        return int(self.name.removeprefix("sm_"))

    @property
    def has_async_copies(self) -> bool:
        return self.capability >= 80

    @property
    def multiplies_bytes(self) -> bool:
        """Whether there are kernels that do: tensor cores of before do so in other shapes."""
        return self.capability >= 80

    @property
    def multiplies_bfloat16(self) -> bool:
        return self.capability >= 80

    @property
    def specific(self) -> str:
        """The architecture of this name with the instructions that later ones do not have; "" where no kernel asks for
        any."""
        return f"{self.name}a" if self.capability == 90 else ""


#: CUDA C Programming Guide, "Technical Specifications per Compute Capability"; multiprocessors and second-level caches
#: are those of the part that is named.
NAMED: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("sm_75", "Turing (T4)", 40, 64 * _KIB, 64 * _KIB, 4 * _MIB, 1024),
        Gpu("sm_80", "Ampere (A100)", 108, 164 * _KIB, 163 * _KIB, 40 * _MIB, 2048),
        Gpu("sm_86", "Ampere (A10, RTX 30)", 84, 100 * _KIB, 99 * _KIB, 6 * _MIB, 1536),
        Gpu("sm_89", "Ada (L4, L40, RTX 40)", 58, 100 * _KIB, 99 * _KIB, 48 * _MIB, 1536),
        Gpu("sm_90", "Hopper (H100, H200)", 132, 228 * _KIB, 227 * _KIB, 50 * _MIB, 2048),
        Gpu("sm_100", "Blackwell (B200)", 148, 228 * _KIB, 227 * _KIB, 126 * _MIB, 2048),
        Gpu("sm_120", "Blackwell (RTX 50)", 84, 100 * _KIB, 99 * _KIB, 48 * _MIB, 1536),
    )
}


def find(part: str) -> Gpu:
    """The architecture that a target string names after its colon; that of this machine's GPU for "".

    Raises UserError for an unknown one, and where none is named and there is no GPU.
    """
    if not part:
        return detect()
    if part not in NAMED:
        raise UserError(f"unknown architecture {part!r} for cuda; known: {', '.join(NAMED)}")
    return NAMED[part]


def detect() -> Gpu:
    """That of the first GPU here, for the newest architecture that is known and not newer than it."""
    from targets.cuda.driver import capability

    found = capability()
    if found is None:
        raise UserError(
            f"no NVIDIA GPU was found here: name the architecture to compile for, as in cuda:sm_90; "
            f"known: {', '.join(NAMED)}"
        )
    known = [gpu for gpu in NAMED.values() if gpu.capability <= found]
    if not known:
        raise UserError(
            f"this GPU has compute capability {found / 10}; {next(iter(NAMED))} is the oldest that is known"
        )
    return max(known, key=lambda gpu: gpu.capability)
