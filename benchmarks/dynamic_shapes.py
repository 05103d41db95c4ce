"""A model with free shapes, run at shapes that it meets for the first time and again.

    python benchmarks/dynamic_shapes.py gpt2.onnx --shape input_ids=1x1 --shape input_ids=1x17 ...

For each shape: the seconds until the first result (which include compiling for that shape), the median milliseconds of
later runs, the same of a model compiled for that shape alone (both in turns, so that neighbours disturb both), the
largest error against ONNX Runtime relative to its largest output, and what memory the process holds by then.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import tensorc
from tensorc.errors import UserError
from tensorc.options import parse_shape
from tensorc.runtime.model import Model
from tensorc.sampling import Spec, random_inputs


def parse_shapes(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Each text may have several inputs, separated by commas: they belong together."""
    try:
        return [
            {name: parse_shape(dims) for name, _, dims in (part.rpartition("=") for part in text.split(","))}
            for text in texts
        ]
    except UserError as error:
        raise click.BadParameter(str(error)) from error


def anonymous_mib() -> float:
    """Memory of the process that is no file's."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


def timed(models: Sequence[Model], feed: dict[str, np.ndarray], seconds: float) -> list[float]:
    """Median milliseconds of each, in turns."""
    times: list[list[float]] = [[] for _ in models]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for model, own in zip(models, times, strict=True):
            begun = time.perf_counter()
            model.run(None, feed)
            own.append(1e3 * (time.perf_counter() - begun))
    return [statistics.median(own) for own in times]


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--shape", "shapes", multiple=True, required=True, callback=parse_shapes, metavar="NAME=1x8[,NAME=...]")
@click.option("--threads", default=0, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of timing for each shape.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows there.")
def main(model: Path, shapes: list[dict[str, Any]], threads: int, seconds: float, output: Path | None) -> None:
    """Run MODEL at the shapes, in order; print a table."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    begun = time.perf_counter()
    dynamic = tensorc.compile(model, threads=threads)
    Console(stderr=True).print(f"compiled, with no shape, in {time.perf_counter() - begun:.1f} s")
    rows = []
    for shape in shapes:
        specs = [
            Spec(info.name, info.dtype, tuple(shape.get(info.name) or info.shape)) for info in dynamic.get_inputs()
        ]
        feed = random_inputs(specs, 0)
        begun = time.perf_counter()
        got = dynamic.run(None, feed)
        first = time.perf_counter() - begun
        memory = anonymous_mib()
        want = session.run(None, feed)
        error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, want, strict=True))
        with tensorc.compile(model, shapes=shape, threads=threads) as static:
            again, alone = timed([dynamic, static], feed, seconds)
        text = ", ".join(f"{name} {'x'.join(map(str, dims))}" for name, dims in shape.items())
        rows.append({"shape": text, "first_s": first, "again_ms": again, "static_ms": alone, "error": error,
                     "anonymous_mib": memory})  # fmt: skip
    table = Table("shape", "first run s", "again ms", "static ms", "again/static", "error", "memory MiB")
    for row in rows:
        table.add_row(row["shape"], f"{row['first_s']:.2f}", f"{row['again_ms']:.2f}", f"{row['static_ms']:.2f}",
                      f"{row['again_ms'] / row['static_ms']:.2f}", f"{row['error']:.1e}",
                      f"{row['anonymous_mib']:.0f}")  # fmt: skip
    Console().print(table)
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
