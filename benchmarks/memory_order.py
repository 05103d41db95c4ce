"""The order of operators: what it does to the peak of activation memory, and how far from the best it can be.

For each model the bytes held at the peak in the order that the model has and in the one that is chosen, what no order
is below, the arena of the plan that is made for it, and the seconds that the choice and the plan take.

    python benchmarks/memory_order.py                              the light models, random-wired ones
    python benchmarks/memory_order.py model.onnx random_wired_7 --json out.json
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from fused_graphs import DEFAULTS, fused
from rich.console import Console
from rich.table import Table

from passes.memory import OrderNodes, plan_memory
from passes.memory.dataflow import peak_of
from passes.memory.order import dataflow
from passes.memory.ordering import best_ordering
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
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all numbers here.")
def main(models: tuple[str, ...], out: Path | None) -> None:
    table = Table(title="activation memory, KiB")
    columns = ("model", "steps", "peak as given", "peak", "lower bound", "arena as given", "arena", "above bound",
               "s order", "s plan")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    rows = []
    for name in models or DEFAULTS:
        row = measure(Path(name).stem, fused(name))
        rows.append(row)
        kib = [f"{row[key] / 1024:.0f}" for key in
               ("given_bytes", "peak_bytes", "lower_bound", "given_arena_bytes", "arena_bytes")]  # fmt: skip
        gap = row["arena_bytes"] / row["lower_bound"] - 1 if row["lower_bound"] else 0.0
        table.add_row(row["model"], str(row["steps"]), *kib, f"{gap:.1%}",
                      f"{row['order_seconds']:.2f}", f"{row['plan_seconds']:.2f}")  # fmt: skip
    Console(width=140).print(table)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
