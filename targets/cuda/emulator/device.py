"""A device without a GPU: runs a program's CUDA C on the CPU, thread by thread (see host.h)."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from targets.cuda.device import Await, Call, Copy, Device, KernelCode, Lease, Mark, OutOfMemoryError, Work
from targets.cuda.roofline import Facts
from tensorc.runtime.dlpack import CPU
from tensorc.toolchain import find_tool, first_error

_HOST, _HOPPER = (Path(__file__).with_name(name) for name in ("host.h", "hopper.h"))
#: Allocations begin at multiples of it.
_MARGIN = 256
_FLAGS = ("-O1", "-std=c++17", "-mf16c", "-fPIC", "-w", "-fno-strict-aliasing")

#: const char *(int blocks, int threads, size_t shared, void **arguments): None, or what went wrong.
_Entry = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p)


#: What is compiled keeps its threads in variables of its own.
_ONE_AT_A_TIME = threading.Lock()
_PRECOMPILING = threading.Lock()


class _Lease(Lease):
    def __init__(self, held: np.ndarray):
        self.held = held
        self.address = _aligned(held)

    def read(self, out: np.ndarray) -> None:
        ctypes.memmove(out.ctypes.data, self.address, out.nbytes)


class _Past(Mark):
    """Whatever is asked of the emulator is done when it returns."""

    is_past = True

    def wait(self) -> None: ...

    def hold(self, stream: int) -> None: ...


class Emulator(Device):
    """Memory is this process's own, `capacity` bytes at most if that is given; there is but one stream."""

    memory = CPU, 0
    stream = 0
    capability = None

    def __init__(self, capacity: int | None = None) -> None:
        self._memory: dict[int, np.ndarray] = {}
        self._compilers = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self._capacity = capacity

    def entered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def allocate(self, nbytes: int) -> int:
        held = self._new(nbytes)
        address = _aligned(held)
        self._memory[address] = held
        return address

    def lend(self, nbytes: int) -> Lease:
        return _Lease(self._new(nbytes))

    def _new(self, nbytes: int) -> np.ndarray:
        if self._capacity is not None and nbytes > (free := self.free_bytes or 0):
            raise OutOfMemoryError(nbytes, free, self._capacity)
        # 0xff: nan to every float type, until it is written.
        return np.full(nbytes + _MARGIN, 0xFF, np.uint8)

    def staging(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    def reachable(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    @property
    def free_bytes(self) -> int | None:
        if self._capacity is None:
            return None
        return self._capacity - sum(held.nbytes - _MARGIN for held in self._memory.values())

    def free(self, address: int) -> None:
        del self._memory[address]

    def write(self, address: int, data: np.ndarray, stream: int | None = None) -> None:
        del stream
        ctypes.memmove(address, data.ctypes.data, data.nbytes)

    def read(self, address: int, out: np.ndarray, stream: int | None = None) -> None:
        del stream
        ctypes.memmove(out.ctypes.data, address, out.nbytes)

    def copy(self, address: int, source: int, nbytes: int, stream: int | None = None) -> None:
        del stream
        ctypes.memmove(address, source, nbytes)

    def clear(self, address: int, nbytes: int, stream: int | None = None) -> None:
        del stream
        ctypes.memset(address, 0, nbytes)

    def load(self, name: str, code: KernelCode) -> object:
        """The kernel is compiled beside others, until it is first launched."""
        return self._compilers.submit(compile_for_host, name, code.source)

    def record(self, work: Sequence[Work]) -> list[Work]:
        return list(work)

    def rebind(self, recording: list[Work], number: int, arguments: tuple[int, ...]) -> None:
        call = recording[number]
        assert isinstance(call, Call)
        recording[number] = replace(call, arguments=arguments)

    def replay(self, recording: list[Work], stream: int | None = None) -> None:
        """Copies beside land as late as they may. Raises UserError where there is no g++, RuntimeError with its first
        error for a text that is wrong, for threads that wait for each other for ever, and for launches that read what
        is still to come."""
        del stream
        beside = _Beside()
        with _ONE_AT_A_TIME:
            for step in recording:
                match step:
                    case Call():
                        beside.check(step)
                        launch(step.kernel.result(), step)
                    case Copy(beside=True):
                        beside.begin(step)
                    case Copy():
                        _copy(step)
                    case Await():
                        beside.land(step.count)
            beside.land()

    def time(self, work: Sequence[Work]) -> list[float]:
        """Of this CPU: they say nothing of a GPU's."""
        seconds = []
        with _ONE_AT_A_TIME:
            for step in work:
                if isinstance(step, Copy):
                    _copy(step)
                elif isinstance(step, Call):
                    begin = time.perf_counter()
                    launch(step.kernel.result(), step)
                    seconds.append(time.perf_counter() - begin)
        return seconds

    def facts(self) -> Facts:
        """Of one multiprocessor with round numbers."""
        return Facts("emulator", 90, 1, 1e9, 1e9)

    def mark(self, stream: int | None = None) -> Mark:
        del stream
        return _Past()

    def synchronize(self, stream: int | None = None) -> None: ...

    def close(self) -> None:
        self._compilers.shutdown(cancel_futures=True)
        self._memory.clear()


class _Beside:
    """Copies on a stream of their own, into memory that has nothing sensible in it until they have landed."""

    def __init__(self) -> None:
        self._coming: list[Copy] = []
        self._landed = 0

    def begin(self, copy: Copy) -> None:
        ctypes.memset(copy.address, 0xFF, copy.nbytes)
        self._coming.append(copy)

    def land(self, count: int | None = None) -> None:
        """The first so many, or all."""
        begun = self._landed + len(self._coming)
        if count is not None and count > begun:
            raise RuntimeError(f"what waits for {count} copies stands behind {begun}")
        while self._landed < (begun if count is None else count):
            _copy(self._coming.pop(0))
            self._landed += 1

    def check(self, call: Call) -> None:
        for copy in self._coming:
            if any(copy.address <= address < copy.address + copy.nbytes for address in call.arguments):
                raise RuntimeError(f"{call.name}: an argument points to what is still on its way from the host")


def _copy(copy: Copy) -> None:
    ends = (copy.host, copy.address) if copy.out else (copy.address, copy.host)
    ctypes.memmove(*ends, copy.nbytes)


def _aligned(held: np.ndarray) -> int:
    """Where the memory begins that `_MARGIN` more bytes were taken for."""
    address: int = -(-held.ctypes.data // _MARGIN) * _MARGIN
    return address


def launch(function: Any, call: Call) -> None:
    """`function` is what `compile_for_host` gave."""
    arguments = (ctypes.c_void_p * len(call.arguments))(*call.arguments)
    error = function(call.blocks, call.threads, call.shared_bytes, ctypes.addressof(arguments))
    if error:
        raise RuntimeError(f"{call.name}: {error.decode()}")


@functools.cache
def compile_for_host(name: str, source: str) -> Any:
    """A kernel's text as a function (blocks, threads, shared, arguments)."""
    with _built(host_text(name, source), name, ()) as library:
        return _Entry(("tensorc_launch", ctypes.CDLL(str(library))))


@dataclass(frozen=True)
class Traced:
    """A kernel that notes its accesses (see trace.h): `launch` as above, `costs` (rows, how many there is room for),
    the shared object that debuggers know the lines of, the address where it is loaded, and its text."""

    launch: Any
    costs: Any
    library: Path
    base: int
    text: list[str]


@contextlib.contextmanager
def traced_for_host(name: str, source: str) -> Iterator[Traced]:
    text = host_text(name, source)
    head, brace, body = text.partition(") {\n")
    head = re.sub(r"(\w+)\* (?:__restrict__ )?(\w+)(?=[,)]|$)", r"tc_pointer<\1> \2", head)
    body = re.sub(r"alignas\(\d+\) static (\w+) (\w+)\[(\d+)\];", r"static tc_array<\1, \3> \2;", body)
    text = head + brace + body
    with _built(text, name, ("-DTENSORC_TRACED", "-g1")) as library:
        loaded = ctypes.CDLL(str(library))
        costs = loaded.tensorc_costs
        costs.restype, costs.argtypes = ctypes.c_size_t, [ctypes.c_void_p, ctypes.c_size_t]
        loaded.tensorc_base.restype = ctypes.c_size_t
        yield Traced(_Entry(("tensorc_launch", loaded)), costs, library, loaded.tensorc_base(), text.splitlines())


@contextlib.contextmanager
def _built(text: str, name: str, options: tuple[str, ...]) -> Iterator[Path]:
    """A shared object of a text, for as long as the block lasts."""
    headers = (_HOST, _HOPPER) if "tc_barrier_" in text else (_HOST,)
    with tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
        source, library = Path(folder, f"{name}.cpp"), Path(folder, f"{name}.so")
        source.write_text(text)
        with _PRECOMPILING:
            header = _precompiled(headers, options)
        _compile([*options, "-include", str(header), "-shared", str(source)], library, name)
        yield library


@functools.cache
def _precompiled(headers: tuple[Path, ...], options: tuple[str, ...]) -> Path:
    """A header that includes these, beside which lies what g++ made of it: for a small kernel, reading them anew would
    be half of the work. It lasts as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="tensorc-")
    atexit.register(folder.cleanup)
    header = Path(folder.name, "all.h")
    header.write_text("".join(f'#include "{path}"\n' for path in headers))
    _compile([*options, "-x", "c++-header", str(header)], header.with_suffix(".h.gch"), header.name)
    return header


def _compile(arguments: Sequence[str], out: Path, name: str) -> None:
    command = [find_tool("g++", "emulating a GPU"), *_FLAGS, *arguments, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"g++ failed to compile {name}: {first_error(done.stderr)}")


def host_text(name: str, source: str) -> str:
    """C++ for g++: what CUDA has attributes for is written as C++ has it."""
    source = re.sub(
        r"extern __shared__ __align__\((\d+)\) uchar (\w+)\[\];",
        r"uchar *\2 = tc_dynamic_at<\1>();",
        source,
    )
    source = re.sub(r"__shared__ alignas\((\d+)\) ", r"alignas(\1) static ", source)
    return (
        f"{source}\n"
        f"static void tc_enter() {{ tc_begin({name}); }}\n"
        'extern "C" const char *tensorc_launch(int blocks, int threads, size_t shared, void **arguments) {\n'
        "    return tc_launch(tc_enter, blocks, threads, shared, arguments);\n"
        "}\n"
    )
