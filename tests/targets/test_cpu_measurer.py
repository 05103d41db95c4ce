"""Measuring on this machine: faulty candidates are outcomes with a reason, and never harm the good ones beside them.

Faulty candidates are steps written in C, in jobs that are measured as generated ones are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.cpu.link import compile_object
from targets.cpu.machine import detect
from targets.cpu.tuning import measure as measuring
from targets.cpu.tuning.bundle import export_bundle, import_results
from targets.cpu.tuning.data import prepare
from targets.cpu.tuning.jobs import Candidate, write_job
from targets.cpu.tuning.measure import difference
from targets.cpu.tuning.measurer import CpuMeasurer, _DataFolders
from tensorc.errors import UserError
from tensorc.ir import Graph, TensorType, print_graph
from tensorc.search.bundle import BundleTask
from tensorc.search.measure import Outcome
from tensorc.search.records import Key
from tensorc.search.worker import Worker
from tensorc.workload import workload_key

pytestmark = pytest.mark.compiler

TASKS, N = 8, 1024


def body_of(anchor: str, *shapes: tuple[int, ...], then: str = "", **attrs: Any) -> Graph:
    """`anchor` of float32 inputs; where `then` is given, the last of them is a bias that is added before it."""
    graph = Graph("body")
    inputs = [graph.add_input(f"in{number}", TensorType("float32", shape)) for number, shape in enumerate(shapes)]
    result = graph.add(anchor, inputs[:2], attrs)
    if then:
        result = graph.add(then, [graph.add("add", [result, inputs[2]])])
    graph.outputs = [result]
    return graph


BODY = body_of("add", (N,), (N,))

#: Each is called as the kernel of x + y, for tasks of N / TASKS elements.
CANDIDATES = {
    "good": "ADD",
    "other": "ADD",
    "segfault": "*(volatile int *)8 = 1;",
    "null_call": "((void (*)(void))0)();",
    "illegal": "__builtin_trap();",
    "divide": "volatile int zero = 0; out[0] = 7 / zero;",
    "abort": "abort();",
    "leave": "_exit(0);",
    "leave_failing": "exit(3);",
    "stack": "out[0] = deep(begin + 1);",
    "forever": "for (volatile int i = 0;; ) i = 0;",
    "sleep": "for (;;) sleep(1000);",
    "hog": "fill(100l << 30); ADD",
    "hog_by_and_by": "for (long i = 0; i < 100; i++) fill(1l << 30); ADD",
    "hog_mapped": "char *p = mmap(0, 100l << 30, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); p[0] = 1; ADD",
    "wrong": "ADD out[N / 2] += 1;",
    "not_a_number": "ADD out[3] = NAN;",
    "partly": "end -= end == TASKS; ADD",
    "beyond": "ADD if (end == TASKS) out[N] = 0;",
    "before": "ADD out[-1] = 0;",
    "inputs": "ADD ((float *)x)[0] += 1;",
    "talks": 'ADD printf("{}\\n"); fflush(stdout); write(1, "{\\"ready\\": 0}\\n", 13);',
}
FAILURES = {
    "segfault": ("crash", "SIGSEGV"),
    "null_call": ("crash", "SIGSEGV"),
    "illegal": ("crash", "SIGILL"),
    "divide": ("crash", "SIGFPE"),
    "abort": ("crash", "SIGABRT"),
    "leave": ("crash", "exit code 0"),
    "leave_failing": ("crash", "exit code 3"),
    "stack": ("crash", "SIGSEGV"),
    "forever": ("timeout", "still running after 1 s"),
    "sleep": ("timeout", "still running after 1 s"),
    "hog": ("memory", "refused"),
    "hog_by_and_by": ("memory", "refused"),
    "hog_mapped": ("memory", "refused"),
    "wrong": ("wrong", "output 0 differs in 1 of 1024 elements, by up to 1 where"),
    "not_a_number": ("wrong", "differs in 1 of 1024"),
    "partly": ("wrong", "differs in 128 of 1024"),
    "beyond": ("wrong", "wrote outside its output 0"),
    "before": ("wrong", "wrote outside its output 0"),
    "inputs": ("crash", "SIGSEGV"),
}

HEADER = f"""
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
enum {{ N = {N}, TASKS = {TASKS} }};
#define ADD for (int i = begin * (N / TASKS); i < end * (N / TASKS); i++) out[i] = x[i] + y[i];
static volatile int never;
__attribute__((noinline)) void fill(size_t size) {{
    char *p = malloc(size);
    memset(p, 1, size);
    if (never) puts(p);
}}
__attribute__((noinline)) int deep(int n) {{
    volatile char frame[4096];
    frame[n % 4096] = n;
    return never ? n : deep(n + 1) + frame[n / 2 % 4096];
}}
"""


def source_of(name: str, text: str) -> str:
    parameters = "const float *x, const float *y, float *out, int32_t begin, int32_t end"
    return f"void c_{name}({parameters}) {{ {text} }}\n"


Planter = Callable[..., Path]


@pytest.fixture(scope="module")
def stepper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stepper") / "stepper.o"
    compile_object(Path(measuring.__file__).with_name("stepper.c"), out)
    return out


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, stepper: Path) -> Planter:
    """Makes a job of the named candidates."""
    root = tmp_path_factory.mktemp("planted")
    (root / "all.c").write_text(HEADER + "".join(source_of(name, text) for name, text in CANDIDATES.items()))
    compile_object(root / "all.c", root / "all.o")
    prepare(BODY, root / "data")
    count = iter(range(1000))

    def plant(*names: str, threads: int = 1) -> Path:
        job = root / "jobs" / str(next(count))
        job.mkdir(parents=True)
        rows = [Candidate(f"c_{name}", TASKS, 0, ("in0.bin", "in1.bin"), (True, False)) for name in names]
        write_job(job, root / "data", rows, [root / "all.o"], stepper, detect(), threads)
        return job

    return plant


@pytest.fixture(scope="module")
def runner() -> Iterator[Worker]:
    worker = Worker([sys.executable, measuring.__file__, "--serve"])
    yield worker
    worker.close()


def outcomes_of(runner: Worker, job: Path, **settings: Any) -> list[dict[str, Any]]:
    answer = runner.call({"job": str(job), "budget": 0.02, "limit": 1.0, **settings}, 120)
    assert "error" not in answer, answer
    for row in answer["outcomes"]:
        Outcome({}, tuple(row.get("seconds", ())), row.get("failure", ""), row.get("detail", ""))
        assert row.get("seconds", []) == sorted(row.get("seconds", []))
        assert all(0 < seconds < 1 for seconds in row.get("seconds", []))
    outcomes: list[dict[str, Any]] = answer["outcomes"]
    return outcomes


# Faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAILURES)
def test_a_faulty_candidate_between_good_ones(runner: Worker, planted: Planter, name: str) -> None:
    failure, detail = FAILURES[name]
    limit = 1.0 if failure == "timeout" else 20.0
    first, faulty, last = outcomes_of(runner, planted("good", name, "other"), limit=limit)
    assert (faulty["failure"], faulty.get("seconds")) == (failure, None)
    assert detail in faulty["detail"]
    assert len(first["seconds"]) >= 3
    assert len(last["seconds"]) >= 3


def test_many_faults_in_one_batch(runner: Worker, planted: Planter) -> None:
    names = ("segfault", "good", "wrong", "hog", "forever", "abort", "other", "leave")
    outcomes = outcomes_of(runner, planted(*names))
    assert [row.get("failure", "good") for row in outcomes] == [
        "crash", "good", "wrong", "memory", "timeout", "crash", "good", "crash"
    ]  # fmt: skip


def test_nothing_but_faults(runner: Worker, planted: Planter) -> None:
    assert [row["failure"] for row in outcomes_of(runner, planted("segfault", "abort"))] == ["crash", "crash"]


@pytest.mark.parametrize("name", ["segfault", "forever", "hog", "wrong"])
def test_faults_on_the_executors_threads(runner: Worker, planted: Planter, name: str) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    good, faulty = outcomes_of(runner, planted("good", name, threads=2), cpus=cpus)
    assert faulty["failure"] == FAILURES[name][0]
    assert good["seconds"]


def test_what_candidates_print_is_no_answer(runner: Worker, planted: Planter) -> None:
    assert outcomes_of(runner, planted("talks"))[0]["seconds"]


def test_a_candidate_that_harms_others_behind_its_back(
    runner: Worker, tmp_path: Path, stepper: Path, planted: Planter
) -> None:
    """The one that crashes is not the one to blame: both get what they deserve when each runs alone."""
    (tmp_path / "both.c").write_text(
        HEADER + "static int spoilt;\n" + source_of("spoiler", "ADD spoilt = 1;")
        + source_of("victim", "if (spoilt) abort(); ADD")
    )  # fmt: skip
    compile_object(tmp_path / "both.c", tmp_path / "both.o")
    data = planted("good").parents[1] / "data"
    rows = [Candidate(f"c_{name}", TASKS, 0, ("in0.bin", "in1.bin"), (True, False)) for name in ("spoiler", "victim")]
    (tmp_path / "job").mkdir()
    write_job(tmp_path / "job", data, rows, [tmp_path / "both.o"], stepper, detect(), 1)
    assert all(row.get("seconds") for row in outcomes_of(runner, tmp_path / "job"))


@pytest.mark.parametrize("damage", ["model.so", "job.json", "data"])
def test_a_job_that_cannot_be_loaded_is_no_candidates_fault(
    runner: Worker, planted: Planter, tmp_path: Path, damage: str
) -> None:
    job = planted("good")
    shutil.copytree(job, tmp_path / "jobs" / "0")
    shutil.copytree(job.parents[1] / "data", tmp_path / "data")
    if damage == "data":
        (tmp_path / "data" / "out0.bin").unlink()
    else:
        (tmp_path / "jobs" / "0" / damage).write_bytes(b"{")
    answer = runner.call({"job": str(tmp_path / "jobs" / "0")}, 60)
    assert answer.keys() == {"error"}
    assert answer["error"]


def test_hopeless_candidates_take_part_in_few_rounds() -> None:
    seconds = {0: 1e-3, 1: 2.9e-3, 2: 3.5e-3, 3: 1.0}
    times = measuring._race(list(seconds), lambda candidate: seconds[candidate], 60, measuring._Notes())
    assert [len(times[candidate]) for candidate in seconds] == [40, 40, 2, 2]


def test_a_small_budget_still_gives_rounds() -> None:
    assert [len(t) for t in measuring._race([0, 1], lambda _: 1.0, 0, measuring._Notes()).values()] == [1, 1]
    assert measuring._race([], lambda _: 1.0, 1, measuring._Notes()) == {}


# Comparison -----------------------------------------------------------------------------------------------

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("got", "wanted", "same"),
    [
        ([1.0, 2.0], [1.05, 2.0], True),
        ([1.0, 2.0], [1.2, 2.0], False),
        ([NAN, 2.0], [NAN, 2.0], True),
        ([NAN, 2.0], [1.0, 2.0], False),
        ([1.0, 2.0], [NAN, 2.0], False),
        ([INF, -INF], [INF, -INF], True),
        ([INF, 1.0], [-INF, 1.0], False),
        ([INF, 1.0], [1.0, 1.0], False),
        ([], [], True),
    ],
)
def test_what_counts_as_the_same(got: list[float], wanted: list[float], same: bool) -> None:
    assert (difference(np.array(got), np.array(wanted), 0.1, 0) == "") is same


def test_integers_and_booleans_are_equal_or_not() -> None:
    a, b = np.arange(100, dtype=np.uint8), np.arange(100, dtype=np.uint8)
    b[7] += 200
    assert difference(a, b, 5, 0) == "differs in 1 of 100 elements"
    assert difference(a, b, 5, 0.01) == ""
    assert difference(a > 7, a >= 8, 0, 0) == ""


# Whole batches --------------------------------------------------------------------------------------------

LANES = detect().vector_bits // 32
CONV = body_of(
    "conv_blocked", (1, 2, 12, 12, LANES), (4, 2 * LANES, 3, 3, LANES), (4, 1, 1, LANES), then="relu",
    strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1),
)  # fmt: skip
MATMUL = body_of("matmul_packed", (24, 48), (4, 48, 16), (64,), then="gelu", columns=64)


def conv(columns: int, vectors: int, order: str = "taps") -> dict[str, Any]:
    return {"kind": "conv", "rows": 1, "columns": columns, "vectors": vectors, "order": order, "unroll": 1,
            "outer": "weights"}  # fmt: skip


CONVS = [conv(4, 2), conv(6, 1), conv(3, 4, "channels")]
MATMULS = [{"kind": "matmul", "rows": rows, "vectors": 2, "unroll": 1, "outer": "rows"} for rows in (2, 4)]
BROKEN = [{"kind": "conv"}, {"kind": "no such kind"}, {}]


@pytest.fixture(scope="module")
def measurer() -> Iterator[CpuMeasurer]:
    with CpuMeasurer(detect(), budget=0.02) as measurer:
        yield measurer


def test_batches_of_several_workloads(measurer: CpuMeasurer) -> None:
    futures = [measurer.submit(CONV, CONVS), measurer.submit(MATMUL, MATMULS), measurer.submit(CONV, CONVS[:1])]
    for future, schedules in zip(futures, (CONVS, MATMULS, CONVS[:1]), strict=True):
        outcomes = future.result(300)
        assert [outcome.schedule for outcome in outcomes] == schedules
        assert [(outcome.failure, outcome.detail) for outcome in outcomes] == [("", "")] * len(schedules)
        assert all(outcome.seconds for outcome in outcomes)


def test_what_cannot_be_built_is_an_outcome(measurer: CpuMeasurer) -> None:
    outcomes = measurer.submit(CONV, [BROKEN[0], CONVS[0], BROKEN[1]]).result(300)
    assert [outcome.failure for outcome in outcomes] == ["build", "", "build"]
    assert "not a schedule of a conv kernel" in outcomes[0].detail
    assert [outcome.failure for outcome in measurer.submit(CONV, BROKEN[:2]).result(300)] == ["build", "build"]
    assert measurer.submit(CONV, []).result(300) == []


def test_workers_that_die_are_replaced(measurer: CpuMeasurer) -> None:
    measurer.submit(CONV, CONVS[:1]).result(300)
    workers = [*measurer._pool.workers, measurer._runner]
    for worker in workers:
        if worker._process is not None:
            os.kill(worker._process.pid, 9)
            worker._process.wait()
    assert measurer.submit(CONV, CONVS[:1]).result(300)[0].ok


def test_it_uses_threads_and_leaves_nothing_behind() -> None:
    before = os.sched_getaffinity(0)
    measurer = CpuMeasurer(detect(), min(2, len(before)), budget=0.02)
    folder = Path(measurer._folder.name)
    with measurer:
        assert measurer.submit(MATMUL, MATMULS).result(300)[1].ok
        assert not list((folder / "jobs").iterdir())
        waiting = measurer.submit(CONV, CONVS)
    with pytest.raises((CancelledError, RuntimeError)):
        waiting.result(60)
    assert not folder.exists()
    assert os.sched_getaffinity(0) == before


def test_the_caller_keeps_off_the_runners_processors() -> None:
    before = os.sched_getaffinity(0)
    with CpuMeasurer(detect()) as measurer:
        expected = before - set(measurer._runner_cpus) or before
        assert os.sched_getaffinity(0) == expected


def test_where_every_processor_is_timed_on_the_caller_works_first() -> None:
    """Batches are built meanwhile, and whichever is ready first is timed when any of them is asked for."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with CpuMeasurer(detect(), budget=0.02) as measurer:
            measured: list[float] = []
            answer = measurer._measured
            measurer._measured = lambda *batch: measured.append(time.monotonic()) or answer(*batch)  # type: ignore
            batches = [measurer.submit(CONV, CONVS), measurer.submit(MATMUL, MATMULS)]
            deadline = time.monotonic() + 120
            while len(list(Path(measurer._folder.name).glob("jobs/*/job.json"))) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            asked = time.monotonic()
            assert not any(batch.done() for batch in batches)
            assert all(outcome.ok for batch in batches for outcome in batch.result(300))
            assert len(measured) == 2
            assert asked < min(measured)
    finally:
        os.sched_setaffinity(0, before)


