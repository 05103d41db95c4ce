"""What quantization costs, in a file: JSON, or one HTML page that needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from tensorc.cli.console import duration
from tensorc.driver import QUANTIZED
from tensorc.errors import UserError
from tensorc.quantization.scheme import Quantization
from tensorc.runtime.artifact import replaced_file

_TEMPLATE = Path(__file__).with_suffix(".html")
_COLUMNS = ("layer", "operator", "computed in", "why", "SNR alone", "SNR in the model", "float32, predicted",
            "quantized, predicted", "")  # fmt: skip
_FACTS = ("scheme", "bits", "accuracy")
#: Noise of so many decibels and less has the longest bar, of so many and more none.
_LOUD, _QUIET = 0.0, 60.0


def check_report(path: Path, quantize: Quantization | None) -> None:
    """Before the work. Raises UserError where there would be nothing to report, or no such report."""
    if path.suffix not in (".json", ".html"):
        raise UserError(f"--accuracy-report {path}: its name must end in .json or .html")
    if quantize is None:
        raise UserError("--accuracy-report is for --quantize")
    if not quantize.has_samples:
        raise UserError("--accuracy-report: an accuracy is measured on samples: --evaluate DATA.npz has them")


def write_report(path: Path, manifest: Mapping[str, Any]) -> None:
    """Whole or not at all. Raises UserError."""
    found = manifest[QUANTIZED]
    with replaced_file(path) as file:
        if path.suffix == ".json":
            facts = {"model": manifest["name"], **{key: found[key] for key in _FACTS if key in found}}
            file.write(json.dumps(facts, indent=1, allow_nan=False).encode() + b"\n")
        else:
            file.write(render(manifest["name"], found).encode())


def render(model: str, quantized: Mapping[str, Any]) -> str:
    """The page."""
    found = quantized["accuracy"]
    outputs = found["outputs"]
    facts = [
        ("scheme", quantized["scheme"]),
        ("samples", str(found["samples"])),
        ("outputs", f"SNR {_decibels(outputs['snr_db'])}, largest error {_number(outputs['max_rel_error'])} of the "
         f"largest output, cosine {_number(outputs['cosine'])}"),
    ]  # fmt: skip
    quality = found["quality"]
    if quality is not None:
        facts.append((quality["name"], f"{quality['quantized']:.4g}, of float32 {quality['exact']:.4g}"))
    if found["max_accuracy_drop"] is not None:
        facts.append(("allowed drop", f"{found['max_accuracy_drop']:.4g}"))
    bits = quantized.get("bits", {})
    facts += [
        (f"bits of {kind}", ", ".join(f"{name} {width}" for name, width in bits[kind].items()))
        for kind in ("values", "weights") if kind in bits
    ]  # fmt: skip
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(model),
        summary="\n".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in facts),
        layers="\n".join(_rows(found["layers"])),
    )


def _rows(layers: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "<tr>" + "".join(f"<th>{escape(column)}</th>" for column in _COLUMNS) + "</tr>"
    for row in layers:
        seconds = row["predicted_seconds"]
        cells = (
            row["op"], "quantized" if row["quantized"] else "float32", row["why"], _decibels(row["snr_db_alone"]),
            _decibels(row["snr_db"]), *(_seconds(seconds[key]) for key in ("float32", "quantized")),
        )  # fmt: skip
        noise = _QUIET if row["snr_db"] is None else min(max(row["snr_db"], _LOUD), _QUIET)
        part = f"{(_QUIET - noise) / (_QUIET - _LOUD):.0%}"
        yield (
            f'<tr><td class="name">{escape(row["layer"])}</td>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + f'<td class="noise" style="--part: {part}"></td></tr>'
        )


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else duration(value)
