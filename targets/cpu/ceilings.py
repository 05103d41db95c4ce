"""What this CPU does at best, measured: the roofs of `tensorc.profiling.ceilings`.

A small C program multiplies and adds in registers, and reads working sets that fit one level of cache each, and one
that fits none. It takes about half a second, and the result is kept in the user's data folder by machine and number of
threads. What others do on the machine only lowers rates, so the best of several rounds counts; figures taken while
others kept the machine busy are not final: the next time they are measured again and the better ones kept.

The operations are float32's, and products of bytes, four to a sum, where there is an instruction for them.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from targets.cpu.machine import Machine, detect
from tensorc.benchmark.noise import TOLERABLE, OtherLoad
from tensorc.environment import data_folder
from tensorc.errors import UserError
from tensorc.profiling import Ceilings, Level
from tensorc.runtime.artifact import replaced_file
from tensorc.toolchain import find_compiler

_SOURCE = Path(__file__).with_name("ceilings.c")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=gnu11", "-fPIC", "-shared")

_MIB = 1 << 20
#: Working sets are multiples of this, in bytes a thread: whole streams of the widest vectors.
_UNIT = 4096
_LARGEST = 512 * _MIB
#: One round does so much, all threads together where it reads: a few milliseconds, save for the memory itself.
_FMA_ROUNDS = 1_000_000
_READ_BYTES = 256 * _MIB
#: Rounds of each kind go on for so many seconds, and are so many at least.
_SECONDS = 0.08
_LEAST_ROUNDS = 4


def ceilings(threads: int, again: bool = False) -> Ceilings:
    """This machine's, for so many threads: as kept, or measured now. `again` forgets what was kept.

    Raises UserError where there is no C compiler.
    """
    kept_in = _place(threads)
    kept = _read(kept_in) if kept_in is not None and not again else None
    if kept is not None and (kept.other_load is None or kept.other_load <= TOLERABLE):
        return kept
    found = measure(threads)
    if kept is not None:
        found = found.best_of(kept)
    if kept_in is not None:
        _write(kept_in, found)
    return found


def _place(threads: int) -> Path | None:
    """The file for this machine; None where there is no place for it."""
    machine = asdict(detect()) | {"features": sorted(detect().features)}
    identity = json.dumps([machine, threads, _SOURCE.read_text()]).encode()
    try:
        return data_folder() / "ceilings" / f"{hashlib.sha256(identity).hexdigest()[:16]}.json"
    except UserError:
        return None


def _read(path: Path) -> Ceilings | None:
    try:
        return Ceilings.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None  # never measured, or not ours: then it is measured now


def _write(path: Path, found: Ceilings) -> None:
    text = json.dumps({"machine": detect().name} | found.to_json(), indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as file:
            file.write(text.encode())
    except (OSError, UserError):
        pass  # a home that cannot be written costs half a second each time, not the profile


# Measuring -----------------------------------------------------------------------------------------------


def measure(threads: int) -> Ceilings:
    """Measure now, on `threads` threads at once."""
    machine = detect()
    # The compiler's time would count as ours or as others', so it is done before.
    with _library(machine) as library, OtherLoad() as others:
        flops = _best_rate(lambda _, span: library.tensorc_multiply(_FMA_ROUNDS, span), threads)
        byte_ops = None
        if machine.multiplies_bytes:
            byte_ops = _best_rate(lambda _, span: library.tensorc_multiply_bytes(_FMA_ROUNDS, span), threads)
        levels = [
            Level(name, capacity, _read_rate(library, nbytes, threads))
            for name, capacity, nbytes in working_sets(machine, threads)
        ]
    # A level further away is never faster; where it was measured so, noise slowed the nearer one down.
    for index in reversed(range(len(levels) - 1)):
        least = levels[index + 1].bandwidth
        levels[index] = Level(levels[index].name, levels[index].capacity, max(levels[index].bandwidth, least))
    return Ceilings(threads, flops, levels, others.cores, byte_ops)


def working_sets(machine: Machine, threads: int) -> list[tuple[str, float, int]]:
    """Levels as (name, bytes that it holds, bytes to read so that they come from there), for all threads together.

    L1 and L2 are a core's own: `threads` of them hold what is shared out between threads. Reading round and round
    through more than a cache holds finds nothing in it, so a few times the caches before are enough.
    """
    l1, l2, l3 = machine.l1 * threads, machine.l2 * threads, machine.l3
    sets: list[tuple[str, float, int]] = [("L1", l1, l1 // 2), ("L2", l2, l2 // 2)]
    if l3 > l2:
        sets.append(("L3", l3, min(l3 * 3 // 4, 4 * l2)))
    return [*sets, ("memory", math.inf, min(2 * max(l2, l3) + 64 * _MIB, _LARGEST))]


@contextmanager
def _library(machine: Machine) -> Iterator[ctypes.CDLL]:
    with tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
        path = Path(folder, "ceilings.so")
        command = [*find_compiler(), *_FLAGS, f"-DVECTOR_BITS={machine.vector_bits}", "-o", str(path), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed to compile {_SOURCE.name}: {done.stderr.strip()}")
        library = ctypes.CDLL(str(path))
        for multiply in (library.tensorc_multiply, library.tensorc_multiply_bytes):
            multiply.argtypes = [ctypes.c_int64, ctypes.c_void_p]
            multiply.restype = ctypes.c_double
        library.tensorc_memory.argtypes = [ctypes.c_size_t]
        library.tensorc_memory.restype = ctypes.c_void_p
        library.tensorc_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p]
        library.tensorc_read.restype = ctypes.c_double
        library.free.argtypes = [ctypes.c_void_p]
        yield library


def _read_rate(library: ctypes.CDLL, nbytes: int, threads: int) -> float:
    """Bytes a second of reading `nbytes`, a share of them in each thread, over and over."""
    share = max(nbytes // threads // _UNIT, 1) * _UNIT
    passes = max(_READ_BYTES // threads // share, 1)
    with ExitStack() as stack:
        # One thread allocates for all. On a machine with several memories this favours none of the threads.
        memory = []
        for _ in range(threads):
            memory.append(library.tensorc_memory(share))
            if memory[-1] is None:
                raise MemoryError(f"no {nbytes // _MIB} MiB to measure the memory's bandwidth with")
            stack.callback(library.free, memory[-1])
        return _best_rate(lambda thread, span: library.tensorc_read(memory[thread], share, passes, span), threads)


def _best_rate(work: Callable[[int, Any], float], threads: int) -> float:
    """The best of several rounds: what all threads did, over the time from the first start to the last end.

    `work(thread, span)` returns how much it did, and notes when.
    """
    best, rounds, until = 0.0, 0, time.perf_counter() + _SECONDS
    while rounds < _LEAST_ROUNDS or time.perf_counter() < until:
        rounds += 1
        spans = (ctypes.c_double * 2 * threads)()
        done = [0.0] * threads
        gate = threading.Barrier(threads)

        def run(thread: int, spans: Any = spans, done: list[float] = done, gate: threading.Barrier = gate) -> None:
            gate.wait()
            done[thread] = work(thread, ctypes.byref(spans[thread]))

        helpers = [threading.Thread(target=run, args=(thread,)) for thread in range(1, threads)]
        for helper in helpers:
            helper.start()
        run(0)
        for helper in helpers:
            helper.join()
        best = max(best, sum(done) / (max(end for _, end in spans) - min(begin for begin, _ in spans)))
    return best