def test_more_threads_than_cores() -> None:
    with pytest.raises(UserError, match="cores to measure on, not 1000"):
        CpuMeasurer(detect(), 1000)


def test_code_that_does_not_run_here() -> None:
    machine = replace(detect(), name="z80", features=detect().features | {"avx9000"})
    with pytest.raises(UserError, match="no kernel for z80 runs on this CPU, which lacks avx9000: export a bundle"):
        CpuMeasurer(machine)


def test_workers_do_not_outlive_whoever_started_them_not_even_when_paused(tmp_path: Path) -> None:
    source = """
import sys, time
from targets.cpu.machine import detect
from targets.cpu.tuning.measurer import CpuMeasurer
from tensorc.ir import parse_graph
measurer = CpuMeasurer(detect(), budget=0.02)
measurer.submit(parse_graph(sys.argv[1]), [{"kind": "none"}] * 8).result()
workers = [*measurer._pool.workers, measurer._runner]
for worker in workers:
    worker.pause()
print(*[worker._process.pid for worker in workers if worker._process], flush=True)
time.sleep(100)
"""
    command = [sys.executable, "-c", source, print_graph(MATMUL)]
    # What it leaves behind goes with the test's folder.
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert pids
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match="needs a C compiler"):
        CpuMeasurer(detect())


