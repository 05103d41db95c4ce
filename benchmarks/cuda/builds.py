"""What models become for NVIDIA GPUs, without one: seconds of compiling, size, and what the assembler says of kernels.

Each model is compiled by the command line in a process of its own, whose cache of kernels is empty. Kernels: how many,
and launches of a run; registers: the most that a thread of one has; shared: the most KiB of a block; spills: kernels
that keep registers in memory for want of them, those around products, convolutions and attention in parentheses.
"code" is what is in the artifact beside weights.

    python benchmarks/cuda/builds.py                                 the light models
    python benchmarks/cuda/builds.py model.onnx light_vgg19 --shape input_ids=1x64 --precision float16 --json out.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import onnx

sys.path.insert(0, str(Path(__file__).parents[1]))
from fused_graphs import onnx_file
from light_models import light_models
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tensorc.cli.options import shape_option
from tensorc.runtime.artifact import Artifact

_ANCHORS = ("matmul", "conv", "attention")
_COLUMNS = ("model", "target", "seconds", "kernels", "launches", "registers", "shared KiB", "spills", "code MiB")


def build(model: Path, target: str, precision: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Raises CalledProcessError where the command fails, whose `stderr` says why."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "model.tcm")
        command = [sys.executable, "-m", "tensorc", "compile", str(model), "--target", target, "--precision", precision,
                   "-o", str(out), *_free(model, shapes)]  # fmt: skip
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        start = time.perf_counter()
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        artifact = Artifact.open(out).manifest
        program, weights = artifact["program"], artifact["sections"]["constants"]["size"]
        kernels = program["kernels"]
        taken = {name: row["resources"] for name, row in kernels.items()}
        spilled = [name for name, row in taken.items() if row["spill_stores"]]
        return {
            "model": model.stem,
            "target": target,
            "precision": precision,
            "seconds": seconds,
            "kernels": len(kernels),
            "launches": sum(isinstance(step, list) for step in program["steps"]),
            "registers": max(row["registers"] for row in taken.values()),
            "shared": max(row["shared"] for row in taken.values()),
            "spilled": spilled,
            "anchors_spilled": [name for name in spilled if any(anchor in name for anchor in _ANCHORS)],
            "code_bytes": out.stat().st_size - weights,
        }


def _free(model: Path, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """`--shape` for the inputs that the model has."""
    names = {value.name for value in onnx.load(model, load_external_data=False).graph.input}
    return [
        word for name, shape in shapes.items() if name in names
        for word in ("--shape", f"{name}={'x'.join(map(str, shape))}")
    ]  # fmt: skip


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.argument("names", nargs=-1, metavar="[MODELS]...")
@click.option("--target", "targets", multiple=True, default=["cuda:sm_90"], show_default=True)
@click.option("--precision", default="float32", show_default=True)
@shape_option
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all numbers here.")
def main(names: tuple[str, ...], targets: tuple[str, ...], precision: str, shapes: dict[str, Sequence[int]],
         out: Path | None) -> None:  # fmt: skip
    table = Table(*_COLUMNS, title=f"{precision}, nothing in the cache")
    rows = []
    jobs = [(name, target) for name in names or [path.stem for path in light_models()] for target in targets]
    for name, target in track(jobs, console=Console(stderr=True), transient=True):
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = build(onnx_file(name, Path(folder)), target, precision, shapes)
            except subprocess.CalledProcessError as error:
                table.add_row(name, target, (error.stderr.strip().splitlines() or ["failed"])[-1])
                continue
        rows.append(row)
        table.add_row(
            row["model"], target, f"{row['seconds']:.1f}", str(row["kernels"]), str(row["launches"]),
            str(row["registers"]), f"{row['shared'] / 1024:.0f}",
            f"{len(row['spilled'])} ({len(row['anchors_spilled'])})", f"{row['code_bytes'] / 2**20:.1f}",
        )  # fmt: skip
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1))
    if len(rows) < len(jobs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
