"""Times the candidates of a job, or of every job of a bundle. Needs Python 3.9 and numpy only: it travels with bundles.

    python measure.py [BUNDLE]      time the jobs of a bundle (by default the one that this file lies in) and append
                                    the answers to BUNDLE/results.jsonl; jobs that have an answer there are passed over
    python measure.py --serve       answer requests {"job": FOLDER, ...} on standard input, for the tuner

Candidates run in a child process, one after the other, each checked against the expected outputs when it first runs.
The parent sees in shared memory which one is running. It ends the child when that takes too long; when the child dies,
the candidate that killed it is left out and the rest start over. Rounds then time all of them in turns, so that all
meet the same noise. Before each run the caches are put in the state that a whole model leaves them in: the activations
near, because the step before has just written them, and the constants in memory, where the rest of the model's have
driven them since its last run. (Where weights are kept in the last cache by a model that is small enough, this is
pessimistic.)
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import mmap
import os
import platform
import random
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    # Idle threads of numpy's libraries spin, which would take time from what is measured.
    os.environ.update(dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import numpy as np

#: Seconds of rounds for each job, and bounds on the number of rounds. Very slow candidates get fewer.
BUDGET, _LEAST_ROUNDS, _MOST_ROUNDS = 0.25, 3, 40
#: A candidate this many times slower than the best takes no part in further rounds.
_HOPELESS = 3.0
#: A run during which other processes were given the processor is made again, so many times in all.
_ATTEMPTS = 3
#: Seconds that one run of a candidate may take; when a good one is known, at most so many times longer than that and
#: never less than the least, since a busy machine may keep any process waiting.
STEP_LIMIT, _PATIENCE, _LEAST_LIMIT = 10.0, 100.0, 1.0
#: Seconds to load a job.
_LOAD_LIMIT = 120.0
#: Bytes that a child may allocate beyond its job's own data, and beyond that for each thread's stack and heap.
MEMORY_LIMIT, _MEMORY_PER_THREAD = 2 << 30, 160 << 20

#: Of job.json and its shared object: the steps that set up the caches, and the first candidate's.
_CHILL, _WARM, _FIRST_CANDIDATE = 0, 1, 2
_PAGE = mmap.PAGESIZE
_HUGE_PAGE = 2 << 20
#: What outputs hold before a candidate runs, and what lies around them: not a number to any float type.
_UNTOUCHED = 0xFF

#: {"seconds": [...]}, sorted, or {"failure": ..., "detail": ...}
Outcome = dict[str, Any]


class JobError(Exception):
    """The job cannot be measured at all, which is no candidate's fault."""


# ---- the parent ----


def measure(folder: Path, cpus: list[int] | None = None, budget: float = BUDGET, limit: float = STEP_LIMIT,
            memory: int = MEMORY_LIMIT) -> list[Outcome]:  # fmt: skip
    """An outcome for each candidate of the job in `folder`, in order.

    `cpus` are the processors to run on, by default as many as the job has threads; `budget` is the seconds of rounds,
    `limit` those of one run; `memory` the bytes that candidates may allocate. Raises JobError.
    """
    job = _description(folder)
    settings = {"cpus": cpus or core_cpus()[: job["threads"]], "budget": budget, "memory": memory}
    outcomes: dict[int, Outcome] = {}
    left = list(range(len(job["candidates"])))
    while left:
        child = _Child(folder, job, left, settings, limit)
        outcomes.update(child.outcomes)
        left = [candidate for candidate in left if candidate not in outcomes]
        if not child.died or not left:
            break
        if child.current is not None and (child.died["failure"] == "timeout" or len(left) == 1):
            outcomes[child.current] = child.died
        elif child.current is not None and (alone := _Child(folder, job, [child.current], settings, limit)).died:
            outcomes[child.current] = alone.died
        else:
            # Whoever is to blame did it behind its own back, such as by writing where others' data is.
            for candidate in left:
                alone = _Child(folder, job, [candidate], settings, limit)
                outcomes[candidate] = alone.outcomes.get(candidate) or alone.died or _failure("crash", "no answer")
        left = [candidate for candidate in left if candidate not in outcomes]
    return [outcomes.get(i) or _failure("crash", "no answer") for i in range(len(job["candidates"]))]


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "job.json"
    try:
        job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobError(f"{path} cannot be read: {error}") from error
    return job


