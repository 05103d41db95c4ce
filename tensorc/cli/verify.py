"""`tensorc verify`: a compiled model's outputs against ONNX Runtime's, on seeded random inputs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from tensorc.cli.console import print_json, print_table
from tensorc.cli.folder import verify_folder
from tensorc.cli.options import (
    EXISTING,
    Shape,
    json_option,
    model_argument,
    reference_option,
    seed_option,
    shape_option,
    target_option,
    threads_option,
)
from tensorc.cli.subject import is_free, opened_subject
from tensorc.driver import QUANTIZED
from tensorc.errors import UserError
from tensorc.quantization.data import Samples
from tensorc.runtime.model import load
from tensorc.verification import (
    ATOL,
    ROUNDED_ALIKE,
    RTOL,
    Verdict,
    check_all,
    check_quantized,
    note_constants,
    reference_outputs,
    rounds_itself,
    tolerance_of,
    wanted_decibels,
)

#: Random inputs that a quantized model's noise is measured on.
_FEEDS = 8


@click.command()
@model_argument("MODEL.onnx|OUT.tcm|DIR", folders=True)
@reference_option
@click.option("--rtol", type=click.FloatRange(min=0), default=RTOL, show_default=True,
              help="Error allowed, relative to each element.")  # fmt: skip
@click.option("--atol", type=click.FloatRange(min=0),
              help=f"Error allowed, relative to the largest element of each output. Default: {ATOL:g}; of lower "
              "precisions, 16 of their roundings.")  # fmt: skip
@target_option
@shape_option
@threads_option
@seed_option
@click.option("--samples", type=EXISTING, metavar="DATA.npz",
              help="Compare on these, as of --calibration, not on random inputs.")  # fmt: skip
@click.option("--min-snr", type=float, metavar="DB",
              help="Signal-to-noise ratio that outputs of a quantized model must have. Default: 10 less than were "
              "measured when it was compiled; 20 for a model that rounds to bytes itself.")  # fmt: skip
@json_option
def verify(
    model: Path,
    reference: Path | None,
    rtol: float,
    atol: float | None,
    target: str | None,
    shapes: dict[str, Shape],
    threads: int,
    seed: int,
    samples: Path | None,
    min_snr: float | None,
    as_json: bool,
) -> int:
    """Check a compiled model against ONNX Runtime, or a project in a folder by simulation. Exit code 1 if it is wrong.

    A model that is quantized is judged by the noise in its outputs.
    """
    if model.is_dir():
        return verify_folder(model, reference, samples, as_json)
    with opened_subject(model, reference, target, shapes, threads) as subject:
        if subject.reference is None:
            raise UserError(f"{model} does not hold its ONNX model: name it with --model MODEL.onnx")
        quantized = subject.manifest.get(QUANTIZED)
        by_noise = quantized is not None or rounds_itself(subject.reference)
        if samples is not None:
            if is_free(subject.manifest):
                raise UserError(f"--samples is for a model of one shape; {model} has several")
            feeds = list(Samples.read(samples, subject.manifest["inputs"]).feeds)
        else:
            # Noise is a matter of many samples; the last feed tells whether the outputs depend on the inputs.
            count = _FEEDS if by_noise else 2
            feeds = [subject.random_inputs(seed + number) for number in range(count)]
        want = reference_outputs(subject.reference, *feeds)
        with load(subject.artifact, threads) as loaded:
            names = [info.name for info in loaded.get_outputs()]
            # Where numbers are to be the same, one random input is enough.
            judged = feeds if by_noise or samples is not None else feeds[:1]
            got = [dict(zip(names, loaded.run(None, feed), strict=True)) for feed in judged]
    if not by_noise:
        precision = subject.manifest.get("precision", "float32")
        verdict = check_all(got, want, rtol, tolerance_of(precision) if atol is None else atol)
    elif quantized is None:
        verdict = check_quantized(got, want, ROUNDED_ALIKE if min_snr is None else min_snr)
    else:
        measured = quantized.get("accuracy", {}).get("outputs", {}).get("snr_db")
        verdict = check_quantized(got, want, wanted_decibels(measured) if min_snr is None else min_snr)
    if feeds[0] and len(want) > 1:
        verdict = note_constants(verdict, want[0], want[-1])
    if as_json:
        numbers = {key: getattr(verdict, key) for key in ("ok", "max_abs_error", "max_rel_error", "cosine")}
        print_json({**numbers, "outputs": {name: asdict(check) for name, check in verdict.outputs.items()}})
    else:
        _print_verdict(model, verdict)
        if quantized is not None and samples is None and not verdict.ok:
            click.echo(
                "The inputs were random, as large as the samples on the whole; --samples DATA.npz has true ones."
            )
    return 0 if verdict.ok else 1


def _print_verdict(model: Path, verdict: Verdict) -> None:
    title = f"{model}: {'agrees' if verdict.ok else 'DOES NOT AGREE'} with ONNX Runtime"
    columns = ("output", "verdict", "max abs error", "max rel error", "cosine", "")
    print_table(title, columns, [
        (name, "ok" if check.ok else "differs",
         f"{check.max_abs_error:.3g}", f"{check.max_rel_error:.3g}", f"{check.cosine:.9f}", check.note)
        for name, check in verdict.outputs.items()
    ])  # fmt: skip