def test_data_of_workloads_goes_when_it_is_too_much(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("targets.cpu.tuning.measurer._DATA_KEPT", 250)
    folders = _DataFolders(tmp_path)
    for key in "abca":
        folders.taken(key).mkdir(exist_ok=True)
        (tmp_path / key / "in0.bin").write_bytes(bytes(100))
    for key in "acb":
        folders.given_back(key)
    # When c was given back, it was too much, and c the only one that nobody used.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    folders.taken("d").mkdir()
    (tmp_path / "d" / "in0.bin").write_bytes(bytes(100))
    folders.given_back("a")
    # Of a and b, b was taken longer ago.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]


# Bundles --------------------------------------------------------------------------------------------------


def key_of(body: Any, threads: int = 1) -> Key:
    return Key(workload_key(body), "cpu:test", "1", threads)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    seen = []
    tasks = [
        BundleTask(key_of(CONV), CONV, [*CONVS[:2], BROKEN[0]]),
        BundleTask(key_of(MATMUL), MATMUL, MATMULS),
        BundleTask(key_of(BODY), BODY, BROKEN[1:2]),
    ]
    export_bundle(folder, tasks, detect(), lambda done, total: seen.append((done, total)))
    assert seen == [(3, 6), (5, 6), (6, 6)]
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy elsewhere, as when it has travelled."""
    return Path(shutil.copytree(exported, tmp_path / "moved" / "bundle"))


def run_bundle(bundle: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter that finds nothing but its own library and numpy, with no compiler on the path."""
    packages = tmp_path / "packages"
    if not packages.exists():
        packages.mkdir()
        found = Path(np.__file__).parent
        for path in (found, found.with_name("numpy.libs")):
            if path.exists():
                (packages / path.name).symlink_to(path)
    starter = (
        f"import runpy, sys; sys.path.append({str(packages)!r}); sys.argv = {['measure.py', *arguments]!r}\n"
        "for name in ('tensorc', 'targets', 'tvm', 'onnx'):\n"
        "    try: __import__(name)\n"
        "    except ImportError: continue\n"
        "    raise SystemExit(name)\n"
        f"runpy.run_path({str(bundle / 'measure.py')!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", starter], capture_output=True, text=True, env={"PATH": ""}, cwd="/",
        check=False, timeout=300,
    )  # fmt: skip


