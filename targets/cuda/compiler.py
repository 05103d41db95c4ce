"""CUDA C to machine code, by NVRTC: no CUDA toolkit, no driver and no GPU are needed. What was compiled is kept in the
user's cache."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from targets.cuda.gpu import Gpu
from tensorc.environment import cache_folder
from tensorc.errors import UserError

_PRELUDE = Path(__file__).with_name("prelude.cuh")
_INSTALL = "pip install 'tensorc[cuda]'"
#: Kernels that call functions of such names have instructions which no later architecture has. Their PTX does without.
_SPECIFIC = "tc_wgmma_"
#: Subnormal numbers, division and roots as IEEE 754 has them are what NVRTC does by default; products are contracted
#: with additions, as other compilers' vector code does.
_OPTIONS = ("--std=c++17", "--ptxas-options=-v", "--device-as-default-execution-space")


@dataclass(frozen=True)
class Resources:
    """What the assembler says of a kernel: registers of a thread, bytes of static shared memory of a block, and of
    local memory of a thread: its stack, and what is stored there and loaded for want of registers; and whether products
    of warpgroups wait for each other, since it could not keep their sums apart from other registers."""

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    serialized: bool = False


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code for one architecture, and as PTX for it and later ones."""

    cubin: bytes
    ptx: bytes
    resources: Resources


def compile_kernel(source: str, name: str, gpu: Gpu) -> Compiled:
    """Machine code for the kernel `name` of `source`, a text of `codegen.print_kernel`.

    Raises UserError where NVRTC is not installed or does not know the architecture, RuntimeError with its first error
    for a text that is wrong.
    """
    architecture = (_SPECIFIC in source and gpu.specific) or gpu.name
    options = [f"--gpu-architecture={architecture}", *_OPTIONS]
    text = _PRELUDE.read_text(encoding="utf-8") + "\n" + source
    key = hashlib.sha256(repr((_version(), options, text)).encode()).hexdigest()[:32]
    kept = _kept(key)
    if kept is not None:
        return kept
    made = _compile(text, name, options, gpu)
    if architecture != gpu.name:
        common = [f"--gpu-architecture=compute_{gpu.capability}", *_OPTIONS]
        made = replace(made, ptx=_translate(text, name, common, gpu)[0])
    _keep(key, made)
    return made


@functools.cache
def _nvrtc() -> Any:
    """Raises UserError."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise UserError(f"compiling for cuda needs NVRTC, which is not to be had ({error}): {_INSTALL}") from error
    return nvrtc


@functools.cache
def _version() -> tuple[int, int]:
    _, major, minor = _nvrtc().nvrtcVersion()
    return major, minor


def _compile(text: str, name: str, options: list[str], gpu: Gpu) -> Compiled:
    ptx, cubin, log = _translate(text, name, options, gpu)
    return Compiled(cubin, ptx, _resources(log, name))


def _translate(text: str, name: str, options: list[str], gpu: Gpu) -> tuple[bytes, bytes, str]:
    """PTX, the machine code of it, none for an architecture that is not a real one, and the compiler's report."""
    nvrtc = _nvrtc()
    error, program = nvrtc.nvrtcCreateProgram(text.encode(), f"{name}.cu".encode(), 0, [], [])
    _check(error)
    try:
        _, known = nvrtc.nvrtcGetSupportedArchs()[-2:]
        if gpu.capability not in known:
            raise UserError(
                f"NVRTC {'.'.join(map(str, _version()))} does not compile for {gpu.name}; "
                f"it knows {', '.join(f'sm_{number}' for number in known)}"
            )
        (error,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace")
        if int(error):
            found = next((line for line in log.splitlines() if "error" in line), log.strip() or str(error))
            raise RuntimeError(f"NVRTC failed to compile {name}: {found}")
        cubin = _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return ptx, cubin, log


def _check(error: Any) -> None:
    if int(error):
        raise RuntimeError(f"NVRTC: {error}")


def _text(size_of: Any, copy: Any, program: Any) -> bytes:
    error, size = size_of(program)
    _check(error)
    held = bytearray(size)
    (error,) = copy(program, held)
    _check(error)
    return bytes(held)


def _resources(log: str, name: str) -> Resources:
    """Of the assembler's report."""

    def number(pattern: str) -> int:
        found = re.search(pattern, log)
        return int(found[1]) if found else 0

    if f"'{name}'" not in log:
        raise RuntimeError(f"NVRTC's report does not speak of {name}: {log.strip()[:200]}")
    return Resources(
        number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"), number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill stores"), number(r"(\d+) bytes spill loads"), "are serialized" in log,
    )  # fmt: skip


# The cache -------------------------------------------------------------------------------------------------


def _file(key: str) -> Path:
    return cache_folder() / "cuda" / f"{key}.kernel"


def _kept(key: str) -> Compiled | None:
    """What is not whole counts as nothing."""
    try:
        data = _file(key).read_bytes()
        head, _, rest = data.partition(b"\n")
        row = json.loads(head)
        cubin, ptx = rest[: row["cubin"]], rest[row["cubin"] :]
        if hashlib.sha256(rest).hexdigest() != row["sha256"]:
            return None
        return Compiled(cubin, ptx, Resources(**row["resources"]))
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return None


def _keep(key: str, made: Compiled) -> None:
    """A cache that cannot be written to is none."""
    rest = made.cubin + made.ptx
    row = {"cubin": len(made.cubin), "sha256": hashlib.sha256(rest).hexdigest(), "resources": asdict(made.resources)}
    with contextlib.suppress(OSError, UserError):
        path = _file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(row).encode() + b"\n" + rest)
        Path(name).replace(path)