class _Child:
    """One child's work on some candidates of a job. `outcomes` is what it found out about them, `died` the failure that
    ended it early and `current` the candidate that was running then, if any was."""

    def __init__(self, folder: Path, job: dict[str, Any], candidates: list[int], settings: dict[str, Any],
                 limit: float):  # fmt: skip
        self.outcomes: dict[int, Outcome] = {}
        self.died: Outcome = {}
        self.current: int | None = None
        self._limit = limit
        self._notes = _Notes()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _work(folder, job, candidates, settings, self._notes, writer)
        os.close(writer)
        try:
            late, answer = self._watch(reader)
        finally:
            os.close(reader)
            os.kill(pid, signal.SIGKILL)  # where it has ended, this does nothing: it was not waited for yet
            _, status = os.waitpid(pid, 0)
        self._conclude(late, answer, status)

    def _watch(self, reader: int) -> tuple[bool, bytes]:
        """Until the child closes its pipe; whether it was late, and what it wrote."""
        answer, seen, since = b"", -1, time.monotonic()
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        if _serving:
            poll.register(0, 0)  # hung up: whoever asked is gone
        while True:
            for descriptor, _ in poll.poll(20):
                if descriptor == 0:
                    os._exit(1)
                chunk = os.read(reader, 1 << 16)
                if not chunk:
                    return False, answer
                answer += chunk
            count, now = self._notes.count, time.monotonic()
            if count != seen:
                seen, since = count, now
            if now - since > self._allowed():
                return True, answer

    def _allowed(self) -> float:
        """Seconds for what is going on."""
        if self._notes.current is None:
            return _LOAD_LIMIT
        best = self._notes.best
        return min(self._limit, max(_PATIENCE * best, _LEAST_LIMIT)) if best else self._limit

    def _conclude(self, late: bool, answer: bytes, status: int) -> None:
        done = False
        for line in answer.split(b"\n")[:-1]:
            row = json.loads(line)
            if "error" in row:
                raise JobError(row["error"])
            done = done or "done" in row
            if "candidate" in row:
                self.outcomes[row.pop("candidate")] = row
        if done:
            return
        self.current = self._notes.current
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if late:
            seconds = f"{self._allowed():.3g} s"
            self.died = _failure("timeout", f"still running after {seconds}")
        elif self._notes.refused:
            self.died = _failure("memory", f"{_name(number)} after more memory was refused to it")
        elif number == signal.SIGKILL:
            self.died = _failure("memory", "killed by the system, which does that when memory runs out")
        elif number:
            self.died = _failure("crash", f"killed by {_name(number)}")
        else:
            self.died = _failure("crash", f"ended the process with exit code {os.WEXITSTATUS(status)}")
        if self.current is None and not self.outcomes and not self._notes.count:
            raise JobError(f"the job could not be loaded: {self.died['detail']}")


