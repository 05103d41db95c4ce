"""`tensorc verify`: a compiled model's outputs against ONNX Runtime's, on seeded random inputs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from tensorc.cli.console import print_json, print_table
from tensorc.cli.options import (
    Shape,
    json_option,
    model_argument,
    reference_option,
    seed_option,
    shape_option,
    target_option,
    threads_option,
)
from tensorc.cli.subject import opened_subject
from tensorc.errors import UserError
from tensorc.runtime.model import load
from tensorc.verification import ATOL, RTOL, Verdict, check_outputs, note_constants, reference_outputs


@click.command()
@model_argument("MODEL.onnx|OUT.tcm")
@reference_option
@click.option("--rtol", type=click.FloatRange(min=0), default=RTOL, show_default=True,
              help="Error allowed, relative to each element.")  # fmt: skip
@click.option("--atol", type=click.FloatRange(min=0), default=ATOL, show_default=True,
              help="Error allowed, relative to the largest element of each output.")  # fmt: skip
@target_option
@shape_option
@threads_option
@seed_option
@json_option
def verify(
    model: Path,
    reference: Path | None,
    rtol: float,
    atol: float,
    target: str | None,
    shapes: dict[str, Shape],
    threads: int,
    seed: int,
    as_json: bool,
) -> int:
    """Check a compiled model against ONNX Runtime. Exit code 1 if they differ."""
    with opened_subject(model, reference, target, shapes, threads) as subject:
        if subject.reference is None:
            raise UserError(f"{model} does not hold its ONNX model: name it with --model MODEL.onnx")
        inputs = subject.random_inputs(seed)
        want, other = reference_outputs(subject.reference, inputs, subject.random_inputs(seed + 1))
        with load(subject.artifact, threads) as loaded:
            names = [info.name for info in loaded.get_outputs()]
            got = dict(zip(names, loaded.run(None, inputs), strict=True))
    verdict = check_outputs(got, want, rtol, atol)
    if inputs:
        verdict = note_constants(verdict, want, other)
    if as_json:
        numbers = {key: getattr(verdict, key) for key in ("ok", "max_abs_error", "max_rel_error", "cosine")}
        print_json({**numbers, "outputs": {name: asdict(check) for name, check in verdict.outputs.items()}})
    else:
        _print_verdict(model, verdict)
    return 0 if verdict.ok else 1


def _print_verdict(model: Path, verdict: Verdict) -> None:
    title = f"{model}: {'agrees' if verdict.ok else 'DOES NOT AGREE'} with ONNX Runtime"
    columns = ("output", "verdict", "max abs error", "max rel error", "cosine", "")
    print_table(title, columns, [
        (name, "ok" if check.ok else "differs",
         f"{check.max_abs_error:.3g}", f"{check.max_rel_error:.3g}", f"{check.cosine:.9f}", check.note)
        for name, check in verdict.outputs.items()
    ])  # fmt: skip
