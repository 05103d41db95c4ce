"""What commands print: JSON, tables, progress. Results go to standard output, progress to standard error.

rich is imported when something is drawn, so that `--json` in a pipe does without it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tensorc.driver import Watch


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output. JSON has no NaN or infinity: they become null."""
    print(json.dumps(_finite(value), allow_nan=False, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; without column names a list of label and value."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD if columns else None, show_header=bool(columns))
    for column in columns or [""] * max(map(len, rows), default=0):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: names may hold what rich takes for markup
    # In a pipe there is no width to fit: lines stay whole for grep.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 500, highlight=False).print(table)


@contextmanager
def progress_bar(enabled: bool = True) -> Iterator[Watch]:
    """A bar on standard error, if that is a terminal; else silence."""
    if not (enabled and sys.stderr.isatty()):
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.fields[phase]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, phase="")

        def watch(phase: str, done: int, total: int, name: str) -> None:
            bar.update(task, phase=phase, completed=done, total=total or None, description=name)

        yield watch


def duration(seconds: float) -> str:
    """Seconds for a person: 0.42 us, 850 us, 12.3 ms, 4.56 s."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.{0 if seconds >= 1e-5 else 2}f} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def tensor(row: dict[str, Any]) -> str:
    """float32[1,3,224,224], of a manifest's row; ? for a free axis, ... for a free rank."""
    shape = row["shape"]
    axes = "..." if shape is None else ",".join("?" if axis is None else str(axis) for axis in shape)
    return f"{row['dtype']}[{axes}]"
