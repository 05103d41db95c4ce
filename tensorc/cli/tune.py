"""`tensorc tune`: search for better schedules of a model's kernels, and keep them for later compilations."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tensorc.batch.job import Job, read_jobs
from tensorc.cli.batch import print_batch, print_batch_json, run_batch
from tensorc.cli.bundle import DEFAULT_TRIALS, export, import_results
from tensorc.cli.console import duration, print_json, print_table, progress_bar
from tensorc.cli.options import (
    EXISTING,
    Shape,
    compile_options,
    database_option,
    json_option,
    numerics_option,
    parse_budget,
    precision_option,
    seed_option,
    shape_option,
    target_option,
    threads_option,
)
from tensorc.cli.plot import check_plot, plot_histories
from tensorc.cli.tuning import tuning_watch
from tensorc.driver import tune_model
from tensorc.options import Numerics, Precision
from tensorc.search.budget import Budget

if TYPE_CHECKING:
    from tensorc.search.tasks import Task
    from tensorc.search.tuner import TuningResult


@click.command("tune")
@click.argument("source", type=EXISTING, metavar="MODEL.onnx|JOBS.toml", required=False)
@target_option
@click.option("--budget", callback=parse_budget, default="60s", show_default=True, metavar="60s|200",
              help="How long to search: a time or a number of trials.")  # fmt: skip
@database_option
@numerics_option
@precision_option
@shape_option
@threads_option
@seed_option
@click.option("--cluster", type=click.Choice(["ray"]), help="Run on the machines of a cluster.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg",
              help="Draw latency against trials and seconds.")  # fmt: skip
@click.option("--export-bundle", "bundle", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Build candidates into a folder, to be measured elsewhere by `python DIR/measure.py`.")  # fmt: skip
@click.option("--import-results", "measured", type=click.Path(exists=True, file_okay=False, path_type=Path),
              metavar="DIR", help="Take in what was measured of a bundle.")  # fmt: skip
@json_option
@click.pass_context
def tune(
    context: click.Context,
    source: Path | None,
    target: str | None,
    budget: Budget,
    database: Path | None,
    numerics: Numerics,
    precision: Precision,
    shapes: dict[str, Shape],
    threads: int,
    seed: int,
    cluster: str | None,
    plot: Path | None,
    bundle: Path | None,
    measured: Path | None,
    as_json: bool,
) -> int:
    """Search for better schedules; `tensorc compile` finds them afterwards. May be stopped and started again.

    JOBS.toml lists many searches: [[job]] tables of model, target, shape, threads, numerics, precision, budget and
    seed, whose lists multiply, and [defaults].
    """
    options = replace(
        compile_options(target, shapes, threads), database=database, numerics=numerics, precision=precision
    )
    if measured is not None:
        _refuse(context, "--import-results", {"source", "budget", "shapes", "seed", "cluster", "plot", "bundle"})
        import_results(measured, options, as_json)
        return 0
    if source is None:
        raise click.UsageError("Missing argument 'MODEL.onnx|JOBS.toml'.", context)
    if plot is not None:
        check_plot(plot)
    if bundle is not None:
        _refuse(context, "--export-bundle", {"cluster", "plot"})
        if not _given(context, "budget"):
            budget = Budget(trials=DEFAULT_TRIALS)
        export(bundle, source, options, budget, seed, as_json)
        return 0
    if source.suffix == ".toml" or cluster is not None:
        if source.suffix == ".toml":
            _refuse(context, str(source), {"target", "budget", "numerics", "precision", "shapes", "threads", "seed"})
            jobs = read_jobs(source)
        else:
            jobs = [Job(source, options.target, shapes, threads, numerics, budget, seed, precision)]
        results = run_batch(jobs, database, cluster)
        print_batch_json(results) if as_json else print_batch(results)
        histories = [(result.job.label, result.history) for result in results]
        code = 0 if all(result.ok for result in results) else 1
    else:
        with progress_bar() as watch:
            result = tune_model(source, options, budget, seed=seed, progress=watch, watch=tuning_watch(watch, budget))
        print_json(_summary(source, options.target, result)) if as_json else _print_summary(source, result)
        histories, code = [(source.stem, result.history)], 0
    if plot is not None:
        plot_histories(plot, histories)
    return code


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _refuse(context: click.Context, instead: str, names: Set[str]) -> None:
    """Options that say nothing beside `instead` are a mistake, not to be passed over."""
    for parameter in context.command.params:
        if parameter.name in names and _given(context, str(parameter.name)):
            raise click.UsageError(f"{parameter.opts[0]} does not go with {instead}", context)


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