class _Notes:
    """What the child says about itself while it runs, in memory that outlives it."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, _PAGE)

    def begin(self, candidate: int) -> None:
        struct.pack_into("qq", self.map, 0, candidate + 1, self.count + 1)

    def end(self) -> None:
        struct.pack_into("q", self.map, 0, 0)

    @property
    def current(self) -> int | None:
        """The candidate that is running."""
        (number,) = struct.unpack_from("q", self.map, 0)
        return number - 1 if number else None

    @property
    def count(self) -> int:
        """Runs begun."""
        return int(struct.unpack_from("q", self.map, 8)[0])

    @property
    def best(self) -> float:
        """Shortest time in seconds so far; 0 if there is none."""
        return float(struct.unpack_from("d", self.map, 16)[0])

    @best.setter
    def best(self, seconds: float) -> None:
        struct.pack_into("d", self.map, 16, seconds)

    @property
    def refused(self) -> bool:
        return self.map[24] != 0

    @property
    def refused_address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self.map, 24))


def core_cpus() -> list[int]:
    """One processor of each core that this process may use."""
    first: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            first.setdefault(siblings.read_text(), cpu)
        except OSError:
            first[str(cpu)] = cpu
    return list(first.values())


def _failure(kind: str, detail: str) -> Outcome:
    return {"failure": kind, "detail": detail}


def _name(number: int) -> str:
    return signal.Signals(number).name if number else "it ended"


# ---- the child ----


def _work(folder: Path, job: dict[str, Any], candidates: list[int], settings: dict[str, Any], notes: _Notes,
          writer: int) -> NoReturn:  # fmt: skip
    """The child's life."""

    def tell(row: dict[str, Any]) -> None:
        os.write(writer, json.dumps(row).encode() + b"\n")

    try:
        libc = ctypes.CDLL(None)
        libc.prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG: not to outlive the parent
        os.sched_setaffinity(0, settings["cpus"])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _become_first_victim()
        loaded = _Job(folder, job, settings["memory"], notes)
        good = []
        for candidate in candidates:
            fault = loaded.check(candidate)
            if fault:
                tell({"candidate": candidate, **_failure("wrong", fault)})
            else:
                good.append(candidate)
        for candidate, seconds in _race(good, loaded.run, settings["budget"], notes).items():
            tell({"candidate": candidate, "seconds": sorted(seconds)})
        tell({"done": True})
    except BaseException as error:
        tell({"error": f"{type(error).__name__}: {error}"})
    os._exit(0)


