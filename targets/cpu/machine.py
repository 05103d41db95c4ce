"""The CPU that code is compiled for, and the one that it runs on.

A machine is described by what schedules need (vector width, registers, caches, cores) and by the instruction sets
that code may use. Those are taken from what the operating system lists, never from the model of the CPU: virtual
machines and old kernels mask instructions that the model has, and executing one of them kills the process. So LLVM
gets the highest x86-64 level that the flags cover, and by name each further extension that kernels profit from.

Linux on x86-64 is what is known here. /proc is read directly, since py-cpuinfo starts processes and takes a second.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorc.errors import UserError

if TYPE_CHECKING:
    from tensorc.lowering.tir import KernelBuilder

_CPUINFO = Path("/proc/cpuinfo")
_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")

#: Level -> the flags of /proc/cpuinfo that it adds to the one before, from the x86-64 psABI. `pni` is SSE3, `abm`
#: has LZCNT; OSXSAVE is not listed, and the kernel lists AVX only if it holds.
_LEVELS: dict[str, set[str]] = {
    "x86-64-v2": {"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"},
    "x86-64-v4": {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"},
}
#: Level -> the flags beyond it that numeric kernels profit from, with LLVM's names for them.
_EXTENSIONS: dict[str, dict[str, str]] = {
    "x86-64-v2": {},
    "x86-64-v3": {"avx_vnni": "avxvnni", "gfni": "gfni"},
    "x86-64-v4": {
        "avx512_bf16": "avx512bf16",
        "avx512_bitalg": "avx512bitalg",
        "avx512_fp16": "avx512fp16",
        "avx512_vbmi2": "avx512vbmi2",
        "avx512_vnni": "avx512vnni",
        "avx512_vpopcntdq": "avx512vpopcntdq",
        "avx512ifma": "avx512ifma",
        "avx512vbmi": "avx512vbmi",
    },
}
_VECTOR_BITS = {"x86-64-v2": 128, "x86-64-v3": 256, "x86-64-v4": 512}
_KIB, _MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Machine:
    """A CPU. Caches are in bytes, data caches where they are split; `l3` is shared, the others are a core's own.

    `features` are flags of /proc/cpuinfo: what the code may use, and so must find where it runs.
    """

    name: str
    mcpu: str
    features: frozenset[str]
    cores: int
    l1: int
    l2: int
    l3: int

    @property
    def vector_bits(self) -> int:
        return _VECTOR_BITS[self.mcpu]

    @property
    def vector_registers(self) -> int:
        return 32 if "avx512vl" in self.features else 16

    @property
    def multiplies_bytes(self) -> bool:
        """Whether one instruction adds four products of bytes to each lane of a vector."""
        return "avx512_vnni" in self.features if self.vector_bits == 512 else "avx_vnni" in self.features

    @property
    def multiplies_bfloat16(self) -> bool:
        """Whether one instruction adds two products of bfloat16 to each lane of a vector of float32."""
        return self.vector_bits == 512 and "avx512_bf16" in self.features

    def builder(self) -> KernelBuilder:
        """What kernels for it are written with."""
        from tensorc.lowering.tir import KernelBuilder

        return KernelBuilder()

    def llvm_target(self) -> dict[str, Any]:
        """TVM's description of a target that allows exactly this machine's features."""
        attributes = [f"+{name}" for flag, name in _extensions(self.mcpu).items() if flag in self.features]
        if self.vector_bits == 512:
            # LLVM's model of this level is the first Xeon with AVX-512, which slowed down on wide vectors.
            attributes.append("-prefer-256-bit")
        return {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": self.mcpu, "mattr": attributes}


def _up_to(level: str) -> list[str]:
    return list(_LEVELS)[: list(_LEVELS).index(level) + 1]


def _level_features(level: str) -> frozenset[str]:
    return frozenset(flag for lower in _up_to(level) for flag in _LEVELS[lower])


def _extensions(level: str) -> dict[str, str]:
    return {flag: name for lower in _up_to(level) for flag, name in _EXTENSIONS[lower].items()}


def _named(name: str, level: str, extensions: str, cores: int, l1: int, l2: int, l3: int) -> Machine:
    return Machine(name, level, _level_features(level) | frozenset(extensions.split()), cores, l1, l2, l3)


_ICE_LAKE = "avx512_bitalg avx512_vbmi2 avx512_vnni avx512_vpopcntdq avx512ifma avx512vbmi gfni"

#: Machines to compile for by name; cores and caches are those of a common part.
NAMED: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        _named("x86-64-v2", "x86-64-v2", "", 4, 32 * _KIB, 256 * _KIB, 8 * _MIB),
        _named("x86-64-v3", "x86-64-v3", "", 8, 32 * _KIB, 512 * _KIB, 16 * _MIB),
        _named("x86-64-v4", "x86-64-v4", "", 16, 32 * _KIB, 1 * _MIB, 32 * _MIB),
        _named("haswell", "x86-64-v3", "", 4, 32 * _KIB, 256 * _KIB, 8 * _MIB),
        _named("skylake-avx512", "x86-64-v4", "", 16, 32 * _KIB, 1 * _MIB, 22 * _MIB),
        _named("icelake-server", "x86-64-v4", _ICE_LAKE, 32, 48 * _KIB, 1280 * _KIB, 48 * _MIB),
        _named(
            "sapphirerapids", "x86-64-v4", f"{_ICE_LAKE} avx512_bf16 avx512_fp16 avx_vnni",
            32, 48 * _KIB, 2 * _MIB, 60 * _MIB,
        ),
        _named("znver3", "x86-64-v3", "", 8, 32 * _KIB, 512 * _KIB, 32 * _MIB),
        _named("znver4", "x86-64-v4", f"{_ICE_LAKE} avx512_bf16", 8, 32 * _KIB, 1 * _MIB, 32 * _MIB),
        _named("znver5", "x86-64-v4", f"{_ICE_LAKE} avx512_bf16 avx_vnni", 8, 48 * _KIB, 1 * _MIB, 32 * _MIB),
    )
}  # fmt: skip


def find(part: str) -> Machine:
    """The machine that a target string names after its colon; this one for ""."""
    if not part:
        return detect()
    if part not in NAMED:
        raise UserError(f"unknown cpu {part!r}; known: {', '.join(NAMED)}, or none of them for this machine")
    return NAMED[part]


@cache
def detect() -> Machine:
    """This machine, as far as this process may use it."""
    info = _cpuinfo()
    flags = frozenset(info.get("flags", "").split())
    levels = [level for level in _LEVELS if _level_features(level) <= flags]
    if not levels:
        known = ", ".join(NAMED)
        raise UserError(f"this machine ({platform.machine()}) is not an x86-64-v2 CPU; compile for another: {known}")
    level = levels[-1]
    caches = _caches()
    typical = NAMED[level]
    return Machine(
        name=info.get("model name", level),
        mcpu=level,
        features=_level_features(level) | (flags & _extensions(level).keys()),
        cores=available_cores(),
        l1=caches.get(1, typical.l1),
        l2=caches.get(2, typical.l2),
        l3=caches.get(3, typical.l3),
    )


def missing_features(features: Iterable[str]) -> list[str]:
    """Those of `features` that this machine lacks, in order of name."""
    return sorted(set(features) - set(_cpuinfo().get("flags", "").split()))


@cache
def _cpuinfo() -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor; nothing where there is no such file."""
    if not _CPUINFO.exists():
        return {}
    first, _, _ = _CPUINFO.read_text().partition("\n\n")
    rows = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in rows}