def test_a_bundle_is_measured_with_numpy_alone(bundle: Path, tmp_path: Path) -> None:
    done = run_bundle(bundle, tmp_path, "--budget", "0.02")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    results = import_results(bundle)
    assert results.unmeasured == 0
    assert [(record.key.workload, record.schedule, record.failure) for record in results.records] == [
        (workload_key(CONV), CONVS[0], ""),
        (workload_key(CONV), CONVS[1], ""),
        (workload_key(CONV), BROKEN[0], "build"),
        (workload_key(MATMUL), MATMULS[0], ""),
        (workload_key(MATMUL), MATMULS[1], ""),
        (workload_key(BODY), BROKEN[1], "build"),
    ]
    assert all(record.seconds and record.created > 1.6e9 for record in results.records if record.ok)
    assert "conv_blocked" in results.records[0].body
    # Once more: nothing is left to do.
    before = (bundle / "results.jsonl").read_bytes()
    assert run_bundle(bundle, tmp_path).returncode == 0
    assert (bundle / "results.jsonl").read_bytes() == before


def test_a_run_that_was_killed_is_taken_up_where_it_was(bundle: Path, tmp_path: Path) -> None:
    assert run_bundle(bundle, tmp_path, "--budget", "0.02", str(bundle)).returncode == 0
    results = bundle / "results.jsonl"
    first, second = results.read_text().splitlines()
    results.write_text(first + "\n" + second[:40])
    partial = import_results(bundle)
    assert (partial.unmeasured, len(partial.records)) == (1, 4)
    assert run_bundle(bundle, tmp_path, "--budget", "0.02", "--cpus", str(max(os.sched_getaffinity(0)))).returncode == 0
    assert import_results(bundle).unmeasured == 0
    # The results may come back alone.
    moved = results.rename(tmp_path / "answers.jsonl")
    assert len(import_results(bundle, moved).records) == 6


