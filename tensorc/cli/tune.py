"""`tensorc tune`: search for better schedules of a model's kernels, and keep them for later compilations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tensorc.cli.console import duration, print_json, print_table, progress_bar
from tensorc.cli.options import (
    Shape,
    compile_options,
    database_option,
    json_option,
    model_argument,
    numerics_option,
    parse_budget,
    seed_option,
    shape_option,
    target_option,
    threads_option,
)
from tensorc.cli.tuning import tuning_watch
from tensorc.driver import tune_model
from tensorc.options import Numerics
from tensorc.search.budget import Budget

if TYPE_CHECKING:
    from tensorc.search.tasks import Task
    from tensorc.search.tuner import TuningResult


@click.command("tune")
@model_argument("MODEL.onnx")
@target_option
@click.option("--budget", callback=parse_budget, default="60s", show_default=True, metavar="60s|200",
              help="How long to search: a time or a number of trials.")  # fmt: skip
@database_option
@numerics_option
@shape_option
@threads_option
@seed_option
@json_option
def tune(
    model: Path,
    target: str | None,
    budget: Budget,
    database: Path | None,
    numerics: Numerics,
    shapes: dict[str, Shape],
    threads: int,
    seed: int,
    as_json: bool,
) -> int:
    """Search for better schedules; `tensorc compile` finds them afterwards. May be stopped and started again."""
    options = replace(compile_options(target, shapes, threads), database=database, numerics=numerics)
    with progress_bar() as watch:
        result = tune_model(model, options, budget, seed=seed, progress=watch, watch=tuning_watch(watch, budget))
    if as_json:
        print_json(_summary(model, options.target, result))
    else:
        _print_summary(model, result)
    return 0


def _summary(model: Path, target: str, result: TuningResult) -> dict[str, Any]:
    return {
        "model": str(model),
        "target": target,
        "stopped": result.stopped,
        "trials": result.trials,
        "seconds": result.seconds,
        "history": [vars(progress) for progress in result.history],
        "tasks": [_task_row(task) for task in result.tasks],
    }


def _task_row(task: Task) -> dict[str, Any]:
    default, best = task.default, task.best
    return {
        "workload": task.key.workload,
        "label": task.label,
        "count": task.count,
        "trials": len(task.measured),
        "failures": sum(not outcome.ok for outcome in task.measured.values()),
        "default_seconds": default.median if default else None,
        "best_seconds": best.median if best else None,
        "schedule": best.schedule if best else None,
    }


def _print_summary(model: Path, result: TuningResult) -> None:
    rows = []
    for task in sorted(result.tasks, key=lambda task: -task.seconds):
        row = _task_row(task)
        before, after = row["default_seconds"], row["best_seconds"]
        rows.append((
            f"{task.label} x{task.count}",
            "-" if before is None else duration(before),
            "-" if after is None else duration(after),
            "-" if before is None or after is None else f"{before / after:.2f}x",
            str(row["trials"]) + (f" ({row['failures']} failed)" if row["failures"] else ""),
            " ".join(f"{name}={value}" for name, value in (row["schedule"] or {}).items()),
        ))  # fmt: skip
    print_table(f"{model.name}: {result.trials} trials in {duration(result.seconds)}, stopped: {result.stopped}",
                ("workload", "by rule", "best", "gain", "trials", "schedule"), rows)  # fmt: skip
