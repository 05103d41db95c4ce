"""Times the candidates of a job, or of every job of a bundle, on this machine's first GPU. Needs Python 3.9, numpy and
cuda-bindings only: it travels with bundles.

    python measure.py [BUNDLE]      time the jobs of a bundle (by default the one that this file lies in) and append
                                    the answers to BUNDLE/results.jsonl; jobs that have an answer there are passed over
    python measure.py --child JOB NUMBER...   what the first does for these candidates of a job, in a process of its own

Candidates run in a child process. It says which one is at work, and the parent ends it when that takes too long. What a
kernel does wrong (an access outside, a trap) ends with its process: the candidate that was at work is left out, and a
new child goes on with the rest. Each candidate's results are compared when it first runs; then rounds time all of them
in turns, so that all meet the same noise. Before each timed run the second-level cache is as a whole model leaves it:
overwritten, but for the activations, which the step before has just written.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import lzma
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Seconds of rounds for each job, and bounds on the number of rounds.
BUDGET, _LEAST_ROUNDS, _MOST_ROUNDS = 0.25, 3, 40
#: A candidate this many times slower than the best takes no part in further rounds.
_HOPELESS = 3.0
#: Seconds that a child may say nothing: before it runs anything, and while one candidate is at work.
_START_LIMIT, LIMIT = 120.0, 10.0
#: What outputs and scratch memory hold before a candidate runs: not a number to any float type.
_UNTOUCHED = 0xFF

#: The command of a child; the job and its candidates' numbers follow.
_CHILD = (sys.executable, __file__, "--child")

#: {"seconds": [...]}, sorted, or {"failure": ..., "detail": ...}
Outcome = dict[str, Any]


# ---- the parent ----


def measure(job: Path, child: Sequence[str] = _CHILD, limit: float = LIMIT) -> list[Outcome]:
    """An outcome for each candidate of the job in that folder, in order. `child` is the command that times some of
    them. Raises RuntimeError where no candidate is to blame: no GPU, no memory for the data."""
    count = len(_described(job)["candidates"])
    outcomes: dict[int, Outcome] = {}
    while left := [number for number in range(count) if number not in outcomes]:
        current, died = _watch([*child, str(job), *map(str, left)], limit, outcomes)
        if died is None:
            break
        if current is None:
            raise RuntimeError(died["detail"])
        outcomes[current] = died
    return [outcomes.get(number) or _failure("crash", "no answer") for number in range(count)]


def _watch(command: Sequence[str], limit: float, outcomes: dict[int, Outcome]) -> tuple[int | None, Outcome | None]:
    """Run a child until it ends or says nothing for too long. What it found out goes to `outcomes`; gives the candidate
    that was at work, and what ended the child early."""
    lines: queue.Queue[str | None] = queue.Queue()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said: list[str] = []

    def read_lines() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    def read_words() -> None:
        assert process.stderr is not None
        said.extend(process.stderr)

    readers = [threading.Thread(target=read, daemon=True) for read in (read_lines, read_words)]
    for reader in readers:
        reader.start()
    current: int | None = None
    try:
        while True:
            try:
                line = lines.get(timeout=_START_LIMIT if current is None else limit)
            except queue.Empty:
                return current, _failure("timeout", f"still at work after {limit:.3g} s")
            if line is None:
                break
            row = json.loads(line)
            if "done" in row:
                return None, None
            if "begin" in row:
                current = row["begin"]
            else:
                outcomes[row.pop("candidate")] = row
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
    return current, _failure("crash", (said or [f"exit code {process.returncode}"])[-1].strip()[:300])


def _failure(kind: str, detail: str) -> Outcome:
    return {"failure": kind, "detail": detail}


def _described(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job / "job.json").read_text(encoding="utf-8"))
    return found


def measure_bundle(folder: Path, child: Sequence[str] = _CHILD) -> int:
    """Answers for all jobs of a bundle that have none yet; how many could not be measured."""
    results, failed = folder / "results.jsonl", 0
    known = set()
    if results.exists():
        known = {json.loads(line)["job"] for line in results.read_text(encoding="utf-8").splitlines(keepends=True)
                 if line.endswith("\n")}  # fmt: skip
    jobs = sorted(path.parent for path in folder.glob("jobs/*/job.json"))
    for number, job in enumerate(jobs, start=1):
        if job.name in known:
            continue
        try:
            outcomes = measure(job, child)
        except RuntimeError as error:
            failed += 1
            print(f"{number} of {len(jobs)}: {error}", flush=True)
            continue
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"job": job.name, "created": time.time(), "outcomes": outcomes}) + "\n")
        good = [outcome["seconds"][len(outcome["seconds"]) // 2] for outcome in outcomes if "seconds" in outcome]
        best = f"{1e6 * min(good):.1f} us" if good else "none"
        print(f"{number} of {len(jobs)}: {len(outcomes)} candidates, {len(outcomes) - len(good)} failed, best {best}",
              flush=True)  # fmt: skip
    return failed


# ---- the child ----


def work(job: Path, numbers: Sequence[int], device: Any) -> None:
    """Times candidates on `device`, a `Gpu` or what has its methods, and says so on standard output."""

    def tell(**row: Any) -> None:
        print(json.dumps(row), flush=True)

    described = _described(job)
    prepared = _Prepared(job, described, device)
    racing = []
    for number in numbers:
        tell(begin=number)
        fault = prepared.check(number)
        if fault:
            tell(candidate=number, **_failure("wrong", fault))
        else:
            racing.append(number)
    times: dict[int, list[float]] = {number: [] for number in racing}
    order, begun = random.Random(0), time.perf_counter()
    for turn in range(_MOST_ROUNDS):
        if not racing or (turn >= _LEAST_ROUNDS and time.perf_counter() - begun > BUDGET):
            break
        order.shuffle(racing)
        for number in racing:
            tell(begin=number)
            times[number].append(prepared.run(number))
        best = min(min(times[number]) for number in racing)
        if turn:  # one slow run may be the machine's fault
            racing = [number for number in racing if min(times[number]) <= _HOPELESS * best]
    for number, seconds in times.items():
        tell(candidate=number, seconds=sorted(seconds))
    tell(done=True)


class _Prepared:
    """A job's data and kernels on the device."""

    def __init__(self, job: Path, described: dict[str, Any], device: Any):
        self._device = device
        self._candidates = described["candidates"]
        self._job = job
        self._files: dict[str, tuple[int, np.ndarray]] = {}
        self._outputs = [(device.allocate(row["bytes"]), row) for row in described["outputs"]]
        self._warm = set(described["warm"])
        most = {key: max(row[key] for row in self._candidates) for key in ("scratch_bytes", "counters")}
        self._scratch, self._counters = device.allocate(most["scratch_bytes"]), device.allocate(4 * most["counters"])
        self._counted = most["counters"]
        self._kernels: dict[int, Any] = {}
        for address, row in self._outputs:
            device.fill(address, _UNTOUCHED, row["bytes"])
        device.fill(self._scratch, _UNTOUCHED, most["scratch_bytes"])
        device.fill(self._counters, 0, 4 * most["counters"])

    def _input(self, name: str) -> int:
        if name not in self._files:
            data = np.frombuffer(lzma.decompress((self._job / name).read_bytes()), np.uint8)
            address = self._device.allocate(data.nbytes)
            self._device.write(address, data)
            self._files[name] = address, data
        return self._files[name][0]

    def _arguments(self, number: int) -> list[int]:
        row = self._candidates[number]
        found = [self._input(name) for name in row["inputs"]] + [address for address, _ in self._outputs]
        return found + [self._scratch] * bool(row["scratch_bytes"]) + [self._counters] * bool(row["counters"])

    def check(self, number: int) -> str:
        """What is wrong with a candidate's results; "" if nothing is."""
        row = self._candidates[number]
        self._kernels[number] = self._device.load(self._job, row)
        self._device.launch(self._kernels[number], row, self._arguments(number))
        for address, output in self._outputs:
            raw = self._device.read(address, output["bytes"])
            self._device.fill(address, _UNTOUCHED, output["bytes"])
            with np.load(self._job / output["sample"]) as sample:
                got, wanted = _numbers(raw, output["dtype"])[sample["places"]], sample["values"]
                off = np.abs(got - wanted)
                if not np.all(off <= sample["atol"]):
                    worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
                    return f"element {sample['places'][worst]} is {got[worst]:.6g}, not {wanted[worst]:.6g}"
        if np.any(self._device.read(self._counters, 4 * self._counted)):
            return "counters are not left at 0"
        return ""

    def run(self, number: int) -> float:
        """Seconds."""
        row = self._candidates[number]
        self._device.chill()
        for place, name in enumerate(row["inputs"]):
            if place in self._warm:
                self._device.touch(*self._files[name])
        seconds: float = self._device.launch(self._kernels[number], row, self._arguments(number))
        return seconds


