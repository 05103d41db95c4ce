"""Whole models, measured: what compilation costs, whether the result is right, and how fast it is beside other engines.

Every step is the command line in a fresh process, as a user would run it, so that imports count and nothing that one
step leaves in memory helps the next. The light models get weights of their own first: see light_models.py.

    python benchmarks/models.py                                     the nine light models of the onnx package
    python benchmarks/models.py light_resnet50 light_vgg19          some of them
    python benchmarks/models.py --models DIR gpt2 --shape gpt2:input_ids=1x64 --json out.json
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import onnx
from light_models import light_models
from onnx import TensorProto, helper
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tensorc.benchmark import TOLERABLE

Row = dict[str, Any]
BETTER, UNTUNED = "the better of them", "untuned"
_FILLER = Path(__file__).with_name("light_models.py")


class StepError(Exception):
    """A command failed; the text is the last line that it said."""


@dataclass(frozen=True)
class Settings:
    target: str
    against: str
    threads: tuple[int, ...]
    seconds: float
    tune: str | None = None
    numerics: str = "strict"


@dataclass(frozen=True)
class Ran:
    """A command's JSON, its wall-clock seconds from start to exit, and its peak resident memory in bytes."""

    report: Row
    seconds: float
    peak: int


def tensorc(*words: object, accept: Sequence[int] = (0,)) -> Ran:
    """Run one `tensorc ... --json` in a process of its own; exit codes outside `accept` are errors."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        command = [sys.executable, "-m", "tensorc", *map(str, words), "--json"]
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode not in accept:
            said = err.read().strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise StepError(f"{words[0]}: {said[0]}")
        # Linux counts the peak in KiB, macOS in bytes.
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Ran(json.loads(out.read()), seconds, peak)


def measure(model: Path, shapes: Sequence[str], settings: Settings, folder: Path, note: Callable[[str], None]) -> Row:
    """All numbers of one model. What fails is in the row as `error`, beside what was measured before it."""
    row: Row = {"model": model.stem, "bench": {}, "untuned": {}}
    artifact, filled = folder / f"{model.stem}.tcm", folder / model.name
    try:
        if model in light_models():
            note("weights")
            # In a process of its own: what this one once held would count as the peak of all that it starts.
            subprocess.run([sys.executable, _FILLER, model, filled], check=True)
            model = filled
        note("compile")
        # A database of its own, empty at first: what the user has tuned before stays out of it.
        database = folder / f"{model.stem}.db"
        words = ["--target", settings.target, "--numerics", settings.numerics, "--database", database]
        words += [word for shape in shapes for word in ("--shape", shape)]
        compiled = tensorc("compile", model, "-o", artifact, *words)
        row["compile_seconds"] = compiled.seconds
        row["compile_phases"] = compiled.report["seconds"]
        row["compile_peak_bytes"] = compiled.peak
        row["artifact_bytes"] = compiled.report["bytes"]
        row["summary"] = compiled.report["summary"]
        note("verify")
        row["verify"] = tensorc("verify", artifact, "--model", model, accept=(0, 1)).report
        note("first run")
        first = tensorc("run", artifact, "--random", 0)
        row["first_run_seconds"] = (first.report["load_ms"] + first.report["run_ms"]) / 1e3
        row["run_process_seconds"] = first.seconds
        for threads in settings.threads:
            # Schedules are for a number of threads.
            note(f"bench, {threads} threads")
            tensorc("compile", model, "-o", artifact, "--threads", threads, *words)
            row["bench"][str(threads)] = bench(artifact, model, threads, settings)
            if settings.tune:
                note(f"tune for {settings.tune}, {threads} threads")
                tensorc("compile", model, "-o", artifact, "--threads", threads, "--tune", settings.tune, *words)
                row["untuned"][str(threads)] = row["bench"][str(threads)]
                row["bench"][str(threads)] = bench(artifact, model, threads, settings)
    except StepError as error:
        row["error"] = str(error)
    finally:
        artifact.unlink(missing_ok=True)
        filled.unlink(missing_ok=True)
    return row


def bench(artifact: Path, model: Path, threads: int, settings: Settings) -> Row:
    words = ("--model", model, "--against", settings.against, "--threads", threads, "--seconds", settings.seconds)
    report = tensorc("bench", artifact, *words).report
    timed = {key: report[key] for key in ("engines", "speedup", "other_load")}
    return timed | {"worst": min(timed["speedup"].values(), default=None)}


def measure_overhead(settings: Settings, folder: Path) -> Row:
    """Time of a call that computes next to nothing, the relu of one number: what each run pays for being a run."""
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "nothing", rows[:1], rows[1:])
    model = folder / "nothing.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    artifact = folder / "nothing.tcm"
    try:
        tensorc("compile", model, "--target", settings.target, "-o", artifact)
        return {str(threads): bench(artifact, model, threads, settings) for threads in settings.threads}
    except StepError as error:
        return {"error": str(error)}


# Choosing models -----------------------------------------------------------------------------------------


def choose(names: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    """Models by name, file or folder; without names, all light ones and all in `folders`."""
    known = {path.stem: path for path in light_models()}
    known |= {path.stem: path for folder in folders for path in sorted(folder.glob("*.onnx"))}
    if not names:
        return list(known.values())
    chosen: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            chosen += sorted(path.glob("*.onnx"))
        elif path.is_file():
            chosen.append(path)
        elif name in known:
            chosen.append(known[name])
        else:
            raise click.UsageError(f"no model, file or folder {name!r}; models: {', '.join(known)}")
    return chosen


def shapes_by_model(texts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        model, _, shape = text.partition(":")
        if not model or "=" not in shape:
            raise click.UsageError(f"--shape {text!r} is not MODEL:NAME=1x64")
        found.setdefault(model, []).append(shape)
    return found


# Printing ------------------------------------------------------------------------------------------------


def geometric_mean(ratios: Iterable[float]) -> float | None:
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None


def means(rows: Sequence[Row], settings: Settings) -> dict[str, dict[str, float | None]]:
    """Geometric mean of the speedups over each engine, by number of threads."""
    engines = [name for name in settings.against.split(",") if name]
    found: dict[str, dict[str, float | None]] = {}
    for threads in map(str, settings.threads):
        timed = [row["bench"][threads] for row in rows if threads in row["bench"]]
        found[threads] = {
            engine: geometric_mean(t["speedup"][engine] for t in timed if engine in t["speedup"]) for engine in engines
        }
        if len(engines) > 1:
            found[threads][BETTER] = geometric_mean(t["worst"] for t in timed if t["worst"])
        if settings.tune:
            found[threads][UNTUNED] = geometric_mean(1 / u for row in rows if (u := untuned_share(row, threads)))
    return found


def untuned_share(row: Row, threads: str) -> float | None:
    """The untuned speed over the tuned one's, each taken relative to the peers of its own run."""
    before, after = (row[kind].get(threads, {}).get("speedup", {}) for kind in ("untuned", "bench"))
    return geometric_mean(before[engine] / after[engine] for engine in before if engine in after)