def test_a_cpu_that_lacks_a_feature(bundle: Path, tmp_path: Path) -> None:
    job = bundle / "jobs" / "0000" / "job.json"
    job.write_text(job.read_text().replace('"features": [', '"features": ["avx9000", '))
    done = run_bundle(bundle, tmp_path)
    assert done.returncode == 2
    assert "compiled for a CPU with avx9000, which this one lacks" in done.stderr
    assert not (bundle / "results.jsonl").exists()


def test_a_bundle_for_more_threads_than_there_are(bundle: Path, tmp_path: Path) -> None:
    job = bundle / "jobs" / "0000" / "job.json"
    job.write_text(job.read_text().replace('"threads": 1', '"threads": 1000'))
    done = run_bundle(bundle, tmp_path)
    assert done.returncode == 2
    assert "a job of 1000 threads has" in done.stderr


def test_what_is_no_bundle(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(UserError, match="not the manifest of a bundle"):
        import_results(tmp_path)
    with pytest.raises(UserError, match="was not measured"):
        import_results(bundle)
    with pytest.raises(UserError, match="not an empty folder"):
        export_bundle(bundle, [], detect())
    shutil.rmtree(bundle / "jobs")
    done = run_bundle(bundle, tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("nonsense\n", "results.jsonl:1: not JSON"),
        ('{"job": "0000"}\n{"outcomes": []}\n', "results.jsonl:2: not an answer: 'job'"),
        ("[]\n", "results.jsonl:1: not an answer"),
        ('{"job": "0007"}\n', "has no job '0007'"),
        ('{"job": "0000", "outcomes": []}\n', "job 0000: it has too few"),
        ('{"job": "0000", "outcomes": 3}\n', "not an answer to job 0000"),
        ('{"job": "0000", "outcomes": [{"seconds": [-1]}, {"failure": "wrong"}]}\n', "times must be finite"),
        ('{"job": "0000", "outcomes": [{"seconds": ["x"]}, {"failure": "wrong"}]}\n', "not an answer to job 0000"),
        ('{"job": "0000", "outcomes": [{"failure": "bored"}, {"failure": "wrong"}]}\n', "must be one of crash"),
        ('{"job": "0000", "outcomes": [{"failure": "wrong"}, {"failure": "wrong"}, {}]}\n', "it has too many"),
    ],
)
def test_answers_that_are_none(bundle: Path, answers: str, message: str) -> None:
    (bundle / "results.jsonl").write_text(answers)
    with pytest.raises(UserError, match=message):
        import_results(bundle)


def test_a_newer_bundle(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(UserError, match="it is of version 2, not 1"):
        import_results(bundle)


def test_keys_of_many_threads_measure_on_as_many(tmp_path: Path) -> None:
    task = BundleTask(replace(key_of(MATMUL), threads=2), MATMUL, MATMULS[:1])
    export_bundle(tmp_path / "bundle", [task], detect())
    assert json.loads((tmp_path / "bundle" / "jobs" / "0000" / "job.json").read_text())["threads"] == 2
