"""Solve memory planning problems in minimalloc's CSV form, the capacity standing in the file's name.

    python benchmarks/memory_plan.py A.1048576.csv B.1048576.csv --time-limit 60 --plans plans/

Seconds are those of planning, on one core, from the problem in memory to a plan that an independent checker finds
valid. What it takes to load the search (and to compile it, once for each machine and user) is said apart. Exit code 1:
some problem was not solved.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from passes.memory import minimalloc, native
from passes.memory.check import faults
from passes.memory.portfolio import SOLVERS
from passes.memory.problem import Plan, Status
from tensorc.errors import UserError

_ROW = "{:<28} {:>7} {:<10} {:>12} {:>12} {:>12} {:>7} {:>9}  {}"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        files = [(path, minimalloc.read(path)) for path in options.files]
        start = time.perf_counter()
        if options.solver in ("portfolio", "exact"):
            native.library()
        prepared = time.perf_counter() - start
        if options.plans is not None:
            options.plans.mkdir(parents=True, exist_ok=True)
        print(_ROW.format("file", "buffers", "status", "height", "bound", "capacity", "gap", "seconds", "by"))
        rows = []
        for path, file in files:
            plan = SOLVERS[options.solver](file.problem, options.time_limit, options.seed)
            row = _row(path, file, plan)
            rows.append(row)
            shown = [row[key] for key in ("file", "buffers", "status", "height", "lower_bound", "capacity")]
            gap = "" if plan.gap is None else f"{plan.gap:.2%}"
            print(_ROW.format(*map(str, shown), gap, f"{plan.seconds:.3f}", plan.solver), flush=True)
            if options.plans is not None and plan.offsets is not None:
                minimalloc.write(options.plans / path.name, file.ids, file.problem, plan.offsets)
        print(f"and {prepared:.3f} s once, to compile and load the search (kept in the user's cache)")
        if options.json is not None:
            report = {"solver": options.solver, "prepare_seconds": prepared, "plans": rows}
            options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0 if all(row["status"] == Status.SOLVED.value for row in rows) else 1


def _row(path: Path, file: minimalloc.ProblemFile, plan: Plan) -> dict[str, object]:
    problem = file.problem
    if plan.offsets is not None:
        solved = plan.status is Status.SOLVED
        wrong = faults(problem if solved else problem.within(None), plan.offsets)
        if wrong:
            raise AssertionError(f"{path}: the planner's plan is not valid: {wrong[0]}")
    return {
        "file": path.name,
        "buffers": len(problem.buffers),
        "capacity": problem.capacity,
        "status": plan.status.value,
        "height": plan.height,
        "lower_bound": plan.lower_bound,
        "gap": plan.gap,
        "seconds": plan.seconds,
        "solver": plan.solver,
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.csv")
    parser.add_argument("--time-limit", type=_seconds, default=60.0, help="seconds for each file (60)")
    parser.add_argument("--solver", choices=list(SOLVERS), default="portfolio")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the table as JSON")
    parser.add_argument("--plans", type=Path, metavar="DIR", help="write each file here again, with an offset column")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is no time limit: more than 0 seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