def markdown(rows: Sequence[Row], overhead: Row, settings: Settings) -> str:
    engines = [name for name in settings.against.split(",") if name]
    header = ["model", "compile s", "peak MB", "file MB", "verified", "first run s"]
    for threads in settings.threads:
        header += [f"{threads}T ms", *(f"{threads}T {engine} ms (ratio)" for engine in engines)]
        header += [f"{threads}T untuned / tuned"] if settings.tune else []
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        cells = [row["model"], _number(row, "compile_seconds"), _number(row, "compile_peak_bytes", 1e6)]
        cells += [_number(row, "artifact_bytes", 1e6), _verified(row), _number(row, "first_run_seconds")]
        for threads in settings.threads:
            timed = row["bench"].get(str(threads), {})
            cells += [_engine(timed, "tensorc"), *(_engine(timed, engine) for engine in engines)]
            share = untuned_share(row, str(threads)) if settings.tune else None
            cells += [format(share, ".2f") if share else "-"] if settings.tune else []
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for threads, by_engine in means(rows, settings).items():
        for engine, mean in by_engine.items():
            if mean is not None:
                lines.append(f"{threads} thread(s): {mean:.2f} times as fast as {engine} (geometric mean)")
    for threads, timed in overhead.items():
        if threads != "error":
            parts = [f"{name} {_engine(timed, name, scale=1e3)} us" for name in ("tensorc", *engines)]
            lines.append(f"One call of a model that computes nothing, {threads} thread(s): {', '.join(parts)}")
    noisy = [row["model"] for row in rows if any((b["other_load"] or 0) > TOLERABLE for b in row["bench"].values())]
    if noisy:
        lines.append(f"NOT TO BE TRUSTED, other processes were at work meanwhile: {', '.join(noisy)}")
    lines += [f"{row['model']} failed: {row['error']}" for row in rows if "error" in row]
    lines += [f"The call overhead was not measured: {overhead['error']}"] if "error" in overhead else []
    return "\n".join(lines)


