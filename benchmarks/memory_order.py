"""The order of operators: what it does to the peak of activation memory, and how far from the best it can be.

For each model the bytes held at the peak in the order that the model has and in the one that is chosen, what no order
is below, the arena of the plan that is made for it, and the seconds that the choice and the plan take; with --against,
the arena that another engine plans for the same file, "-" where it does not say.

    python benchmarks/memory_order.py                              the light models, random-wired ones
    python benchmarks/memory_order.py model.onnx random_wired_7 --against onnxruntime --against tvm --json out.json
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import onnx
from fused_graphs import DEFAULTS, fused, onnx_file
from planned_arenas import ENGINES, planned_arena
from rich.console import Console
from rich.progress import track
from rich.table import Table

from passes.memory import OrderNodes, plan_memory
from passes.memory.dataflow import peak_of
from passes.memory.order import dataflow
from passes.memory.ordering import best_ordering
from tensorc.cli.options import shape_option
from tensorc.ir import Graph


def measure(name: str, graph: Graph) -> dict[str, Any]:
    flow, _ = dataflow(graph)
    before = plan_memory(graph).arena_bytes
    start = time.perf_counter()
    best = best_ordering(flow)
    ordered = time.perf_counter()
    OrderNodes().run(graph)
    planning = time.perf_counter()
    plan = plan_memory(graph)
    return {
        "model": name,
        "steps": len(flow),
        "given_bytes": peak_of(flow),
        "peak_bytes": best.peak,
        "lower_bound": best.lower_bound,
        "given_arena_bytes": before,
        "arena_bytes": plan.arena_bytes,
        "order_seconds": ordered - start,
        "plan_seconds": time.perf_counter() - planning,
    }


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.argument("models", nargs=-1)
@shape_option
@click.option("--against", multiple=True, type=click.Choice(sorted(ENGINES)), help="An engine to compare with.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all numbers here.")
def main(models: tuple[str, ...], shapes: dict[str, Sequence[int]], against: tuple[str, ...], out: Path | None) -> None:
    table = Table(title="activation memory, KiB")
    columns = ("model", "steps", "peak as given", "peak", "lower bound", "arena as given", "arena", "above bound",
               *against, "s order", "s plan")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    rows = []
    for name in track(models or DEFAULTS, console=Console(stderr=True), transient=True):
        with tempfile.TemporaryDirectory() as folder:
            path = onnx_file(name, Path(folder))
            given = {value: shapes[value] for value in _free(path) if value in shapes}
            row = measure(path.stem, fused(path, given))
            row["planned"] = {engine: planned_arena(engine, path, given) for engine in against}
        rows.append(row)
        gap = row["arena_bytes"] / row["lower_bound"] - 1 if row["lower_bound"] else 0.0
        table.add_row(row["model"], str(row["steps"]), *(_kib(row[key]) for key in
                      ("given_bytes", "peak_bytes", "lower_bound", "given_arena_bytes", "arena_bytes")), f"{gap:.1%}",
                      *(_kib(planned.get("bytes")) for planned in row["planned"].values()),
                      f"{row['order_seconds']:.2f}", f"{row['plan_seconds']:.2f}")  # fmt: skip
    Console(width=140).print(table)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1))


def _free(path: Path) -> list[str]:
    """The inputs that have free axes."""
    inputs = onnx.load(path, load_external_data=False).graph.input
    return [value.name for value in inputs if any(axis.dim_param for axis in value.type.tensor_type.shape.dim)]


def _kib(size: int | None) -> str:
    return "-" if size is None else f"{size / 1024:.0f}"


if __name__ == "__main__":
    main()
