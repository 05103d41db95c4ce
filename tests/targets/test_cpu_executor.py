"""The executor: every task once, results exact on any number of threads, and faults that are said, not suffered.

Kernels are written in C here, which is the interface that generated ones have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from targets.control import Branch, Carried, Loop, Repeat, Slice
from targets.cpu.executable import CpuExecutable
from targets.cpu.link import link, print_steps
from targets.cpu.program import (
    ARENA,
    FIRST_INPUT,
    SCRATCH,
    Argument,
    Change,
    CpuProgram,
    Step,
    Stream,
    Transfer,
)
from tensorc.errors import UserError
from tensorc.ir.types import TensorType
from tensorc.runtime.artifact import write_artifact
from tensorc.toolchain import find_compiler

#: Tasks of the steps that count: one, fewer than shares, odd, prime, many.
COUNTS = (1, 2, 3, 7, 97, 1001)
N = 97

KERNELS = """
#include <math.h>
#include <stdint.h>
#include <unistd.h>

void clear(int32_t *hits, int32_t begin, int32_t end) {
    for (int i = 0; i < 2000; i++) hits[i] = 0;
}
/* Atomic, so that a task done twice at the same time counts twice. */
void count(int32_t *hits, int32_t begin, int32_t end) {
    for (int i = begin; i < end; i++) __atomic_fetch_add(&hits[i], 1, __ATOMIC_RELAXED);
}
/* Through scratch, which no other thread may share. */
void scale(const int64_t *x, const int64_t *weight, volatile int64_t *scratch, int64_t *y, int32_t begin, int32_t end) {
    for (int i = begin; i < end; i++) {
        scratch[0] = x[i];
        for (int again = 0; again < 20; again++) scratch[1] = scratch[0] * weight[i];
        y[i] = scratch[1];
    }
}
void reversed(const int64_t *x, int64_t *y, int32_t begin, int32_t end) {
    for (int i = begin; i < end; i++) y[i] = x[96 - i] + (int64_t)fabs(ceil(0.5));
}
void nap(int64_t *y, int32_t begin, int32_t end) {
    usleep(2000);
    *y += 1;
}
/* y = x + 1, from task to task. */
void follow(const int64_t *x, int64_t *y, int32_t begin, int32_t end) {
    for (int i = begin; i < end; i++) y[i] = x[i] + 1;
}
void other(int64_t *y, int32_t begin, int32_t end) {
    for (int i = begin; i < end; i++) y[i] = 42;
}
"""


def starts(counts: tuple[int, ...]) -> list[int]:
    return list(accumulate(counts, initial=0))[:-1]


VECTOR = TensorType("int64", (N,))
HITS = TensorType("int32", (2000,))
Y, HIT, CONSTANT = FIRST_INPUT + 1, FIRST_INPUT + 2, FIRST_INPUT + 3

PROGRAM = CpuProgram(
    steps=(
        Step("clear", (Argument(HIT),), 1, "hits: */ nonsense /*\n#error \\"),
        Step("scale", (Argument(FIRST_INPUT), Argument(CONSTANT, 64), Argument(SCRATCH), Argument(ARENA)), N, "scale"),
        Step("reversed", (Argument(ARENA), Argument(ARENA, 1024)), N, "turned"),
        Step("reversed", (Argument(ARENA, 1024), Argument(Y)), N, "turned back", serial=True),
        *(Step("count", (Argument(HIT, 4 * start),), tasks, "count")
          for start, tasks in zip(starts(COUNTS), COUNTS, strict=True)),
    ),
    inputs=(VECTOR,),
    outputs=(VECTOR, HITS),
    arena_bytes=2048,
    scratch_bytes=16,
    constants=1,
)  # fmt: skip
OTHER = CpuProgram((Step("other", (Argument(FIRST_INPUT),), N, "42"),), (), (VECTOR,), 0, 0)
TRIPS = 101
#: The first pointer of loops, behind one input and three outputs.
P = FIRST_INPUT + 4
#: The rows of the input plus TRIPS, carried through steps that threads share; hits of all tasks, once a trip; the rows
#: of the input, last one first.
LOOPED = CpuProgram(
    steps=(
        Step("clear", (Argument(HIT),), 1, "hits"),
        Loop(
            "rows", TRIPS, 5, Argument(ARENA), None,
            (Carried(P, P + 1, Argument(FIRST_INPUT), (Argument(Y), Argument(ARENA, 64)), Argument(Y), 8 * N),),
            (Slice(P + 2, Argument(Y + 2, 8 * (TRIPS - 1)), -8),),
        ),
        Step("follow", (Argument(P), Argument(P + 1)), N, "the next"),
        Step("count", (Argument(HIT),), 1001, "count"),
        Step("follow", (Argument(ARENA), Argument(P + 2)), 1, "the number of the trip, plus 1"),
        Repeat("rows", 1),
    ),
    inputs=(VECTOR,),
    outputs=(VECTOR, HITS, TensorType("int64", (TRIPS,))),
    arena_bytes=2048,
    scratch_bytes=0,
    pointers=3,
)  # fmt: skip
#: Six naps, but five where the second element of the input is 0.
NAPS = CpuProgram(
    steps=(
        Step("clear", (Argument(Y),), 1, "naps"),
        Branch("if", 3, Argument(FIRST_INPUT, 8)),
        Step("nap", (Argument(Y),), 1, "one"),
        Loop("five", 5, 5, Argument(ARENA), None, (), ()),
        Step("nap", (Argument(Y),), 1, "another"),
        Repeat("five", 3),
    ),
    inputs=(VECTOR,),
    outputs=(HITS,),
    arena_bytes=64,
    scratch_bytes=0,
)

WEIGHT = np.arange(N) % 7 - 3
WEIGHTS_BYTES = memoryview(bytes(64) + WEIGHT.astype(np.int64).tobytes())
X = np.arange(N) ** 3 - 1000

Opener = Callable[..., CpuExecutable]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    source = folder / "kernels.c"
    source.write_text(KERNELS)
    subprocess.run([*find_compiler(), "-O1", "-fPIC", "-c", source, "-o", folder / "kernels.o"], check=True)
    return folder / "kernels.o"


@pytest.fixture(scope="module")
def codes(kernels: Path) -> dict[str, bytes]:
    programs = {
        "main": PROGRAM,
        "other": OTHER,
        "greedy": replace(OTHER, arena_bytes=1 << 62),
        "looped": LOOPED,
        "naps": NAPS,
    }
    out = kernels.with_name("model.so")
    codes = {}
    for name, program in programs.items():
        link([kernels], print_steps(program), out)
        codes[name] = out.read_bytes()
    return codes


@pytest.fixture
def opened(codes: dict[str, bytes]) -> Iterator[Opener]:
    executables = []

    def open_(threads: int = 2, program: CpuProgram = PROGRAM, code: str = "main") -> CpuExecutable:
        sections = {"code": memoryview(codes[code])}
        executables.append(CpuExecutable(program.to_json(), sections, [WEIGHTS_BYTES], threads))
        return executables[-1]

    yield open_
    for executable in executables:
        executable.close()


def check(x: np.ndarray, outputs: list[np.ndarray]) -> None:
    y, hits = outputs
    assert np.array_equal(y, x * WEIGHT + 2)
    done = sum(COUNTS)
    assert (hits[:done] == 1).all()
    assert (hits[done:] == 0).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_task_is_done_once(opened: Opener, threads: int) -> None:
    executable = opened(threads)
    assert executable.threads == threads
    for run in range(300):
        check(X + run, executable.run([X + run]))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_task_of_a_loop_is_done_once_a_trip(opened: Opener, threads: int) -> None:
    executable = opened(threads, LOOPED, "looped")
    for run in range(20):
        last, hits, numbers = executable.run([X + run])
        assert np.array_equal(last, X + run + TRIPS)
        assert (hits[:1001] == TRIPS).all()
        assert (hits[1001:] == 0).all()
        assert np.array_equal(numbers, np.arange(TRIPS)[::-1] + 1)


@pytest.mark.parametrize("taken", [0, 1])
def test_seconds_are_summed_over_trips(opened: Opener, taken: int) -> None:
    executable = opened(1, NAPS, "naps")
    x = np.zeros(N, np.int64)
    x[1] = taken
    for _ in range(2):
        (naps,), seconds = executable.run_timed([x])
        assert naps[0] == 5 + taken
        assert seconds[4] >= 5 * 0.002
        assert (seconds[2] >= 0.002) == bool(taken), "a step that is passed over takes no time"


def test_runs_at_once_are_exact(opened: Opener) -> None:
    executable = opened(2)

    def client(seed: int) -> None:
        for run in range(400):
            x = X * seed + run
            check(x, executable.run([x]))

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(client, range(8)))


def test_workers_wake_up_after_idling(opened: Opener) -> None:
    executable = opened(3)
    for _ in range(20):
        time.sleep(0.002)
        check(X, executable.run([X]))


def test_idle_threads_use_no_time(opened: Opener) -> None:
    executable = opened(4)
    executable.run([X])
    time.sleep(0.05)
    start = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - start < 0.05


def test_inputs_may_lie_anywhere(opened: Opener) -> None:
    data = np.zeros(8 * N + 1, np.uint8)
    x = data[1:].view(np.int64)
    x[:] = X
    assert not x.flags.aligned
    check(X, opened().run([x]))


def test_step_times(opened: Opener) -> None:
    executable = opened()
    start = time.perf_counter()
    outputs, seconds = executable.run_timed([X])
    whole = time.perf_counter() - start
    check(X, outputs)
    assert seconds.shape == (len(PROGRAM.steps),)
    assert (seconds >= 0).all()
    assert 0 < seconds.sum() < whole


def test_models_loaded_together_are_kept_apart(opened: Opener) -> None:
    """Both come from files in memory, whose names are made of numbers that the system gives out again."""
    for _ in range(3):
        first, second = opened(1), opened(1, OTHER, "other")
        check(X, first.run([X]))
        assert (second.run([])[0] == 42).all()
        first.close()
        third = opened(1, OTHER, "other")
        assert (third.run([])[0] == 42).all()
        second.close()
        third.close()
        check(X, opened(1).run([X]))


def test_without_files_in_memory(opened: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check(X, opened().run([X]))
    assert list(tmp_path.iterdir()) == []


def count_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_close(opened: Opener) -> None:
    executable = opened()
    before = count_threads()
    executable.close()
    executable.close()
    assert count_threads() == before - 1
    with pytest.raises(UserError, match="closed"):
        executable.run([X])


def test_closing_lets_runs_end(opened: Opener) -> None:
    executable = opened()
    closed = threading.Event()

    def client(_: int) -> int:
        for run in range(1_000_000):
            try:
                check(X, executable.run([X]))
            except UserError:
                assert closed.is_set()
                return run
        raise AssertionError("never closed")

    with ThreadPoolExecutor(4) as clients:
        runs = clients.map(client, range(4))
        time.sleep(0.02)
        closed.set()
        executable.close()
        assert sum(runs) > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_can_run_and_close(opened: Opener) -> None:
    executable = opened(3)
    executable.run([X])
    time.sleep(0.01)  # the workers sleep, and would have to be woken
    child = os.fork()
    if child == 0:
        try:
            check(X, executable.run([X]))
            executable.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    check(X, executable.run([X]))


def test_missing_features_are_named_before_any_code_is_loaded() -> None:
    manifest = replace(PROGRAM, features=("avx9", "sse0")).to_json()
    with pytest.raises(UserError, match="compiled for a CPU with avx9, sse0, which this one lacks"):
        CpuExecutable(manifest, {"code": memoryview(b"not code")}, [], 1)


def test_no_memory(opened: Opener) -> None:
    with pytest.raises(MemoryError, match="for the model"):
        opened(1, OTHER, "greedy")


def test_default_threads(opened: Opener) -> None:
    assert opened(0, replace(PROGRAM, threads=3)).threads == 3
    assert opened(0).threads >= 1


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs a C compiler.*install gcc or clang"):
        link([], print_steps(OTHER), tmp_path / "out.so")
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(UserError, match="CC names 'no-such-compiler', which is not on the path"):
        find_compiler()


def test_a_failing_compiler_is_quoted(tmp_path: Path, kernels: Path) -> None:
    missing = replace(OTHER, steps=(Step("absent_kernel", (), 1, "missing"),))
    with pytest.raises(RuntimeError, match="absent_kernel"):
        link([kernels], print_steps(missing), tmp_path / "out.so")
    assert not (tmp_path / "out.so").exists()


def test_printed_steps() -> None:
    source = print_steps(PROGRAM)
    assert "void scale(void *, void *, void *, void *, int32_t begin, int32_t end);" in source
    assert (
        "/* scale */\n"
        "static void step_1(char *const *base, char *scratch, int32_t begin, int32_t end) {\n"
        "    scale(base[2], base[5] + 64, scratch, base[0], begin, end);\n"
        "}\n"
    ) in source
    assert "    {step_1, 0, 0, 97, 0, 0, {0, 0}},\n    {step_2, 0, 0, 97, 0, 0, {0, 0}},\n" in source
    assert "    {step_3, 0, 0, 97, 1, 0, {0, 0}},\n" in source
    assert "const size_t tensorc_arena_bytes = 2048;" in source
    assert "const int32_t tensorc_budget = 0;" in source


def test_printed_steps_with_a_budget() -> None:
    part = Step("scale", (Argument(ARENA),), 7, "part", slice=2, table=(3, 4), first=20)
    out = Transfer("out", Argument(ARENA, 64), 4096, 100, True)
    stream = Stream(1 << 30, (Change(1, ((0, 2),), ()), Change(2, ((5, 1), (8, 1)), ((9, 3),))))
    program = CpuProgram((part, out), (), (), 2048, 0, file_bytes=8192, stream=stream)
    source = print_steps(program)
    assert "    scale(base[0], begin + 20, end + 20);\n" in source
    assert "    {step_0, 0, 0, 7, 0, 2, {3, 4}},\n    {0, 0, step_1, 1, 1, 0, {0, 0}},\n" in source
    assert "    return tensorc_to_file(spill, base[0] + 64, 100, 4096);\n" in source
    assert "const change tensorc_changes[] = {{1, 0, 1, 0}, {2, 1, 2, 1}, {-1, 0, 0, 0}};" in source
    assert "const block_run tensorc_runs[] = {{0, 2}, {5, 1}, {8, 1}, {9, 3}};" in source
    assert "const size_t tensorc_spill_bytes = 8192;" in source
    assert CpuProgram.from_json(json.loads(json.dumps(program.to_json()))) == program


def test_manifest_round_trip() -> None:
    program = replace(PROGRAM, features=("avx2",), threads=3)
    assert CpuProgram.from_json(program.to_json()) == program


def test_running_an_artifact_imports_no_compiler(codes: dict[str, bytes], tmp_path: Path) -> None:
    manifest = {
        "name": "other", "target": "cpu", "inputs": [], "summary": [],
        "outputs": [{"name": "y", "dtype": "int64", "shape": [N]}],
        "program": OTHER.to_json(),
    }  # fmt: skip
    write_artifact(tmp_path / "other.tcm", manifest, {"code": [codes["other"]]})
    program = f"""
import sys
from tensorc.runtime import model
from targets.cpu.executable import CpuExecutable
class Target: load = staticmethod(CpuExecutable)
model.find_target = lambda text: Target
assert (model.load({str(tmp_path / "other.tcm")!r}).run(None, {{}})[0] == 42).all()
print([name for name in ("onnx", "onnxruntime", "tvm", "tvm_ffi", "xgboost") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
