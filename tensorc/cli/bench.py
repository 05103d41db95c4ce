"""`tensorc bench`: a compiled model's speed, beside other engines'."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path

import click

from tensorc.benchmark import ENGINES, TOLERABLE, Failure, OtherLoad, Result, Timing, compare, speedups
from tensorc.cli.console import print_json, print_table, progress_bar
from tensorc.cli.options import (
    Shape,
    json_option,
    model_argument,
    precision_option,
    reference_option,
    seed_option,
    shape_option,
    target_option,
    threads_option,
)
from tensorc.cli.subject import opened_subject
from tensorc.errors import UserError
from tensorc.options import Precision
from tensorc.runtime.model import load

OURS = "tensorc"


@click.command()
@model_argument("MODEL.onnx|OUT.tcm")
@click.option("--against", metavar="ENGINE,...",
              help="Engines to compare with: onnxruntime, openvino. Default: onnxruntime if the ONNX model is given, "
              "else none.")  # fmt: skip
@reference_option
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True,
              help="Time for each engine.")  # fmt: skip
@target_option
@shape_option
@threads_option
@precision_option
@seed_option
@json_option
def bench(
    model: Path,
    against: str | None,
    reference: Path | None,
    seconds: float,
    target: str | None,
    shapes: dict[str, Shape],
    threads: int,
    precision: Precision,
    seed: int,
    as_json: bool,
) -> int:
    """Time a model: engines take turns, warm, on the same inputs and threads, each in a process of its own."""
    rivals = None if against is None else _engines(against)
    with opened_subject(model, reference, target, shapes, threads, precision) as subject:
        if rivals is None:
            rivals = ["onnxruntime"] if subject.reference is not None else []
        models = {OURS: subject.artifact}
        for name in rivals:
            if subject.reference is None:
                raise UserError(f"{name} runs the ONNX model, which {model} does not hold: give --model MODEL.onnx")
            models[name] = subject.reference
        if not threads:
            with load(subject.artifact) as loaded:
                threads = loaded.threads  # the target's default: the others get as many
        inputs = subject.random_inputs(seed)
        with progress_bar() as watch, OtherLoad() as others:
            results = compare(
                models, inputs, threads, seconds, lambda done, total: watch("bench", done, total, " and ".join(models))
            )
    if as_json:
        print_json({
            "model": str(model),
            "target": subject.manifest["target"],
            "threads": threads,
            "precision": subject.manifest.get("precision", "float32"),
            "engines": {name: asdict(result) for name, result in results.items()},
            "speedup": speedups(results, OURS),
            "other_load": others.cores,
        })  # fmt: skip
    else:
        _print_results(f"{model}, {threads} thread{'s' * (threads != 1)}", results)
    if others.cores is not None and others.cores > TOLERABLE:
        text = f"other processes kept {others.cores:.1f} cores busy: these times are not to be trusted"
        click.echo(f"tensorc: warning: {text}", err=True)
    ours = results[OURS]
    if isinstance(ours, Failure):
        raise RuntimeError(f"the compiled model does not run: {ours.error}")
    return 0


def _engines(text: str) -> list[str]:
    """The engines of a comma-separated list, each known and installed; the empty text is none."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    legal = [name for name in ENGINES if name != OURS]
    for name in names:
        if name not in legal:
            raise UserError(f"--against: no engine {name!r}; engines: {', '.join(legal)}")
        _, module, extra = ENGINES[name]
        if importlib.util.find_spec(module) is None:
            package = f"tensorc[{extra}]" if extra else module
            raise UserError(f"--against: {name} is not installed: pip install '{package}'")
    return names


def _print_results(title: str, results: dict[str, Result]) -> None:
    ratios = speedups(results, OURS)
    rows = []
    for name, result in results.items():
        if isinstance(result, Timing):
            times = [f"{ms:.4g}" for ms in (result.median_ms, result.p10_ms, result.p90_ms)]
            rows.append((name, *times, str(result.runs), f"{ratios[name]:.2f}x" if name in ratios else "-"))
        else:
            rows.append((name, "failed", "-", "-", "-", result.error))
    print_table(title, ("engine", "median ms", "p10", "p90", "runs", "ours is faster by"), rows)