def _number(row: Row, key: str, unit: float = 1.0) -> str:
    return f"{row[key] / unit:.3g}" if key in row else "-"


def _verified(row: Row) -> str:
    if "verify" not in row:
        return "-"
    error = row["verify"]["max_rel_error"]
    return f"{'ok' if row['verify']['ok'] else 'NO'}, {'not finite' if error is None else format(error, '.1e')}"


def _engine(timed: Row, name: str, scale: float = 1.0) -> str:
    result = timed.get("engines", {}).get(name, {})
    if "median_ms" not in result:
        return "failed" if "error" in result else "-"
    ratio = timed["speedup"].get(name)
    return f"{result['median_ms'] * scale:.3g}" + (f" ({ratio:.2f})" if ratio is not None else "")


def environment() -> Row:
    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    import cpuinfo

    packages = ("tensorc", "apache-tvm", "onnx", "onnxruntime", "openvino", "numpy")
    return {
        "cpu": cpuinfo.get_cpu_info().get("brand_raw", platform.machine()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in packages},
    }


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME|FILE.onnx|FOLDER]...")
@click.option("--models", "folders", multiple=True, metavar="DIR", help="A folder with more models. Repeatable.",
              type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
@click.option("--shape", "shapes", multiple=True, metavar="MODEL:NAME=1x64", help="Shape of an input. Repeatable.")
@click.option("--target", default="cpu", show_default=True)
@click.option("--threads", default="1,2", show_default=True, help="Numbers of threads, separated by commas.")
@click.option("--against", default="onnxruntime", show_default=True, help="Engines, separated by commas.")
@click.option("--tune", metavar="60s", help="Tune each model, from an empty database, and time it before and after.")
@click.option("--numerics", type=click.Choice(["strict", "fast"]), default="strict", show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Time for each engine and number of threads.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers there.")
def main(
    names: Sequence[str],
    folders: Sequence[Path],
    shapes: Sequence[str],
    target: str,
    threads: str,
    against: str,
    tune: str | None,
    numerics: str,
    seconds: float,
    output: Path | None,
) -> None:
    """Compile, verify and time models; print a Markdown table."""
    models = choose(names, folders)
    by_model = shapes_by_model(shapes)
    settings = Settings(target, against, tuple(map(int, threads.split(","))), seconds, tune, numerics)
    rows: list[Row] = []
    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="tensorc-benchmark-") as folder,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("call overhead", total=len(models))
        overhead = measure_overhead(settings, Path(folder))
        for model in models:

            def note(step: str, name: str = model.stem) -> None:
                bar.update(task, description=f"{name}: {step}")

            rows.append(measure(model, by_model.get(model.stem, ()), settings, Path(folder), note))
            bar.advance(task)
    if output is not None:
        result = {
            "environment": environment(),
            "settings": vars(settings),
            "models": rows,
            "geometric_mean_speedup": means(rows, settings),
            "call_overhead": overhead,
        }
        output.write_text(json.dumps(result, indent=2) + "\n")
    print(markdown(rows, overhead, settings))


if __name__ == "__main__":
    main()
