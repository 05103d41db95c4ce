"""A device without a GPU: runs a program's CUDA C on the CPU, thread by thread (see host.h)."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

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
        self._folder = tempfile.TemporaryDirectory(prefix="tensorc-")

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
        """Raises UserError where there is no g++, RuntimeError with its first error for a text that is wrong."""
        return compile_for_host(name, code.source)

    def record(self, calls: Sequence[Call]) -> Sequence[Call]:
        return calls

    def replay(self, recording: object) -> None:
        """Raises RuntimeError for threads that wait for each other for ever."""
        assert isinstance(recording, Sequence)
        for call in recording:
            launch(call)

    def close(self) -> None:
        self._memory.clear()
        self._folder.cleanup()


def launch(call: Call) -> None:
    arguments = (ctypes.c_void_p * len(call.arguments))(*call.arguments)
    error = call.kernel(call.blocks, call.threads, call.shared_bytes, ctypes.addressof(arguments))  # type: ignore[operator]
    if error:
        raise RuntimeError(f"{call.name}: {error.decode()}")


@functools.cache
def compile_for_host(name: str, source: str) -> object:
    """A kernel's text as a function (blocks, threads, shared, arguments)."""
    with tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
        text, library = Path(folder, f"{name}.cpp"), Path(folder, f"{name}.so")
        text.write_text(host_text(name, source))
        command = [find_tool("g++", "emulating a GPU"), *_FLAGS, "-o", str(library), str(text)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"g++ failed to compile {name}: {first_error(done.stderr)}")
        loaded = ctypes.CDLL(str(library))
    return _Entry(("tensorc_launch", loaded))


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
