"""`tensorc tune --export-bundle` and `--import-results`: measuring where there is no compiler."""

from __future__ import annotations

from pathlib import Path

from tensorc.cli.console import duration, print_json, print_table, progress_bar
from tensorc.driver import tuning_tasks
from tensorc.errors import UserError
from tensorc.options import CompileOptions
from tensorc.search.budget import Budget
from tensorc.search.bundle import bundle_tasks
from tensorc.search.database import Database
from tensorc.target import find_target

#: Candidates of a bundle, where no number of trials is asked for.
DEFAULT_TRIALS = 256


def export(folder: Path, model: Path, options: CompileOptions, budget: Budget, seed: int, as_json: bool) -> None:
    """Build what the search would try next into `folder`."""
    if budget.trials is None:
        raise UserError(
            f"a bundle holds a number of candidates, not a time: say --budget {DEFAULT_TRIALS}, not {budget}"
        )
    with progress_bar() as watch, Database(options.database) as database:
        tasks, context = tuning_tasks(model, options, watch)
        chosen = bundle_tasks(
            tasks, context, database, context.pretrained(seed) or context.untrained(seed), budget.trials, seed
        )
        if not chosen:
            raise UserError(f"nothing is left to measure of {model}: every candidate is in the database")
        context.export_bundle(folder, chosen, lambda done, total: watch("build", done, total, "candidates"))
    count = sum(len(task.schedules) for task in chosen)
    if as_json:
        print_json({"model": str(model), "bundle": str(folder), "candidates": count, "workloads": len(chosen)})
    else:
        print_table(model.name, (), [
            ("bundle", f"{folder}: {count} candidates of {len(chosen)} workloads"),
            ("measure", f"python {folder / 'measure.py'}   (there; it needs {context.bundle_needs})"),
            ("then", f"tensorc tune --import-results {folder}   (here)"),
        ])  # fmt: skip


def import_results(folder: Path, options: CompileOptions, as_json: bool) -> None:
    """Feed what was measured of a bundle into the database."""
    context = find_target(options.target).tuning(options)
    if context is None:
        raise UserError(f"the target {options.target} leaves nothing to tune")
    results = context.import_bundle(folder)
    with Database(options.database) as database:
        added = database.add(results.records)
        path = database.path
    failures = sum(not record.ok for record in results.records)
    if as_json:
        print_json({"bundle": str(folder), "database": str(path), "records": len(results.records), "added": added,
                    "failures": failures, "unmeasured_jobs": results.unmeasured})  # fmt: skip
        return
    best = min((record.median for record in results.records if record.ok), default=None)
    rows = [("records", f"{len(results.records)}, {added} of them new, {failures} failures, in {path}")]
    if best is not None:
        rows.append(("fastest", duration(best)))
    if results.unmeasured:
        rows.append(("unmeasured", f"{results.unmeasured} jobs: run measure.py again, it goes on where it was"))
    print_table(str(folder), (), rows)
