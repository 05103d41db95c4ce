"""`tensorc compile`: an ONNX model to an artifact."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click

from tensorc.cli.accuracy_page import check_report, write_report
from tensorc.cli.console import duration, print_json, print_table, progress_bar, tensor
from tensorc.cli.options import (
    Shape,
    clock_option,
    compile_options,
    database_option,
    fallback_option,
    json_option,
    max_latency_option,
    memory_budget_option,
    model_argument,
    numerics_option,
    objective_option,
    parse_budget,
    precision_option,
    quantize_options,
    shape_option,
    target_option,
    threads_option,
)
from tensorc.cli.tuning import tuning_watch
from tensorc.driver import QUANTIZED, CompileReport, compile_model
from tensorc.options import Fallback, Numerics, Objective, Precision, format_bytes
from tensorc.quantization.scheme import Quantization
from tensorc.search.budget import Budget


@click.command("compile")
@model_argument("MODEL.onnx")
@target_option
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT.tcm",
              help="The file to write. Default: the model's name with .tcm, in the current folder.")  # fmt: skip
@shape_option
@threads_option
@click.option("--tune", callback=parse_budget, metavar="60s|200",
              help="Search for better schedules first, for so long or so many trials.")  # fmt: skip
@database_option
@numerics_option
@memory_budget_option
@fallback_option
@precision_option
@quantize_options
@objective_option
@clock_option
@max_latency_option
@click.option("--accuracy-report", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.json|OUT.html",
              help="What quantization costs, layer by layer.")  # fmt: skip
@click.option("--print-ir-after", multiple=True, metavar="PASS|all",
              help="Print the IR to standard error after a pass, or after `import`. Repeatable.")  # fmt: skip
@json_option
def compile_command(
    model: Path,
    target: str | None,
    output: Path | None,
    shapes: dict[str, Shape],
    threads: int,
    tune: Budget | None,
    database: Path | None,
    numerics: Numerics,
    memory_budget: int | None,
    fallback: Fallback,
    precision: Precision,
    quantize: Quantization | None,
    objective: Objective | None,
    clock: float | None,
    max_latency: int | None,
    accuracy_report: Path | None,
    print_ir_after: tuple[str, ...],
    as_json: bool,
) -> int:
    """Compile an ONNX model into one file that runs without the compiler."""
    if accuracy_report is not None:
        check_report(accuracy_report, quantize)
    options = replace(
        compile_options(target, shapes, threads),
        print_ir_after=frozenset(print_ir_after),
        tune=tune,
        database=database,
        numerics=numerics,
        fallback=fallback,
        precision=precision,
        quantize=quantize,
        memory_budget=memory_budget,
        objective=objective,
        clock=clock,
        max_latency=max_latency,
    )
    # The bar would redraw itself into the middle of the IR.
    with progress_bar(enabled=not print_ir_after) as watch:
        report = compile_model(model, options, output, watch, tuning_watch(watch, tune))
    quantized = report.manifest.get(QUANTIZED, {})
    if accuracy_report is not None:
        write_report(accuracy_report, report.manifest)
    if as_json:
        print_json({
            "model": str(model),
            "target": options.target,
            "output": str(report.output),
            "bytes": report.nbytes,
            "inputs": report.manifest["inputs"],
            "outputs": report.manifest["outputs"],
            "seconds": {**report.phases, "total": sum(report.phases.values())},
            "passes": [asdict(record) for record in report.passes],
            "summary": dict(report.manifest["summary"]),
            **{key: quantized[key] for key in ("bits", "accuracy") if key in quantized},
        })  # fmt: skip
    else:
        _print_summary(report)
    return 0


def _print_summary(report: CompileReport) -> None:
    manifest = report.manifest
    phases = " + ".join(f"{phase} {duration(seconds)}" for phase, seconds in report.phases.items())
    rows = [("target", manifest["target"])]
    rows += [(f"input {row['name']}", tensor(row)) for row in manifest["inputs"]]
    rows += [(f"output {row['name']}", tensor(row)) for row in manifest["outputs"]]
    rows += [(label, value) for label, value in manifest["summary"]]
    rows += [("time", f"{duration(sum(report.phases.values()))} = {phases}")]
    rows += [("written", f"{report.output} ({format_bytes(report.nbytes)})")]
    print_table(manifest["name"], (), rows)
