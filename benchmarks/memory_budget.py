"""A model held to a part of the memory that it takes: what it has resident, whether it is right, and how much slower.

    python benchmarks/memory_budget.py bert.onnx --fraction 0.5

The model is compiled without a budget and run in a process of its own, whose peak resident size is read from outside
(`VmHWM` of /proc/PID/status). It is compiled again with that fraction of it as `--memory-budget`; the two then take
turns, so that neighbours disturb both. Outputs are those of `tensorc run`, which are compared with each other and with
ONNX Runtime's. Exit code 1: the budget was not kept, or a result is wrong.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from tensorc.benchmark.compare import Worker
from tensorc.cli.run import file_stem

MIB = 1 << 20
ROUNDS = 12


@dataclass(frozen=True)
class Measured:
    """Bytes; milliseconds a run, `cpu` those of all threads together, which neighbours disturb less; `error` is the
    largest absolute one, over the largest output, of all outputs."""

    model: str
    weights: int
    peak: int
    budget: int
    held_peak: int
    median_ms: float
    held_median_ms: float
    slowdown: float
    cpu_ms: float
    held_cpu_ms: float
    predicted_ms: float
    predicted_slowdown: float
    equal: bool
    error: float

    @property
    def ok(self) -> bool:
        return self.held_peak <= self.budget and self.error < 1e-3


def compile_model(model: Path, out: Path, shapes: tuple[str, ...], threads: int, budget: int | None) -> dict[str, str]:
    """The rows of the summary."""
    command = [
        sys.executable,
        "-m",
        "tensorc",
        "compile",
        str(model),
        "-o",
        str(out),
        "--threads",
        str(threads),
        "--json",
    ]
    command += [part for shape in shapes for part in ("--shape", shape)]
    command += [] if budget is None else ["--memory-budget", str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip())
    summary: dict[str, str] = json.loads(done.stdout)["summary"]
    return summary


def resident_peak(process: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return 1024 * int(found[1])


def cpu_seconds(process: int) -> float:
    """Of all threads, so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def draw_inputs(model: Path, artifact: Path) -> dict[str, np.ndarray]:
    import onnx

    from tensorc.runtime.artifact import Artifact
    from tensorc.sampling import Spec, index_limits, random_inputs

    limits = index_limits(onnx.load(model, load_external_data=False))
    return random_inputs(Spec.of_manifest(Artifact.open(artifact).manifest["inputs"]), 0, limits)


def outputs_of(artifact: Path, files: dict[str, str], threads: int, folder: Path) -> list[np.ndarray]:
    """What `tensorc run` writes, in the order of the model's outputs."""
    command = [sys.executable, "-m", "tensorc", "run", str(artifact), "--output", str(folder), "--json"]
    command += ["--threads", str(threads)]
    command += [part for name, file in files.items() for part in ("--input", f"{name}={file}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip())
    return [np.load(row["file"]) for row in json.loads(done.stdout)["outputs"]]


def reference(model: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    return list(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs))


def measure(model: Path, fraction: float, shapes: tuple[str, ...], threads: int, seconds: float) -> Measured:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tensorc-")))
        plain, held = folder / "plain.tcm", folder / "held.tcm"
        compile_model(model, plain, shapes, threads, None)
        inputs = draw_inputs(model, plain)
        files = {name: str(folder / f"{file_stem(name)}.npy") for name in inputs}
        for name, array in inputs.items():
            np.save(files[name], array)

        def open_worker(artifact: Path) -> Worker:
            worker = stack.enter_context(Worker())
            worker.ask({"engine": "tensorc", "model": str(artifact), "inputs": files, "threads": threads})
            worker.ask({"seconds": 0.1})
            return worker

        first = open_worker(plain)
        budget = int(fraction * resident_peak(first.process.pid))
        summary = compile_model(model, held, shapes, threads, budget)
        workers = [first, open_worker(held)]
        times: list[list[float]] = [[], []]
        used = [-cpu_seconds(worker.process.pid) for worker in workers]
        for _ in range(ROUNDS):
            for worker, own in zip(workers, times, strict=True):
                own += worker.ask({"seconds": seconds / ROUNDS})["ms"]
        used = [u + cpu_seconds(worker.process.pid) for u, worker in zip(used, workers, strict=True)]
        # One more run in each round is not timed.
        cpu = [1e3 * u / (len(own) + ROUNDS) for u, own in zip(used, times, strict=True)]
        peaks = [resident_peak(worker.process.pid) for worker in workers]
        results = [outputs_of(artifact, files, threads, folder / artifact.stem) for artifact in (plain, held)]
        wanted = reference(model, inputs)
        weights = int(float(summary["weights"].split()[0]) * MIB)
    medians = [statistics.median(own) for own in times]
    predicted = sum(float(text) for row in summary.values() for text in re.findall(r"([\d.]+) ms", row))
    errors = [
        float(np.abs(got.astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-30))
        for got, want in zip(results[1], wanted, strict=True) if want.size
    ]  # fmt: skip
    return Measured(
        model=model.stem,
        weights=weights,
        peak=peaks[0],
        budget=budget,
        held_peak=peaks[1],
        median_ms=medians[0],
        held_median_ms=medians[1],
        slowdown=medians[1] / medians[0],
        cpu_ms=cpu[0],
        held_cpu_ms=cpu[1],
        predicted_ms=predicted,
        predicted_slowdown=1 + predicted / medians[0],
        equal=all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*results, strict=True)),
        error=max(errors, default=0.0),
    )


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--fraction", default=0.5, show_default=True, help="Of the peak without a budget.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1x64", help="As of `tensorc compile`.")
@click.option("--threads", default=1, show_default=True)
@click.option("--seconds", default=6.0, show_default=True, help="Of timing for each of the two.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(models: tuple[Path, ...], fraction: float, shapes: tuple[str, ...], threads: int, seconds: float,
         as_json: bool) -> None:  # fmt: skip
    """Measure MODELS within a fraction of their memory."""
    start = time.perf_counter()
    rows = [measure(model, fraction, shapes, threads, seconds) for model in models]
    if as_json:
        print(json.dumps({"threads": threads, "fraction": fraction, "seconds": time.perf_counter() - start,
                          "models": [{**asdict(row), "ok": row.ok} for row in rows]}))  # fmt: skip
    else:
        names = "model,peak MiB,budget,peak with it,ms,ms with it,slower,CPU ms,CPU ms with it,predicted,equal,error,ok"
        table = Table(*names.split(","))
        for row in rows:
            table.add_row(
                row.model, *(f"{nbytes / MIB:.1f}" for nbytes in (row.peak, row.budget, row.held_peak)),
                f"{row.median_ms:.1f}", f"{row.held_median_ms:.1f}", f"{row.slowdown:.2f}",
                f"{row.cpu_ms:.1f}", f"{row.held_cpu_ms:.1f}",
                f"{row.predicted_slowdown:.2f}", "yes" if row.equal else "no",
                f"{row.error:.1e}", "yes" if row.ok else "no",
            )  # fmt: skip
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    sys.exit(not all(row.ok for row in rows))


if __name__ == "__main__":
    main()