def _numbers(raw: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        wide: np.ndarray = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return wide.astype(np.float64)
    return raw.view(dtype).astype(np.float64)


class Gpu:
    """The first GPU, through its driver."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self._ask("cuInit", 0)
        device = self._ask("cuDeviceGet", 0)
        self._ask("cuCtxSetCurrent", self._ask("cuDevicePrimaryCtxRetain", device))
        cache = self._ask("cuDeviceGetAttribute", driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device)
        self._cold_bytes = 2 * int(cache)
        self._cold = self.allocate(self._cold_bytes)
        self._begin, self._end = self._ask("cuEventCreate", 0), self._ask("cuEventCreate", 0)

    def _ask(self, name: str, *arguments: Any) -> Any:
        error, *found = getattr(self._driver, name)(*arguments)
        if int(error):
            raise RuntimeError(f"{name}: {error.name}")
        return found[0] if len(found) == 1 else found

    def allocate(self, nbytes: int) -> int:
        return int(self._ask("cuMemAlloc", max(nbytes, 256)))

    def fill(self, address: int, value: int, nbytes: int) -> None:
        if nbytes:
            self._ask("cuMemsetD8", address, value, nbytes)

    def write(self, address: int, data: np.ndarray) -> None:
        self._ask("cuMemcpyHtoD", address, data.ctypes.data, data.nbytes)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        out = np.zeros(nbytes, np.uint8)
        if nbytes:
            self._ask("cuMemcpyDtoH", out.ctypes.data, address, nbytes)
        return out

    def chill(self) -> None:
        """Overwrite the second-level cache."""
        self.fill(self._cold, 0, self._cold_bytes)

    def touch(self, address: int, data: np.ndarray) -> None:
        """Write again what is there, as the step before would have."""
        self.write(address, data)

    def load(self, job: Path, row: dict[str, Any]) -> Any:
        module = self._ask("cuModuleLoadData", (job / row["cubin"]).read_bytes())
        kernel = self._ask("cuModuleGetFunction", module, row["name"].encode())
        if row["shared_bytes"]:  # with the static part it may be more than blocks have without being asked for
            attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._ask("cuFuncSetAttribute", kernel, attribute, row["shared_bytes"])
        return kernel

    def launch(self, kernel: Any, row: dict[str, Any], arguments: Sequence[int]) -> float:
        """Seconds, by events around it."""
        values = tuple(arguments), (ctypes.c_void_p,) * len(arguments)
        self._ask("cuEventRecord", self._begin, 0)
        self._ask("cuLaunchKernel", kernel, row["blocks"], 1, 1, row["threads"], 1, 1, row["shared_bytes"], 0, values,
                  0)  # fmt: skip
        self._ask("cuEventRecord", self._end, 0)
        self._ask("cuEventSynchronize", self._end)
        return 1e-3 * float(self._ask("cuEventElapsedTime", self._begin, self._end))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path(__file__).resolve().parent)
    parser.add_argument("--child", nargs="+", metavar=("JOB", "NUMBER"))
    given = parser.parse_args()
    if given.child:
        job, *numbers = given.child
        work(Path(job), [int(number) for number in numbers], Gpu())
        return 0
    return 1 if measure_bundle(given.bundle) else 0


if __name__ == "__main__":
    sys.exit(main())