def _caches() -> dict[int, int]:
    """Level -> bytes, of a core that this process may run on."""
    cpu = min(os.sched_getaffinity(0))
    sizes = {}
    for index in _CPUS.glob(f"cpu{cpu}/cache/index*"):
        size = _read(index / "size")
        if _read(index / "type") != "Instruction" and size.endswith("K"):
            sizes[int(_read(index / "level"))] = int(size[:-1]) * _KIB
    return sizes


def available_cores() -> int:
    """Cores that this process may use: its affinity, hardware threads of one core counted once, within its quota."""
    cpus = os.sched_getaffinity(0)
    siblings = {_read(_CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus}
    return max(1, int(min(len(siblings), _quota())))


def _quota() -> float:
    """The processors' worth of time that this process's cgroups grant, infinity if there is no limit.

    A limit may stand at any level above. In a container the path may not be visible: then its root is the own group.
    """
    limits = [math.inf]
    for line in _read(_OWN_CGROUP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = _CGROUPS, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, names = _CGROUPS / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        own = root / path.strip("/")
        for group in [own, *own.parents]:
            quota, period, *_ = [*" ".join(_read(group / name) for name in names).split(), "", ""]
            if quota.isdigit() and period.isdigit():
                limits.append(int(quota) / int(period))
            if group == root:
                break
    return min(limits)


def _read(path: Path) -> str:
    """A small system file, or "" where it is absent or hidden."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
