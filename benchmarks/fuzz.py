"""Differential fuzzing: random valid ONNX graphs on tensorc, ONNX Runtime and the onnx reference evaluator.

    python benchmarks/fuzz.py                                    1000 graphs
    python benchmarks/fuzz.py --count 20000 --seed 7 --keep findings/ --json out.json
    TENSORC_CUDA_EMULATE=1 python benchmarks/fuzz.py --target cuda:sm_90

Graphs of 1 to 12 nodes over all operators that tensorc lists as supported, in all their element types, with odd shapes,
broadcasts, tensors without elements, nan and infinities (benchmarks/fuzzing). Graph `n` of a seed is the same in every
run. A graph that ends otherwise than it should is shrunk, and written to `--keep` as model.onnx and inputs.npz.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

# The scripts of this folder are run by path, and are a package to the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.fuzzing.case import Case
from benchmarks.fuzzing.judge import STATUSES, Judge, Outcome
from benchmarks.fuzzing.operators import PLACES, random_graph
from benchmarks.fuzzing.shrink import shrink
from tensorc.frontend.functions import supported_operators

ENGINES = ("onnxruntime", "reference")


@dataclass(frozen=True)
class Result:
    number: int
    outcome: Outcome
    operators: tuple[str, ...]
    shrunk: tuple[str, ...] = ()
    """The operators of the minimal graph, if there is one."""
    detail: str = ""
    """What is said of the minimal graph."""


def make_case(seed: int, number: int, names: Sequence[str]) -> Case:
    return random_graph(np.random.default_rng([seed, number]), names).case()


def operators_of(case: Case) -> tuple[str, ...]:
    return tuple(node.op_type for node in case.model.graph.node)


def fuzz_one(case: Case, number: int, judge: Judge, keep: Path | None, shrinking: bool) -> Result:
    outcome = judge.judge(case)
    if not outcome.finding:
        return Result(number, outcome, operators_of(case))
    small = case
    if shrinking:
        small = shrink(case, lambda other: judge.judge(other).status == outcome.status, judge.values)
    detail = judge.judge(small).detail or outcome.detail
    if keep is not None:
        folder = keep / f"{number:06d}-{outcome.status}-{'-'.join(operators_of(small))[:60]}"
        small.save(folder)
        text = "\n".join([outcome.status, outcome.detail, detail, "", onnx.printer.to_text(small.model), ""])
        (folder / "finding.txt").write_text(text)
    return Result(number, outcome, operators_of(case), operators_of(small), detail)


def run(seed: int, numbers: Sequence[int], names: Sequence[str], engines: Sequence[str], target: str, workers: int,
        limit: float, keep: Path | None, shrinking: bool, console: Console) -> list[Result]:  # fmt: skip
    judges = [Judge(engines, limit, target) for _ in range(workers)]
    free = list(judges)

    def one(number: int) -> Result:
        judge = free.pop()
        try:
            return fuzz_one(make_case(seed, number, names), number, judge, keep, shrinking)
        finally:
            free.append(judge)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results = []
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("graphs", total=len(numbers))
            with ThreadPoolExecutor(workers) as threads:
                for result in threads.map(one, numbers):
                    results.append(result)
                    bar.advance(task)
    finally:
        for judge in judges:
            judge.__exit__()
    return results


def report(results: Sequence[Result], seconds: float, out: Console) -> None:
    counts = Counter(result.outcome.status for result in results)
    table = Table(*STATUSES, "graphs", "graphs/s")
    table.add_row(*(str(counts[status]) for status in STATUSES), str(len(results)), f"{len(results) / seconds:.1f}")
    out.print(table)
    reasons: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        status = result.outcome.status
        if status == "unsupported":
            reasons[status, _outline(result.outcome.detail)].append(result)
        elif result.outcome.finding:
            what = " ".join(dict.fromkeys(result.shrunk))
            said = "" if status == "wrong" else f": {_outline(result.detail)}"
            reasons[status, f"{what}{said}"].append(result)
    for (status, what), group in sorted(reasons.items(), key=lambda row: (row[0][0] == "unsupported", -len(row[1]))):
        first = group[0]
        example = f"; such as {first.number}: {first.detail}" if first.outcome.finding else f"; such as {first.number}"
        out.print(f"{len(group)}x {status} {what}{example}", markup=False, soft_wrap=True)


def _outline(text: str) -> str:
    """What messages of one kind have in common: without names and numbers, and without where it was."""
    text = re.sub(r"\S*model\.onnx:?", "", text)
    return re.sub(r"'[^']*'|\[[^\]]*\]", "_", re.sub(r"\d+(\.\d+)?", "N", text))[:160]


@click.command()
@click.option("--count", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--first", default=0, show_default=True, type=click.IntRange(0), help="The number of the first graph.")
@click.option("--target", default="cpu", show_default=True, help="What tensorc compiles for.")
@click.option("--engine-check", "engines", default=",".join(ENGINES), show_default=True, help="Whom to compare with.")
@click.option("--only", default="", metavar="PATTERN", help="Operators whose name matches this regular expression.")
@click.option("--every", is_flag=True, help="All operators that can be generated, supported or not.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--limit", default=60.0, show_default=True, help="Seconds that one graph may take.")
@click.option("--no-shrink", is_flag=True, help="Leave findings as large as they are.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Write findings there.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write all results there.")
def main(count: int, seed: int, first: int, target: str, engines: str, only: str, every: bool, workers: int,
         limit: float, no_shrink: bool, keep: Path | None, output: Path | None) -> None:  # fmt: skip
    """Compare tensorc with other engines on random graphs. Exit code 1 when there are findings."""
    chosen = [name for name in engines.split(",") if name]
    if not chosen or set(chosen) - set(ENGINES):
        raise click.BadParameter(f"it takes {', '.join(ENGINES)}", param_hint="--engine-check")
    supported = {operator.name for operator in supported_operators()}
    lacking = sorted(supported - set(PLACES))
    names = sorted(name for name in PLACES if (every or name in supported) and re.fullmatch(only or ".*", name))
    if not names:
        raise click.BadParameter(f"no operator matches {only!r}", param_hint="--only")
    out = Console(width=None if sys.stdout.isatty() else 160)
    out.print(f"{len(names)} operators; without a generator: {', '.join(lacking) or 'none'}", soft_wrap=True)
    start = time.perf_counter()
    results = run(seed, range(first, first + count), names, chosen, target, workers, limit, keep,
                  not no_shrink, Console(stderr=True))  # fmt: skip
    report(results, time.perf_counter() - start, out)
    if output is not None:
        output.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    sys.exit(any(result.outcome.finding for result in results))


if __name__ == "__main__":
    main()
