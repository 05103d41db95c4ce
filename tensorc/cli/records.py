"""`tensorc records`: what the tuning database holds, and how it is shared."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from tensorc.cli.console import print_json, print_table
from tensorc.cli.options import EXISTING, database_option, json_option
from tensorc.search.database import Database


@click.group("records")
def records() -> None:
    """Show, export and import tuning records."""


@records.command("show")
@database_option
@json_option
def show(database: Path | None, as_json: bool) -> None:
    """Count records by machine, compiler and threads."""
    counts: Counter[tuple[str, str, int]] = Counter()
    failures: Counter[tuple[str, str, int]] = Counter()
    workloads: dict[tuple[str, str, int], set[str]] = {}
    with Database(database) as known:
        for record in known.records():
            key = record.key.target, record.key.compiler, record.key.threads
            counts[key] += 1
            failures[key] += not record.ok
            workloads.setdefault(key, set()).add(record.key.workload)
        path = known.path
    if as_json:
        names = ("machine", "compiler", "threads")
        print_json({"database": str(path), "keys": [
            dict(zip(names, key, strict=True))
            | {"workloads": len(workloads[key]), "records": count, "failures": failures[key]}
            for key, count in sorted(counts.items())
        ]})  # fmt: skip
        return
    rows = [
        (*map(str, key), str(len(workloads[key])), str(count), str(failures[key]))
        for key, count in sorted(counts.items())
    ]
    columns = ("machine", "compiler", "threads", "workloads", "records", "failed")
    print_table(f"{path}: {counts.total()} records", columns, rows)


@records.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@database_option
def export(file: Path, database: Path | None) -> None:
    """Write all records to FILE as JSON lines; - is standard output."""
    with Database(database) as known:
        if str(file) == "-":
            known.export(sys.stdout)
        else:
            print(f"{known.export(file)} records in {file}")


@records.command("import")
@click.argument("files", nargs=-1, required=True, type=EXISTING)
@database_option
def import_(files: tuple[Path, ...], database: Path | None) -> int:
    """Add the records of exported FILES."""
    code = 0
    with Database(database) as known:
        for file in files:
            summary = known.load(file)
            print(f"{file}: {summary.added} records added, {summary.known} known, {summary.skipped} lines skipped")
            for warning in summary.warnings:
                print(f"tensorc: warning: {file}: {warning}", file=sys.stderr)
            code |= bool(summary.skipped)
    return code
