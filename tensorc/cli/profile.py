"""`tensorc profile`: where a compiled model's time goes, kernel by kernel, and what holds each of them back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tensorc.benchmark import TOLERABLE, OtherLoad
from tensorc.cli.console import duration, print_json, print_table, progress_bar
from tensorc.cli.options import (
    Shape,
    json_option,
    model_argument,
    refuse_for_artifact,
    seed_option,
    shape_option,
    threads_option,
)
from tensorc.cli.profile_page import render
from tensorc.cli.profile_text import percent, prediction, rate, resources_text, schedule_text, summary
from tensorc.cli.subject import is_free
from tensorc.profiling import KernelRow, Profile, totals
from tensorc.runtime.artifact import replaced_file
from tensorc.runtime.model import load
from tensorc.sampling import Spec, random_inputs

_COLUMNS = (
    "kernel", "calls", "time", "share", "GFLOP/s", "GB/s", "attained", "bound by", "schedule", "origin",
    "predicted/measured",
)  # fmt: skip


#: Where the compiler says what kernels take.
_RESOURCES = ("registers", "spilled", "occupancy")


@click.command()
@model_argument("OUT.tcm")
@threads_option
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True,
              help="Time to run the model for.")  # fmt: skip
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Kernels to list one by one.")
@click.option("--report", type=click.Path(path_type=Path), metavar="OUT.html",
              help="Write all of it as one HTML page, with the roofline.")  # fmt: skip
@shape_option
@click.option("--measure-ceilings", is_flag=True, help="Measure again what this machine does at best.")
@seed_option
@json_option
def profile(
    model: Path, threads: int, seconds: float, top: int, report: Path | None, shapes: dict[str, Shape],
    measure_ceilings: bool, seed: int, as_json: bool,
) -> int:  # fmt: skip
    """Time the kernels of a compiled model, on random inputs, against what the machine does at best."""
    with load(model, threads) as loaded, progress_bar() as watch, OtherLoad() as others:
        refuse_for_artifact(model, None, {} if is_free(loaded.manifest) else shapes)
        inputs = loaded.bind(random_inputs(Spec.of_manifest(loaded.manifest["inputs"], shapes), seed))
        found = loaded.executable.profile(
            inputs, seconds, measure_ceilings, lambda done, total, name: watch("profile", done, total, name)
        )
        target = loaded.manifest["target"]
    if report is not None:
        with replaced_file(report) as file:
            file.write(render(str(model), target, found).encode())
    if as_json:
        facts = {"model": str(model), "target": target, "report": None if report is None else str(report)}
        print_json({**facts, **found.to_json(), "other_load": others.cores})
    else:
        _print(model, found, top)
        if report is not None:
            click.echo(f"written: {report}")
    if others.cores is not None and others.cores > TOLERABLE:
        text = f"other processes kept {others.cores:.1f} cores busy: these times are not to be trusted"
        click.echo(f"tensorc: warning: {text}", err=True)
    return 0


def _print(model: Path, found: Profile, top: int) -> None:
    rows = found.rows()
    listed, rest = rows[:top], rows[top:]
    columns = _COLUMNS + (_RESOURCES if any(row.facts.resources for row in rows) else ())
    table = [_cells(row)[: len(columns)] for row in listed]
    if rest:
        table.append(_others(rest)[: len(columns)])
    print_table(f"{model}, {found.threads} thread{'s' * (found.threads != 1)}", columns, table)
    print_table("", (), summary(found))


def _cells(row: KernelRow) -> tuple[str, ...]:
    return (
        row.kernel, str(row.calls), duration(row.seconds), percent(row.share), rate(row.flops_rate),
        rate(row.bytes_rate), percent(row.attained), row.bound, schedule_text(row.facts.schedule), row.facts.origin,
        prediction(row), *resources_text(row.facts.resources),
    )  # fmt: skip


def _others(rows: Sequence[KernelRow]) -> tuple[str, ...]:
    sums = totals(rows)
    return (
        f"{len(rows)} others", str(sums.calls), duration(sums.seconds), percent(sums.share), rate(sums.flops_rate),
        rate(sums.bytes_rate), percent(sums.attained), "", "", "", "", "", "", "",
    )  # fmt: skip