def _become_first_victim() -> None:
    """Whoever must go when the machine's memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def _race(candidates: list[int], run: Callable[[int], float], budget: float, notes: _Notes) -> dict[int, list[float]]:
    """Times of the candidates in seconds, from rounds in which each runs once, in random order."""
    times: dict[int, list[float]] = {candidate: [] for candidate in candidates}
    racing, order = list(candidates), random.Random(0)
    begun = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        spent = time.perf_counter() - begun
        # What the next round will take is what the last ones did.
        expected = spent * (number + 1) / number if number else 0
        if not racing or expected > (budget if number >= _LEAST_ROUNDS else 4 * budget):
            break
        order.shuffle(racing)
        for candidate in racing:
            times[candidate].append(run(candidate))
        if number == 0 and racing:
            best = min(times[candidate][0] for candidate in racing)
            notes.best = best
            # One slow run may be the machine's fault, so those that seem hopeless get a second.
            doubtful = [candidate for candidate in racing if times[candidate][0] > _HOPELESS * best]
            for candidate in doubtful:
                times[candidate].append(run(candidate))
            racing = [candidate for candidate in racing if min(times[candidate]) <= _HOPELESS * best]
    return times


class _Job:
    """A job's data and code in memory."""

    def __init__(self, folder: Path, job: dict[str, Any], memory: int, notes: _Notes):
        self._notes = notes
        self._constants = job["candidates"]
        self._can_flush = "clflushopt" in _cpu_flags()
        self._blocks = []
        for number, block in enumerate(job["blocks"]):
            # Not at the same place in a page each, as nothing is in a model.
            buffer = _Buffer(block["bytes"], huge=block["warm"], offset=number * 17 * 64 % _PAGE)
            for file, offset in block["parts"]:
                path = folder / file
                with path.open("rb") as source:
                    if source.readinto(buffer.bytes[offset:]) != path.stat().st_size:
                        raise JobError(f"{file} is longer than the job says")
            buffer.protect()
            self._blocks.append(buffer)
        self._results = []
        for number, row in enumerate(job["outputs"]):
            wanted = np.fromfile(folder / row["file"], row["dtype"]).reshape(row["shape"])
            buffer = _Buffer(wanted.nbytes, huge=True, offset=(number * 29 + 7) * 64 % _PAGE)
            self._results.append((buffer, wanted, row["atol"], row["share"]))
        self._inputs = _pointers(self._blocks)
        self._outputs = _pointers([buffer for buffer, *_ in self._results])
        self._library = self._loaded(folder / "model.so")
        self._library.tensorc_watch(notes.refused_address)
        _limit_memory(memory + job["threads"] * _MEMORY_PER_THREAD)
        self._model = ctypes.c_void_p(self._library.tensorc_open(job["threads"], None))
        if not self._model:
            raise JobError(f"no memory, or no {job['threads']} threads, for the executor")
        self._library.tensorc_fill_arena(self._model)

    @staticmethod
    def _loaded(path: Path) -> ctypes.CDLL:
        library = ctypes.CDLL(str(path.resolve()))
        pointer = ctypes.c_void_p
        library.tensorc_open.argtypes, library.tensorc_open.restype = [ctypes.c_int, pointer], pointer
        library.tensorc_watch.argtypes, library.tensorc_watch.restype = [pointer], None
        library.tensorc_flush.argtypes, library.tensorc_flush.restype = [pointer, ctypes.c_size_t], None
        library.tensorc_fill_arena.argtypes, library.tensorc_fill_arena.restype = [pointer], None
        library.tensorc_run_step.argtypes = [pointer, ctypes.c_int32, pointer, pointer]
        library.tensorc_run_step.restype = ctypes.c_double
        return library

    def _step(self, index: int) -> float:
        return float(self._library.tensorc_run_step(self._model, index, self._inputs, self._outputs))

    def run(self, candidate: int) -> float:
        """Seconds of one run; of the shortest of a few where other processes got in between."""
        best = math.inf
        for _ in range(_ATTEMPTS):
            if self._can_flush:
                for number in self._constants[candidate]:
                    block = self._blocks[number]
                    self._library.tensorc_flush(block.address, len(block.bytes))
            self._step(_CHILL)
            self._step(_WARM)
            self._notes.begin(candidate)
            interrupted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            seconds = self._step(_FIRST_CANDIDATE + candidate)
            interrupted -= resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            self._notes.end()
            best = min(best, max(seconds, 1e-9))
            if not interrupted:
                break
        return best

    def check(self, candidate: int) -> str:
        """Run it; what is wrong with its outputs, "" if nothing."""
        for buffer, *_ in self._results:
            buffer.reset()
        self.run(candidate)
        for number, (buffer, wanted, atol, share) in enumerate(self._results):
            if not buffer.bounds_untouched():
                return f"wrote outside its output {number}"
            got = np.frombuffer(buffer.bytes, wanted.dtype).reshape(wanted.shape)
            fault = difference(got, wanted, atol, share)
            if fault:
                return f"output {number} {fault}"
        return ""


