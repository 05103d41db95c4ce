"""ONNX's own backend tests, all that the installed onnx package holds, on tensorc and on ONNX Runtime.

    python benchmarks/onnx_conformance.py                                   both engines, the table
    python benchmarks/onnx_conformance.py --engine tensorc --only 'loop|scan' --list failed
    python benchmarks/onnx_conformance.py --json out.json
    TENSORC_CUDA_EMULATE=1 python benchmarks/onnx_conformance.py --engine tensorc --target cuda:sm_90

Every test runs as onnx's runner has it (its inputs, its tolerances, its comparison), in a worker process with a limit
on its time, and is counted as one of

    passed        as it was meant to
    failed        a wrong result, or an error that does not say that something is unsupported
    unsupported   refused, with a reason
    crashed       the process died, or ran out of time

Nothing is skipped: a test that says so itself counts as failed. An operator's tests are those whose model holds it; the
expanded form of a test (the operator's function body) counts for the operator itself. Of tensorc's passed tests it is
counted how they ran: by compiled kernels alone ("native"), with some operators by numpy on the host ("host"), or with
parts on ONNX Runtime ("fallback", if --fallback allows it).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tensorc.search.worker import Worker, WorkerError

ENGINES = ("tensorc", "onnxruntime")
STATUSES = ("passed", "failed", "unsupported", "crashed")
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
WORKER = Path(__file__).parent / "conformance" / "worker.py"


@dataclass(frozen=True)
class Test:
    """`operators` are those that it is a test of."""

    name: str
    kind: str
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """`ran` says how, if it passed: "native", "host" or "fallback"."""

    status: str
    detail: str = ""
    ran: str = ""


def all_tests() -> list[Test]:
    from onnx.backend.test.loader import load_model_tests

    operators: dict[str, tuple[str, ...]] = {}
    kinds: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in KINDS:
            for case in load_model_tests(kind=kind):
                kinds[case.name] = kind
                operators[case.name] = _operators(case)
    found = []
    for name, kind in kinds.items():
        whole = re.sub(r"(_expanded)(_ver\d+)?$", "", name)
        found.append(Test(name, kind, operators.get(whole, operators[name])))
    return found


def _operators(case: onnx.backend.test.case.test_case.TestCase) -> tuple[str, ...]:
    model = case.model
    if model is None and case.model_dir is not None:
        model = onnx.load(Path(case.model_dir, "model.onnx"))
    if model is None:
        return ()  # the whole models: nobody's test in particular
    return tuple(sorted({node.op_type for node in model.graph.node}))


def run_tests(engine: str, tests: Sequence[Test], limit: float, workers: int, options: Sequence[str],
              console: Console) -> dict[str, Result]:  # fmt: skip
    """Every test's result, by name. `limit` is the seconds that one may take."""
    # Making the data of all tests takes a while.
    pool = [Worker([sys.executable, str(WORKER), engine, *options], start_limit=900) for _ in range(workers)]
    free = list(pool)
    results: dict[str, Result] = {}

    def one(test: Test) -> tuple[str, Result]:
        worker = free.pop()
        try:
            row = worker.call({"test": test.name}, limit)
            return test.name, Result(**row)
        except WorkerError as error:
            return test.name, Result("crashed", f"{error.failure}: {error.detail}")
        finally:
            free.append(worker)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(engine, total=len(tests))
            with ThreadPoolExecutor(workers) as threads:
                for name, result in threads.map(one, tests):
                    results[name] = result
                    bar.advance(task)
    finally:
        for worker in pool:
            worker.close()
    return results


def count(tests: Sequence[Test], results: Mapping[str, Result]) -> Counter[str]:
    return Counter(results[test.name].status for test in tests)


def summary(tests: Sequence[Test], by_engine: Mapping[str, Mapping[str, Result]]) -> Table:
    table = Table("tests of kind", "number", "engine", "passed", "%", *STATUSES[1:])
    groups = {kind: [test for test in tests if test.kind == kind] for kind in KINDS}
    for name, group in {**groups, "all": list(tests)}.items():
        for engine, results in by_engine.items() if group else ():
            counts = count(group, results)
            share = f"{100 * counts['passed'] / len(group):.1f}"
            others = (str(counts[status]) for status in STATUSES[1:])
            table.add_row(name, str(len(group)), engine, str(counts["passed"]), share, *others)
        table.add_section()
    return table


def by_operator(tests: Sequence[Test], by_engine: Mapping[str, Mapping[str, Result]]) -> dict[str, dict[str, object]]:
    """For each operator: its tests, and how many of them each engine passes."""
    names = sorted({operator for test in tests for operator in test.operators})
    rows: dict[str, dict[str, object]] = {}
    for name in names:
        own = [test for test in tests if name in test.operators]
        rows[name] = {"tests": len(own), **{e: count(own, results)["passed"] for e, results in by_engine.items()}}
    return rows


@click.command()
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), help="One of them; default: both.")
@click.option("--only", metavar="PATTERN", default="", help="Tests whose name holds this regular expression.")
@click.option("--target", default="cpu", show_default=True, help="What tensorc compiles for.")
@click.option("--fallback", is_flag=True, help="Let tensorc run on ONNX Runtime what it does not compile.")
@click.option("--limit", default=60.0, show_default=True, help="Seconds that one test may take.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--list", "listed", multiple=True, type=click.Choice(STATUSES), help="Name the tests that ended so.")
@click.option("--operators", is_flag=True, help="Print the table by operator, too.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write all results there.")
def main(engines: Sequence[str], only: str, target: str, fallback: bool, limit: float, workers: int,
         listed: Sequence[str], operators: bool, output: Path | None) -> None:  # fmt: skip
    """Run ONNX's backend tests; print what passed."""
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise click.BadParameter(f"{only!r} is no regular expression: {error}", param_hint="--only") from error
    tests = [test for test in all_tests() if pattern.search(test.name)]
    if not tests:
        raise click.BadParameter(f"no test's name holds {only!r}", param_hint="--only")
    console = Console(stderr=True)
    options = {"tensorc": ["--target", target, *["--fallback"] * fallback], "onnxruntime": []}
    by_engine = {name: run_tests(name, tests, limit, workers, options[name], console) for name in engines or ENGINES}
    out = Console(width=None if sys.stdout.isatty() else 160)
    out.print(summary(tests, by_engine))
    for name, results in by_engine.items():
        ran = Counter(result.ran for result in results.values() if result.status == "passed")
        if name == "tensorc":
            out.print(f"tensorc's passed tests ran: {', '.join(f'{n} {how}' for how, n in ran.most_common())}")
        for test in tests:
            result = results[test.name]
            if result.status in listed:
                out.print(f"{name} {result.status} {test.name}: {result.detail}", markup=False, soft_wrap=True)
    rows = by_operator(tests, by_engine)
    if operators:
        table = Table("operator", "tests", *by_engine)
        for name, row in rows.items():
            table.add_row(name, *(str(value) for value in row.values()))
        out.print(table)
    if output is not None:
        record = {
            "onnx": onnx.__version__,
            "target": target,
            "tensorc": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                                      cwd=Path(__file__).parent, check=False).stdout.strip(),
            "tests": [asdict(test) for test in tests],
            "results": {e: {name: asdict(r) for name, r in results.items()} for e, results in by_engine.items()},
            "operators": rows,
        }  # fmt: skip
        output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
