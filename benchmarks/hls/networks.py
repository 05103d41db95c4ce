"""Five networks as FPGA projects, through the whole chain: accuracy, and cycles and resources promised and found.

    python benchmarks/hls/networks.py [NAME]... [--part xczu7ev] [--objective resources] [--json]

Schemes are tried from the narrowest on; the first that loses at most a point of accuracy (of the autoencoder: that has
at least 20 dB) is compiled and verified. Both accuracies are of the held-out samples: of float32, and of the fixed
point that hardware equals bit for bit. From latency to BRAM18 a pair is what report.json promises / what was found: the
cycles of the simulated Verilog, DSP and BRAM18 of yosys. LUT and FF are yosys'. The objective is `resources` unless it
is said: yosys takes very long over designs that are unrolled for latency.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMES = ("fixed5", "fixed6", "fixed7", "fixed8", "fixed10", "fixed12", "fixed16")
#: Points of accuracy that may be lost, and decibels that suffice where there are no classes.
_POINT, _DECIBELS = 0.01, 20.0


@dataclass(frozen=True)
class Network:
    model: Path
    calibration: Path
    heldout: Path
    #: What the archive of held-out samples calls them, and what they are divided by.
    samples: str
    divisor: float = 1


def _of_fpga(name: str, samples: str) -> Network:
    folder = EXAMPLES / "fpga"
    return Network(folder / f"{name}.onnx", folder / f"{name}_calibration.npz", folder / f"{name}_heldout.npz", samples)


def _of_digits(name: str) -> Network:
    folder = EXAMPLES / "digits"
    return Network(folder / f"{name}.onnx", folder / "calibration.npz", folder / "heldout.npz", "images", 16)


NETWORKS = {
    "digits": _of_digits("digits"),
    "digits_transformer": _of_digits("digits_transformer"),
    "jets": _of_fpga("jets", "features"),
    "pulses": _of_fpga("pulses", "recorded"),
    "residual": _of_fpga("residual", "image"),
}


@dataclass
class Row:
    """Accuracies are shares of classes, or decibels of signal to noise against float32 where there are none."""

    network: str
    scheme: str
    images: int
    unit: str
    float32: float | None
    fixed: float
    tried: dict[str, float]
    promised: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    compile_seconds: float = 0.0
    verify_seconds: float = 0.0

    @property
    def equal(self) -> bool:
        return all(self.found[name] == count for name, count in self.promised.items())


def _samples(network: Network, folder: Path) -> tuple[Path, int, bool]:
    """A file of the held-out samples as `--evaluate` takes it, how many they are, and whether they have classes."""
    archive = np.load(network.heldout)
    images = np.asarray(archive[network.samples], np.float32) / np.float32(network.divisor)
    entry = onnxruntime.InferenceSession(str(network.model)).get_inputs()[0]
    rows = {entry.name: images.reshape(len(images), *entry.shape)}
    if "labels" in archive:
        rows["labels"] = archive["labels"]
    np.savez(folder / "samples.npz", **rows)
    return folder / "samples.npz", len(images), "labels" in archive


def _tensorc(*arguments: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tensorc", *map(str, arguments), "--json"], stdout=subprocess.PIPE, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _accuracy(network: Network, scheme: str, folder: Path) -> tuple[int, float | None, float]:
    """Samples, and the accuracies of float32 and of fixed point on them: by the target `c`, which is compiled at once
    and computes the same."""
    samples, count, has_classes = _samples(network, folder)
    made = _tensorc("compile", network.model, "--target", "c", "--quantize", scheme, "--calibration",
                    network.calibration, "--evaluate", samples, "-o", folder / "network.c")  # fmt: skip
    found = made["accuracy"]
    if has_classes:
        return count, found["quality"]["exact"], found["quality"]["quantized"]
    return count, None, found["outputs"]["snr_db"]


def measure(name: str, part: str, objective: str, schemes: tuple[str, ...]) -> Row:
    network = NETWORKS[name]
    tried: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for scheme in schemes:
            images, base, tried[scheme] = _accuracy(network, scheme, Path(folder))
            if tried[scheme] >= (_DECIBELS if base is None else base - _POINT - 1e-9):
                break
    row = Row(name, scheme, images, "dB" if base is None else "", base, tried[scheme], tried)
    with tempfile.TemporaryDirectory() as made:
        out = Path(made, name)
        start = time.perf_counter()
        _tensorc("compile", network.model, "--target", f"hls:{part}", "--objective", objective, "--quantize", scheme,
                 "--calibration", network.calibration, "-o", out)  # fmt: skip
        row.compile_seconds = time.perf_counter() - start
        verified = _tensorc("verify", out, "--model", network.model)
        row.verify_seconds = time.perf_counter() - start - row.compile_seconds
    row.checks = {check: found["ok"] for check, found in verified["checks"].items()}
    cycles, used = verified["checks"]["Verilog"], verified["checks"]["synthesis"]
    row.promised = {**cycles["promised"], **used["promised"]}
    row.found = {key: cycles.get(key, used.get(key)) for key in row.promised}
    row.found |= {key: used[key] for key in ("lut", "ff")}
    return row


def _share(row: Row, number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.1f} dB" if row.unit else f"{number:.1%}"


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)))
@click.option("--part", default="xczu7ev")
@click.option("--objective", default="resources")
@click.option("--scheme", "schemes", multiple=True, help=f"Repeatable. Default: {', '.join(SCHEMES)}.")
@click.option("--json", "as_json", is_flag=True)
def main(names: tuple[str, ...], part: str, objective: str, schemes: tuple[str, ...], as_json: bool) -> None:
    rows = [measure(name, part, objective, schemes or SCHEMES) for name in names or NETWORKS]
    if as_json:
        print(json.dumps([{**asdict(row), "equal": row.equal} for row in rows]))
        return
    table = Table("network", "scheme", "float32", "fixed point", "latency", "interval", "DSP", "BRAM18", "equal", "LUT",
                  "FF", "chain", "compile, s", "verify, s")  # fmt: skip
    for row in rows:
        table.add_row(
            row.network, row.scheme, _share(row, row.float32), _share(row, row.fixed),
            *(f"{row.promised[key]:,} / {row.found[key]:,}" for key in ("latency", "interval", "dsp", "bram18")),
            "yes" if row.equal else "NO", f"{row.found['lut']:,}", f"{row.found['ff']:,}",
            "passed" if all(row.checks.values()) else ", ".join(key for key, ok in row.checks.items() if not ok),
            f"{row.compile_seconds:.0f}", f"{row.verify_seconds:.0f}",
        )  # fmt: skip
    console = Console(width=180)
    console.print(table)
    for row in rows:
        tried = ", ".join(f"{scheme} {_share(row, number)}" for scheme, number in row.tried.items())
        console.print(f"{row.network}: {tried}")


if __name__ == "__main__":
    main()
