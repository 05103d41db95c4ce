"""Trains the CPU's cost model on what `collect.py` measured, judges it on held-out networks, and ships its weights.

    python benchmarks/cost_model/train.py --database data.db --networks networks.json [--ship]

Judgement: networks are dealt into folds; a model trained on the other folds' workloads is asked about each fold's,
without any workload that occurs in both. *apart* is the pairwise accuracy over candidates more than 3 % apart. With
`--ship` a model trained on everything is written into the package.
"""

from __future__ import annotations

import datetime
import json
import math
from collections import defaultdict
from pathlib import Path

import click
import numpy as np

from cost_models.controls import AnalyticModel, RandomModel
from cost_models.metrics import Scores, evaluate, network_folds, split_by_group
from cost_models.xgboost_model import XGBoostModel
from targets.cpu import machine as machines
from targets.cpu.features import BASELINE, FEATURES, features
from targets.cpu.tuning.context import PRETRAINED
from tensorc.ir.text import parse_graph
from tensorc.search.database import Database
from tensorc.search.model import CostModel, Samples

MEMBERS = 3


def read(database: Path) -> tuple[Samples, list[str]]:
    """Every successful record, and the workloads' keys by task number."""
    machine = machines.detect()
    by_task = defaultdict(list)
    with Database(database) as records:
        for record in records.records():
            if record.ok:
                by_task[record.key.workload, record.key.threads].append(record)
    rows, times, numbers, names = [], [], [], []
    for (workload, threads), group in by_task.items():
        body = parse_graph(group[0].body)
        rows.append(features(body, machine, threads, [record.schedule for record in group]))
        # The shortest time of a candidate, not its median: noise only ever adds to it, and hides what is to be learned.
        times += [math.log2(record.best) for record in group]
        numbers += [len(names)] * len(group)
        names.append(workload)
    return Samples(np.concatenate(rows), np.array(times), np.array(numbers)), names


def judge(samples: Samples, workloads: list[str], networks: dict[str, list[str]], folds: int, seed: int) -> None:
    """Scores of each model over the folds, weighted by samples."""
    owners = {task: [n for n, keys in networks.items() if workload in keys] for task, workload in enumerate(workloads)}
    scores: dict[str, list[Scores]] = defaultdict(list)
    for held_out in network_folds(owners, folds, seed):
        train, test = split_by_group(samples.tasks, owners, held_out)
        learned = XGBoostModel(FEATURES, BASELINE, members=MEMBERS, seed=seed)
        learned.fit(select(samples, train))
        held = select(samples, test)
        models: list[CostModel] = [RandomModel(seed), AnalyticModel(FEATURES.index(BASELINE)), learned]
        for model in models:
            scores[model.name].append(evaluate(model, held))
    print(f"{'model':10s} samples tasks pairwise   apart  best@1  best@5  peak@1  peak@5    rmse coverage")
    for name, rows in scores.items():
        weights = [row.samples for row in rows]

        def mean(values: list[float], weights: list[int] = weights) -> float:
            return float(np.average(values, weights=weights))

        print(f"{name:10s} {sum(weights):7d} {sum(r.tasks for r in rows):5d}"
              f" {mean([r.pairwise_accuracy for r in rows]):8.3f}"
              f" {mean([r.pairwise_apart for r in rows]):7.3f}"
              + "".join(f" {mean([r.best_of[k] for r in rows]):7.3f}" for k in (1, 5))
              + "".join(f" {mean([r.peak_score[k] for r in rows]):7.3f}" for k in (1, 5))
              + f" {mean([r.rmse for r in rows]):7.3f} {mean([r.coverage for r in rows]):8.3f}")  # fmt: skip


def select(samples: Samples, mask: np.ndarray) -> Samples:
    return Samples(samples.features[mask], samples.log2_seconds[mask], samples.tasks[mask])


@click.command()
@click.option("--database", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--networks", "index", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--folds", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--ship", is_flag=True, help="Write the weights into the package.")
def main(database: Path, index: Path, folds: int, seed: int, ship: bool) -> None:
    samples, workloads = read(database)
    print(f"{len(samples)} samples of {len(workloads)} workloads")
    judge(samples, workloads, json.loads(index.read_text()), folds, seed)
    if ship:
        model = XGBoostModel(FEATURES, BASELINE, members=MEMBERS, seed=seed)
        model.fit(samples, datetime.datetime.now(datetime.UTC).date().isoformat())
        model.save(PRETRAINED)
        print(f"{sum(file.stat().st_size for file in PRETRAINED.iterdir()) / 1e6:.2f} MB in {PRETRAINED}")


if __name__ == "__main__":
    main()
