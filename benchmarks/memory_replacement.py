"""Graphs in fast memories that are too small for them: COSMA's table.

For each model and each size of the fast memory, the bytes that are moved beyond the compulsory ones (each input and
weight read once, each output written once) by the exact solution, by divide and conquer, and by a cache that lets go of
what was least recently used; each solution has been replayed by the checker. The last column is what that cache would
move if there were room wherever there is enough in sum: the difference is what addresses save. Operators are the fused
groups of the CPU target. The size of the fast memory is given as a multiple of the smallest in which every operator has
room for all that it reads and writes.

    python benchmarks/memory_replacement.py                             the light models, random-wired ones
    python benchmarks/memory_replacement.py model.onnx random_wired_7 --memory 1.0 --memory 1.5 --json out.json
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from fused_graphs import DEFAULTS, fused, onnx_file
from rich.console import Console
from rich.table import Table

from passes.memory.replacement import Solved, divide_and_conquer, exact, greedy, problem_of
from passes.memory.replacement.cache import without_gaps
from tensorc.ir import Graph


def measure(name: str, graph: Graph, times: float, weights: bool, seconds: float) -> dict[str, Any]:
    problem = problem_of(graph, lambda smallest: int(smallest * times) // 64 * 64, weights)
    row: dict[str, Any] = {
        "model": name, "times": times, "operators": len(problem.operators), "weights": weights,
        "memory_bytes": problem.capacity, "compulsory_bytes": problem.compulsory,
    }  # fmt: skip
    ways: Mapping[str, Callable[..., Solved]] = {
        "exact": partial(exact, seconds=seconds), "divided": partial(divide_and_conquer, seconds=seconds),
        "greedy": greedy,
    }  # fmt: skip
    for way, solve in ways.items():
        start = time.perf_counter()
        solved = solve(problem)
        row[way] = {
            "extra_bytes": solved.extra,
            "lower_bound": solved.lower_bound,
            "seconds": time.perf_counter() - start,
        }
    row["without_gaps"] = {"extra_bytes": without_gaps(problem)}
    return row


def saved(rows: Sequence[Mapping[str, Any]], way: str, base: str = "greedy") -> float | None:
    """The mean of what `way` moves less than `base`, where that moves anything."""
    shares = [1 - r[way]["extra_bytes"] / r[base]["extra_bytes"] for r in rows if r[base]["extra_bytes"]]
    return fmean(shares) if shares else None


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="bytes moved beyond the compulsory ones, KiB")
    for column in ("model", "operators", "weights", "memory KiB", "x", "compulsory", "exact", "proven", "s",
                   "divided", "s", "greedy, LRU", "no gaps"):  # fmt: skip
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        best = row["exact"]
        proven = "yes" if best["extra_bytes"] == best["lower_bound"] else f">= {best['lower_bound'] // 1024}"
        table.add_row(
            row["model"], str(row["operators"]), "resident" if row["weights"] else "streamed",
            str(row["memory_bytes"] // 1024), f"{row['times']:g}", str(row["compulsory_bytes"] // 1024),
            str(best["extra_bytes"] // 1024), proven, f"{best['seconds']:.1f}",
            str(row["divided"]["extra_bytes"] // 1024), f"{row['divided']['seconds']:.1f}",
            str(row["greedy"]["extra_bytes"] // 1024),
            str(row["without_gaps"]["extra_bytes"] // 1024),
        )  # fmt: skip
    return table


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.argument("models", nargs=-1)
@click.option("--memory", "times", multiple=True, type=float, default=(1.0, 1.1, 1.25), show_default=True,
              help="Size of the fast memory, in the smallest that will do.")  # fmt: skip
@click.option("--weights", type=click.Choice(["resident", "streamed", "both"]), default="both", show_default=True,
              help="Whether weights take room in the fast memory while they are used.")  # fmt: skip
@click.option("--seconds", type=float, default=30.0, show_default=True, help="Limit of each solver.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all numbers here.")
def main(models: tuple[str, ...], times: tuple[float, ...], weights: str, seconds: float, out: Path | None) -> None:
    console = Console(stderr=True)
    rows = []
    for name in models or DEFAULTS:
        with tempfile.TemporaryDirectory() as folder:
            graph = fused(onnx_file(name, Path(folder)))
        for resident in (True, False):
            if weights in ("both", "resident" if resident else "streamed"):
                for factor in times:
                    rows.append(measure(Path(name).stem, graph, factor, resident, seconds))
                    console.print(f"{Path(name).stem}: {factor:g} done", highlight=False)
    wide = Console(width=150)
    wide.print(_table(rows))
    for way in ("exact", "divided"):
        for base, words in (("greedy", "greedy"), ("without_gaps", "greedy without gaps")):
            share = saved(rows, way, base)
            if share is not None:
                wide.print(f"{way}: {share:.1%} below {words} on the mean, where that moves anything")
    if out is not None:
        out.write_text(json.dumps({"rows": rows, **{way: saved(rows, way) for way in ("exact", "divided")}}, indent=1))


if __name__ == "__main__":
    main()