class _Buffer:
    """Memory between two pages that nobody has to write to; `bytes` lies `offset` bytes into a page."""

    def __init__(self, nbytes: int, huge: bool, offset: int):
        huge = huge and hasattr(mmap, "MADV_HUGEPAGE")
        unit = _HUGE_PAGE if huge else _PAGE
        size = -(-(nbytes + offset + 2 * _PAGE) // unit) * unit
        # Activations lie in huge pages, as in the executor's arena: in whole ones, from the first byte to the last,
        # wherever the system puts the mapping.
        # (Private: there are no huge pages in memory that could be shared.)
        self._map = mmap.mmap(-1, size + unit, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        start = -address % unit + offset
        if huge:
            self._map.madvise(mmap.MADV_HUGEPAGE)
        whole = memoryview(self._map)
        self._whole = np.frombuffer(whole, np.uint8)[start : start + nbytes + 2 * _PAGE]
        self._whole[:] = _UNTOUCHED
        self.bytes = whole[start + _PAGE : start + _PAGE + nbytes]
        self.address = address + start + _PAGE

    def protect(self) -> None:
        """No candidate changes what the others read."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(self._map)), mmap.PROT_READ):
            raise JobError("the system does not let memory be protected")

    def reset(self) -> None:
        self._whole[:] = _UNTOUCHED

    def bounds_untouched(self) -> bool:
        return bool((self._whole[:_PAGE] == _UNTOUCHED).all() and (self._whole[-_PAGE:] == _UNTOUCHED).all())


def _pointers(buffers: list[_Buffer]) -> Any:
    return (ctypes.c_void_p * len(buffers))(*[buffer.address for buffer in buffers])


def _limit_memory(nbytes: int) -> None:
    """No more than `nbytes` of address space beyond what is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * _PAGE + nbytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def difference(got: np.ndarray, wanted: np.ndarray, atol: float, share: float) -> str:
    """How `got` differs from `wanted` by more than `atol` in more than `share` of its elements; "" if it does not."""
    if wanted.dtype.kind != "f":
        off = np.count_nonzero(got != wanted)
        return f"differs in {off} of {wanted.size} elements" if off > share * wanted.size else ""
    with np.errstate(all="ignore"):
        error = got - wanted
        np.abs(error, out=error)
        if not error.size or error.max() <= atol:
            return ""
        # Infinities and what is not a number have to be where they are expected.
        same = (error <= atol) | (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        off = np.count_nonzero(~same)
        if off <= share * wanted.size:
            return ""
        worst = error[np.isfinite(error)].max(initial=0)
    return f"differs in {off} of {wanted.size} elements, by up to {worst:.3g} where {atol:.3g} is allowed"


# ---- from outside ----

_serving = False


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Requests on standard input, a line of JSON each, and their answers on standard output, where nothing else can
    come: what candidates or compilers print goes to standard error."""
    global _serving
    _serving = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print('{"ready": true}', file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    request["folder"] = Path(request.pop("job"))
    try:
        return {"outcomes": measure(**request)}
    except (JobError, OSError) as error:
        return {"error": str(error)}


def _measure_bundle(bundle: Path, cpus: list[int] | None, budget: float) -> int:
    """The exit code: 2 if it cannot be done here."""
    results = bundle / "results.jsonl"
    done = _jobs_done(results)
    jobs = sorted(path.parent for path in bundle.glob("jobs/*/job.json"))
    try:
        if not jobs:
            raise JobError("there are no jobs in it")
        for number, folder in enumerate(jobs, start=1):
            if folder.name in done:
                continue
            print(f"job {number} of {len(jobs)}", file=sys.stderr, flush=True)
            _check_machine(_description(folder), cpus)
            row = {
                "job": folder.name,
                "outcomes": measure(folder, cpus, budget),
                "created": time.time(),
                "host": platform.node(),
            }
            with results.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
    except (JobError, OSError) as error:
        print(f"cannot measure {bundle}: {error}", file=sys.stderr)
        return 2
    return 0


def _jobs_done(results: Path) -> set[str]:
    """Those that the file has an answer of. The line that a killed run was about to write is taken out of it."""
    if not results.exists():
        return set()
    text = results.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        part = results.with_suffix(".part")
        part.write_text(whole, encoding="utf-8")
        part.replace(results)
    return {json.loads(line)["job"] for line in whole.splitlines()}


def _cpu_flags() -> set[str]:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        return set(next((line for line in lines if line.startswith("flags")), "").split())


def _check_machine(job: dict[str, Any], cpus: list[int] | None) -> None:
    """Code that this machine's CPU cannot execute would look like crashing candidates."""
    missing = sorted(set(job["features"]) - _cpu_flags())
    if missing:
        raise JobError(f"it was compiled for a CPU with {', '.join(missing)}, which this one lacks")
    given = len(core_cpus() if cpus is None else cpus)
    if given < job["threads"]:
        raise JobError(f"a job of {job['threads']} threads has {given} cores to run on")


def main() -> int:
    parser = argparse.ArgumentParser(description="Times the candidates of a tensorc bundle.")
    parser.add_argument("bundle", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--cpus", help="processors to run on, such as 2,3; by default the first that there are")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of measuring for each job")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(_answer)
        return 0
    cpus = [int(cpu) for cpu in arguments.cpus.split(",")] if arguments.cpus else None
    return _measure_bundle(arguments.bundle, cpus, arguments.budget)


if __name__ == "__main__":
    sys.exit(main())
