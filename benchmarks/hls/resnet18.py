"""ResNet-18 for 224 x 224 images as a project for the U250: seconds, what it takes of it, C simulation of an image.

    python benchmarks/hls/resnet18.py [--part u250] [--scheme fixed8] [--json]

Weights are noise of He's scale (benchmarks/cost_model/networks.py), calibration images too: nothing here is accurate,
all of it is as large as the real one. The image is the project's golden vector, which the reference gave.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from targets.hls.simulation import csim

sys.path.insert(0, str(Path(__file__).parents[1] / "cost_model"))
from networks import NETWORKS

NAMES = ("LUT", "FF", "BRAM_18K", "URAM", "DSP")


def measure(part: str, scheme: str, samples: int, folder: Path) -> dict[str, Any]:
    model = NETWORKS["resnet18_224"]()
    onnx.save(model, folder / "resnet18.onnx")
    images = np.random.default_rng(0).standard_normal((samples, 1, 3, 224, 224)).astype(np.float32)
    np.savez(folder / "samples.npz", **{model.graph.input[0].name: images})
    out = folder / "project"
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "tensorc", "compile", folder / "resnet18.onnx", "--target", f"hls:{part}", "--quantize",
         scheme, "--calibration", folder / "samples.npz", "-o", out, "--json"], check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    generated = time.perf_counter()
    check = csim.check(out)
    simulated = time.perf_counter()
    report = json.loads((out / "report.json").read_text())["CSynthesisReport"]
    return {
        "part": part, "scheme": scheme, "generate_seconds": generated - start, "latency": report["BestLatency"],
        "interval": report["IntervalMin"], "clock_ns": report["TargetClockPeriod"],
        "used": {name: report[name] for name in NAMES},
        "available": {name: report[f"Available{name}"] for name in NAMES},
        "fits": all(report[name] <= report[f"Available{name}"] for name in NAMES),
        "images": check.images, "wrong": check.mismatches, "simulate_seconds": simulated - generated,
        "megabytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6,
    }  # fmt: skip


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--part", default="u250")
@click.option("--scheme", default="fixed8")
@click.option("--samples", default=4, help="Images to calibrate with.")
@click.option("--json", "as_json", is_flag=True)
def main(part: str, scheme: str, samples: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        row = measure(part, scheme, samples, Path(folder))
    if as_json:
        print(json.dumps(row))
        return
    table = Table("ResNet-18", f"{row['scheme']} on {row['part']}")
    table.add_row("generated in", f"{row['generate_seconds']:.0f} s, {row['megabytes']:.0f} MB")
    for name, count in row["used"].items():
        available = row["available"][name]
        table.add_row(name, f"{count:,} of {available:,} ({count / max(available, 1):.1%})")
    table.add_row("fits", "yes" if row["fits"] else "NO")
    table.add_row("latency", f"{row['latency']:,} cycles, {row['latency'] * row['clock_ns'] / 1e6:.2f} ms")
    table.add_row("interval", f"{row['interval']:,} cycles, {1e9 / row['interval'] / row['clock_ns']:,.0f} images a s")
    table.add_row("C simulation", f"{row['images']} image(s), {row['wrong'] or 'none'} wrong, "
                                  f"{row['simulate_seconds']:.0f} s")  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
