"""How soon the search brings one matrix product near the peak of the machine, from an empty database.

    python benchmarks/matmul_search.py                          128x3072x768, 5 s, one thread, five runs
    python benchmarks/matmul_search.py --size 128x768x3072 --budget 30s --runs 3 --json out.json

Each run is `tensorc tune` in a fresh process, with the model that ships and a database of its own; its best schedule is
then compiled, and the product timed as a user of the compiled model meets it. The peak is that of multiply-adds in
registers, measured before and after each run, of which the higher counts: what others do on the machine only lowers it.
Seconds are those since the search began, with the start of its workers but without that of the process (imports and
reading the model), which stands beside them.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

import tensorc
from targets.cpu.ceilings import measure

#: Seconds of a search by which it is judged.
SOON = 5.0


def product(m: int, k: int, n: int, path: Path) -> Path:
    """An ONNX model of x[m, k] @ w[k, n] with a constant w."""
    weights = np.random.default_rng(0).standard_normal((k, n)).astype(np.float32) / np.float32(math.sqrt(k))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def run(model: Path, flops: int, budget: str, threads: int, folder: Path) -> dict[str, Any]:
    """One search, and what became of it; rates are in flops a second."""
    database = folder / "tuning.db"
    before = measure(threads).flops
    begun = time.perf_counter()
    command = ["tune", model, "--budget", budget, "--threads", threads, "--database", database, "--json"]
    done = subprocess.run([sys.executable, "-m", "tensorc", *map(str, command)], check=True, stdout=subprocess.PIPE)
    wall = time.perf_counter() - begun
    report = json.loads(done.stdout)
    peak = max(before, measure(threads).flops)
    (task,) = report["tasks"]
    return {
        "peak": peak,
        "wall_seconds": wall,
        "search_seconds": report["seconds"],
        "trials": report["trials"],
        "schedule": task["schedule"],
        "history": [
            {"seconds": row["seconds"], "trials": row["trials"], "share": flops / row["model_seconds"] / peak}
            for row in report["history"]
        ],
        "compiled_share": flops / compiled_seconds(model, threads, database) / peak,
    }


def compiled_seconds(model: Path, threads: int, database: Path) -> float:
    """The median of many calls of the compiled model."""
    compiled = tensorc.compile(model, threads=threads, database=database)
    x = {compiled.get_inputs()[0].name: np.ones(compiled.get_inputs()[0].shape, np.float32)}
    times = []
    for _ in range(300):
        begun = time.perf_counter()
        compiled.run(None, x)
        times.append(time.perf_counter() - begun)
    compiled.close()
    return statistics.median(times[50:])


def share_at(row: dict[str, Any], seconds: float) -> float:
    """What the best candidate known by then reaches of the peak."""
    return max((h["share"] for h in row["history"] if h["seconds"] <= seconds), default=0.0)


@click.command()
@click.option("--size", default="128x3072x768", show_default=True, help="MxKxN.")
@click.option("--budget", default="5s", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write everything here.")
def main(size: str, budget: str, threads: int, runs: int, out: Path | None) -> None:
    m, k, n = (int(part) for part in size.split("x"))
    rows = []
    table = Table(title=f"float32 product {size}, {threads} thread(s), --budget {budget}", title_justify="left")
    for column in ("peak GF/s", "first batch: s", "of peak", "90% after s", "at 5 s", "trials", "process s",
                   "compiled, of peak", "schedule"):  # fmt: skip
        table.add_column(column)
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            row = run(product(m, k, n, Path(folder, "product.onnx")), 2 * m * k * n, budget, threads, Path(folder))
        rows.append(row)
        first = row["history"][0]
        arrived = next((f"{h['seconds']:.2f}" for h in row["history"] if h["share"] >= 0.9), "never")
        table.add_row(
            f"{row['peak'] / 1e9:.0f}", f"{first['seconds']:.2f}", f"{first['share']:.1%}", arrived,
            f"{share_at(row, SOON):.1%}", str(row["trials"]), f"{row['wall_seconds']:.1f}",
            f"{row['compiled_share']:.1%}",
            " ".join(f"{name}={value}" for name, value in row["schedule"].items()),
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    shares = [share_at(row, SOON) for row in rows]
    compiled = [row["compiled_share"] for row in rows]
    console.print(f"median of {runs}: {statistics.median(shares):.1%} of the peak after {SOON:g} s by the search's own "
                  f"measure, {statistics.median(compiled):.1%} as compiled")  # fmt: skip
    if out is not None:
        out.write_text(json.dumps({"size": size, "threads": threads, "budget": budget, "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
