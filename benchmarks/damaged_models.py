"""`tensorc compile` on damaged model files: each is to end in one line of error and exit code 2, and soon.

    python benchmarks/damaged_models.py
    python benchmarks/damaged_models.py --count 1000 --seed 7 --keep bad/

Sound models of several kinds are damaged in named ways (benchmarks/damaged). Each file is compiled in a process of its
own, which may take 10 s of processor time and 2 GiB of memory. Some damage leaves a model that is valid: it may be
compiled, but for the same time and memory. The table says how the files of each kind ended; below it stands what should
not have been.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

# The scripts of this folder are run by path, and are a package to the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.damaged.kinds import Damaged, damaged_models

GIB = 1 << 30
#: How many times as long as its limit a process may run, on a machine that is busy with other work.
_PATIENCE = 5.0
OUTCOMES = ("refused", "compiled", "wrong")


@dataclass(frozen=True)
class Outcome:
    """`status` is one of `OUTCOMES`; `detail` says what the command said, or what was wrong."""

    status: str
    detail: str
    seconds: float
    nbytes: int


def compile_in_process(model: Path, seconds: float = 10.0, nbytes: int = 2 * GIB) -> Outcome:
    """How `tensorc compile` ends within these limits. No file may be left behind unless it succeeds."""
    out = model.with_suffix(".tcm")
    command = [sys.executable, "-m", "tensorc", "compile", str(model), "-o", str(out)]
    before = set(model.parent.iterdir())
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        # What goes far beyond the limit is to die rather than the machine; what goes a little beyond is measured.
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (2 * nbytes, 2 * nbytes))
        code, taken, used = _wait(process, seconds)
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    left = set(model.parent.iterdir()) - before
    fault = _fault(code, text, used, nbytes, seconds, bool(left - {out} or (code and left)))
    for path in left:
        path.unlink()
    status = "wrong" if fault else "compiled" if code == 0 else "refused"
    return Outcome(status, f"{fault}: {text.strip()[-400:]}" if fault else text.strip(), taken, used)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> tuple[int | None, float, int]:
    """The exit code, None if there was none in time; the processor's time; and the most bytes that were resident."""
    end = time.perf_counter() + _PATIENCE * seconds
    most = 0
    while True:
        most = max(most, _resident(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not pid and time.perf_counter() > end:
            os.killpg(process.pid, 9)
            _, status, usage = os.wait4(process.pid, 0)
            pid = process.pid
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            taken = usage.ru_utime + usage.ru_stime
            in_time = taken <= seconds and time.perf_counter() <= end
            return process.returncode if in_time else None, taken, most
        time.sleep(0.01)


def _resident(pid: int) -> int:
    """The most bytes so far. What the system tells at the end would count the process that it was started from."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _fault(code: int | None, text: str, used: int, nbytes: int, seconds: float, left: bool) -> str:
    """What should not have been, "" if all is well."""
    lines = text.splitlines()
    if code is None:
        return f"no end in {seconds:g} s"
    if code < 0:
        return f"killed by signal {-code}"
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2 and (len(lines) != 1 or not lines[0].startswith("tensorc: error: ")):
        return f"{len(lines)} lines of error"
    if used > nbytes:
        return f"{used / GIB:.1f} GiB of memory"
    return "files left behind" if left else ""


@contextmanager
def written(model: Damaged, keep: Path | None, number: int) -> Iterator[Path]:
    """The model as a file in a folder of its own, which stays if there is a folder to keep it in."""
    with tempfile.TemporaryDirectory(prefix="tensorc-") as temporary:
        folder = Path(temporary, "model") if keep is None else keep / f"{number:04d} {model.kind}".replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in model.files.items():
            (folder / name).write_bytes(data)
        path = folder / "model.onnx"
        path.write_bytes(model.data)
        yield path


def _table(models: list[Damaged], outcomes: list[Outcome]) -> Table:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    slowest: dict[str, float] = defaultdict(float)
    largest: dict[str, int] = defaultdict(int)
    for model, outcome in zip(models, outcomes, strict=True):
        for name in (model.kind, "all"):
            counts[name][outcome.status] += 1
            slowest[name] = max(slowest[name], outcome.seconds)
            largest[name] = max(largest[name], outcome.nbytes)
    table = Table("damage", "files", *OUTCOMES, "slowest", "largest")
    for name in sorted(counts, key=lambda name: (name == "all", name)):
        count = counts[name]
        table.add_row(name, str(count.total()), *(str(count[status]) for status in OUTCOMES),
                      f"{slowest[name]:.1f} s", f"{largest[name] / 2**20:.0f} MiB")  # fmt: skip
    return table


@click.command()
@click.option("--count", default=200, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave the files there.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--list", "listed", is_flag=True, help="Print what was said of every file.")
def main(count: int, seed: int, keep: Path | None, workers: int, listed: bool) -> None:
    """Damage model files and compile them. Exit code 1 when one did not end as it should."""
    models = list(damaged_models(count, seed))

    def one(number: int) -> Outcome:
        with written(models[number], keep, number) as path:
            return compile_in_process(path)

    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(one, range(count)))
    out = Console(width=None if sys.stdout.isatty() else 120)
    out.print(_table(models, outcomes))
    for number, (model, outcome) in enumerate(zip(models, outcomes, strict=True)):
        if listed or outcome.status == "wrong":
            text = f"{number} {model.kind} of {model.origin}: {outcome.status}: {outcome.detail}"
            out.print(text, markup=False, soft_wrap=True)
    sys.exit(any(outcome.status == "wrong" for outcome in outcomes))


if __name__ == "__main__":
    main()
