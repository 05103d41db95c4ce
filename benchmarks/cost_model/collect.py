"""Measures schedules of many networks' kernels: the data that the cost model is trained on.

    python benchmarks/cost_model/collect.py --database data.db --networks networks.json
    python benchmarks/cost_model/collect.py --database data.db --networks networks.json --models DIR bert_base_128

Without names: every network of `networks.py`, the light models of the onnx package, and all in DIR. For each distinct
workload it measures `--candidates` schedules: the rules' own, some that the analytic estimate puts first, and random
ones, half of them from the better half by that estimate. What is in the database already is not measured again, so a
run that was stopped goes on where it was. `networks.json` says which workloads each network has: models are judged on
networks that they have not seen.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import onnx
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from targets.cpu import CpuTarget
from targets.cpu.features import BASELINE, FEATURES
from tensorc.frontend.importer import import_model
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.search.context import TuningContext
from tensorc.search.database import Database
from tensorc.search.space import Values
from tensorc.search.tasks import Task, tasks_of
from tensorc.workload import workload_text

sys.path.insert(0, str(Path(__file__).parent))
from networks import NETWORKS

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
#: Free axes of models that have some.
SHAPES = {name: {"input_ids": (1, 64)} for name in ("gpt2", "llama_tiny")}
_BATCH = 8


def sources(names: Sequence[str], folders: Sequence[Path]) -> Iterator[tuple[str, object]]:
    """(name, model) of the chosen networks; generated ones are made one at a time."""
    files = {path.stem: path for folder in (LIGHT, *folders) for path in sorted(folder.glob("*.onnx"))}
    unknown = set(names) - files.keys() - NETWORKS.keys()
    if unknown:
        raise click.BadParameter(f"no network {', '.join(sorted(unknown))}; there are {', '.join([*NETWORKS, *files])}")
    for name in names or [*files, *NETWORKS]:
        yield name, files[name] if name in files else NETWORKS[name]()


def tasks(model: object, context: TuningContext) -> list[Task]:
    graph = import_model(model, SHAPES.get(getattr(model, "stem", ""), {})).graph  # type: ignore[arg-type]
    run_passes(graph, CpuTarget().passes(CompileOptions()))
    return tasks_of(graph, context)


def plan(task: Task, context: TuningContext, count: int, rng: np.random.Generator) -> list[Values]:
    """The candidates to measure."""
    legal = list(task.space.enumerate())
    estimates = context.features(task.body, task.schedules(legal))[:, FEATURES.index(BASELINE)]
    order = np.argsort(estimates, kind="stable")
    first = rng.permutation(order[: 2 * count])[: count // 3]
    better = rng.permutation(order[: max(len(order) // 2, 1)])[: count // 3]
    chosen = [legal[i] for i in (*first, *better, *rng.permutation(order))]
    return list(dict.fromkeys([task.space.default_values(), *chosen]))[:count]


@click.command()
@click.argument("names", nargs=-1)
@click.option("--database", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--networks", "index", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--models", "folders", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--candidates", default=24, show_default=True, help="Schedules measured for each workload.")
@click.option(
    "--kind", "kinds", multiple=True, help="Only workloads whose rule picks this kind of schedule. Repeatable."
)
@click.option("--threads", default=1, show_default=True)
@click.option("--seconds", default=float("inf"), help="Stop after so long.")
@click.option("--seed", default=0, show_default=True)
def main(names: tuple[str, ...], database: Path, index: Path, folders: tuple[Path, ...], candidates: int,
         kinds: tuple[str, ...], threads: int, seconds: float, seed: int) -> None:  # fmt: skip
    started = time.monotonic()
    context = CpuTarget().tuning(CompileOptions(threads=threads))
    known: dict[str, list[str]] = json.loads(index.read_text()) if index.exists() else {}
    todo: dict[str, Task] = {}
    for name, model in sources(names, folders):
        found = tasks(model, context)
        known[name] = [task.key.workload for task in found]
        todo.update({task.key.workload: task for task in found if not kinds or task.space.default["kind"] in kinds})
        print(f"{name}: {len(found)} workloads, {len(todo)} in all", file=sys.stderr)
    index.write_text(json.dumps(known, indent=1) + "\n")
    # In random order: a run that is stopped has seen something of every network.
    order = np.random.default_rng(seed).permutation(sorted(todo))
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"), TimeRemainingColumn())
    with Database(database) as records, context.measurer() as measurer, Progress(*columns) as bar:
        shown = bar.add_task("", total=len(order))
        waiting = []
        for workload in order:
            task = todo[workload]
            done = {task.space.values(record.schedule) for record in records.records(task.key)}
            rng = np.random.default_rng([seed, int(workload[:8], 16)])
            values = [v for v in plan(task, context, candidates, rng) if v not in done]
            for first in range(0, len(values), _BATCH):
                schedules = task.schedules(values[first : first + _BATCH])
                waiting.append((task, measurer.submit(task.body, schedules)))
            bar.advance(shown)
            bar.update(shown, description=f"{records.count()} records, {task.label[:40]}")
            while len(waiting) > 4:
                task, future = waiting.pop(0)
                records.add([outcome.record(task.key, workload_text(task.body)) for outcome in future.result()])
            if time.monotonic() - started > seconds:
                break
        for task, future in waiting:
            records.add([outcome.record(task.key, workload_text(task.body)) for outcome in future.result()])
        print(f"{records.count()} records in {database}, {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
