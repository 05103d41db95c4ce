"""How well one measurement of candidates predicts the next: what no cost model can exceed by much.

    python benchmarks/cost_model/agreement.py --database data.db [--seconds 240]

Candidates that `collect.py` measured on one thread are measured once more, workload by workload in random order, and
the share of pairs is told that both measurements put in the same order: of all, and of those that lay more than 3 %
apart the first time. Workloads count by their candidates, as in `train.py`.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from pathlib import Path

import click
import numpy as np

from cost_models.metrics import APART
from targets.cpu import CpuTarget
from tensorc.ir.text import parse_graph
from tensorc.options import CompileOptions
from tensorc.search.database import Database
from tensorc.search.model import pairwise_accuracy
from tensorc.search.records import Record

_BATCH = 8


@click.command()
@click.option("--database", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--seconds", default=240.0, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(database: Path, seconds: float, seed: int) -> None:
    context = CpuTarget().tuning(CompileOptions(threads=1))
    known: dict[str, list[Record]] = defaultdict(list)
    with Database(database) as records:
        for record in records.records(target=context.machine, threads=1):
            if record.ok:
                known[record.key.workload].append(record)
    first, second = [], []
    deadline = time.monotonic() + seconds
    with context.measurer() as measurer:
        for workload in np.random.default_rng(seed).permutation(sorted(known)):
            rows = known[workload]
            body = parse_graph(rows[0].body)
            batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
            futures = [measurer.submit(body, [record.schedule for record in batch]) for batch in batches]
            outcomes = [outcome for future in futures for outcome in future.result()]
            both = [(record.best, outcome.best) for record, outcome in zip(rows, outcomes, strict=True) if outcome.ok]
            if len(both) > 1:
                before, after = np.log2(np.array(both)).T
                first.append(before)
                second.append(after)
            if time.monotonic() >= deadline:
                break
    weights = [len(times) for times in first]
    every = [pairwise_accuracy([b], [a]) for a, b in zip(first, second, strict=True)]
    apart = pairwise_accuracy(second, first, math.log2(1 + APART))
    share = np.average(every, weights=weights)
    print(f"{sum(weights)} candidates of {len(first)} workloads: {share:.3f} of all pairs, {apart:.3f} of those apart "
          "are in the same order both times")  # fmt: skip


if __name__ == "__main__":
    main()
