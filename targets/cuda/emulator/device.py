"""A device without a GPU: runs a program's CUDA C on the CPU, thread by thread (see host.h)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from targets.cuda.device import Call, Device, KernelCode
from tensorc.toolchain import find_tool, first_error

_HOST = Path(__file__).with_name("host.h")
_FLAGS = ("-O1", "-std=c++17", "-mf16c", "-fPIC", "-shared", "-w", "-fno-strict-aliasing")

#: const char *(int blocks, int threads, size_t shared, void **arguments): None, or what went wrong.
_Entry = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p)


class Emulator(Device):
    """Memory is this process's own."""

    def __init__(self) -> None:
        self._memory: dict[int, np.ndarray] = {}
        self._compilers = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def allocate(self, nbytes: int) -> int:
        # 0xff: nan to every float type, until it is written.
        held = np.full(nbytes + 256, 0xFF, np.uint8)
        address = -(-held.ctypes.data // 256) * 256
        self._memory[address] = held
        return address

    def free(self, address: int) -> None:
        del self._memory[address]

    def write(self, address: int, data: np.ndarray) -> None:
        data = np.ascontiguousarray(data)
        ctypes.memmove(address, data.ctypes.data, data.nbytes)

    def read(self, address: int, out: np.ndarray) -> None:
        ctypes.memmove(out.ctypes.data, address, out.nbytes)

    def clear(self, address: int, nbytes: int) -> None:
        ctypes.memset(address, 0, nbytes)

    def load(self, name: str, code: KernelCode) -> object:
        """The kernel is compiled beside others, until it is first launched."""
        return self._compilers.submit(compile_for_host, name, code.source)

    def record(self, calls: Sequence[Call]) -> Sequence[Call]:
        return calls

    def replay(self, recording: object) -> None:
        """Raises UserError where there is no g++, RuntimeError with its first error for a text that is wrong, and for
        threads that wait for each other for ever."""
        assert isinstance(recording, Sequence)
        for call in recording:
            launch(call.kernel.result(), call)

    def close(self) -> None:
        self._compilers.shutdown(cancel_futures=True)
        self._memory.clear()


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
def _built(text: str, name: str, options: Sequence[str]) -> Iterator[Path]:
    """A shared object of a text, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
        source, library = Path(folder, f"{name}.cpp"), Path(folder, f"{name}.so")
        source.write_text(text)
        command = [find_tool("g++", "emulating a GPU"), *_FLAGS, *options, "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"g++ failed to compile {name}: {first_error(done.stderr)}")
        yield library


def host_text(name: str, source: str) -> str:
    """C++ for g++: what CUDA has attributes for is written as C++ has it."""
    source = re.sub(
        r"extern __shared__ (?:(?:alignas|__align__)\(\d+\) )?uchar (\w+)\[\];",
        r"uchar *\1 = tc_dynamic_shared;",
        source,
    )
    source = re.sub(r"__shared__ alignas\((\d+)\) ", r"alignas(\1) static ", source)
    return (
        f'#include "{_HOST}"\n{source}\n'
        f"static void tc_enter() {{ tc_begin({name}); }}\n"
        'extern "C" const char *tensorc_launch(int blocks, int threads, size_t shared, void **arguments) {\n'
        "    return tc_launch(tc_enter, blocks, threads, shared, arguments);\n"
        "}\n"
    )
