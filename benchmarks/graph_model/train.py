"""Trains the graph-level cost model on what `collect.py` measured, judges it on held-out networks, ships its weights.

    python benchmarks/graph_model/train.py --data groups.jsonl [--ship]

Judgement: networks are dealt into folds; a model trained on the other folds' bodies is asked about each fold's, without
any body that occurs in both. Beside it stands the estimate from shapes alone, its level set on the same bodies. Of the
groups in doubt it is told how often the fastest way was chosen, and how much longer than the fastest ways all that was
chosen takes. With `--ship` a model trained on everything is written into the package.
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from cost_models.graph_features import QUANTITIES, GroupCost, estimate
from cost_models.graph_model import GraphModel
from cost_models.metrics import network_folds, split_by_group
from targets.cpu import machine as machines
from targets.cpu.kernels import head
from targets.cpu.target import GROUP_MODELS
from tensorc.ir import Graph, parse_graph
from tensorc.search.model import pairwise_accuracy

MEMBERS = 1


@dataclass(frozen=True)
class Doubt:
    """A group in doubt: the ways to make kernels of it, as numbers of bodies; the first way is one kernel."""

    ways: list[list[int]]
    label: str


@dataclass(frozen=True)
class Data:
    bodies: list[Graph]
    costs: list[GroupCost]
    #: Whether the kernel wants scratch memory: the other bodies' buffers are known without a model.
    scratch: np.ndarray
    networks: dict[int, list[str]]
    doubts: list[Doubt]

    def table(self) -> np.ndarray:
        """[bodies, quantities]"""
        return table(self.costs)


def table(costs: Sequence[GroupCost]) -> np.ndarray:
    return np.array([[getattr(cost, name) for name in QUANTITIES] for cost in costs])


def read(data: Path) -> Data:
    rows = [row for row in map(json.loads, data.read_text().splitlines()) if not row["failure"]]
    # The shortest time of a body: noise only ever adds to it.
    rows = sorted(rows, key=lambda row: row["cost"]["seconds"], reverse=True)
    rows = sorted({row["key"]: row for row in rows}.values(), key=lambda row: row["key"])
    numbers = {row["key"]: number for number, row in enumerate(rows)}
    bodies = [parse_graph(row["body"]) for row in rows]
    doubts = []
    for row, body in zip(rows, bodies, strict=True):
        ways = [[numbers[key] for key in way] for way in row["ways"] if numbers.keys() >= set(way)]
        if ways:
            kernel = head(body)
            label = f"{'networks' if row['real'] else 'made up'}, {kernel.op if kernel else 'elementwise'}"
            doubts.append(Doubt([[numbers[row["key"]]], *ways], label))
    scratch = np.array([row["scratch_bytes"] > 0 for row in rows])
    owners = {number: row["networks"] for number, row in enumerate(rows)}
    return Data(bodies, [GroupCost(**row["cost"]) for row in rows], scratch, owners, doubts)


def judged(data: Data, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each fold the numbers of the tested bodies, and what the model and the estimate say of them."""
    numbers = np.arange(len(data.bodies))
    true, shapes = data.table(), table([estimate(body) for body in data.bodies])
    for held_out in network_folds(data.networks, folds, seed):
        train, test = split_by_group(numbers, data.networks, held_out)
        model = GraphModel(members=MEMBERS, seed=seed)
        model.fit([data.bodies[i] for i in train], [data.costs[i] for i in train])
        level = np.exp2(np.median(np.log2(true[train] / shapes[train]), axis=0))
        yield test, table(model.predict([data.bodies[i] for i in test])), shapes[test] * level


def print_errors(true: np.ndarray, said: Mapping[str, np.ndarray], scratch: np.ndarray) -> dict[str, float]:
    """Errors relative to the truth, and the share of pairs in the right order; those of the model by name."""
    print(f"\n{'':30s}" + "".join(f" | {name:^24s}" for name in said))
    print(f"{'quantity':24s} bodies" + " | median      p90   pairs" * len(said))
    metrics = {}
    every = np.full(len(true), True)
    for quantity, rows in (*((name, every) for name in QUANTITIES), ("buffer_bytes with scratch", scratch)):
        column = QUANTITIES.index(quantity.split()[0])
        line = f"{quantity:25s} {rows.sum():4d}"
        for name, values in said.items():
            error = np.abs(values[rows, column] / true[rows, column] - 1)
            figures = {
                "median_error": float(np.median(error)),
                "p90_error": float(np.quantile(error, 0.9)),
                "pairwise_accuracy": pairwise_accuracy([values[rows, column]], [true[rows, column]]),
            }
            line += " | {:6.1%} {:8.1%} {:7.3f} ".format(*figures.values())
            if name == "model":
                metrics |= {f"{quantity.replace(' ', '_')}_{figure}": v for figure, v in figures.items()}
        print(line)
    return metrics


def print_doubts(rows: Sequence[tuple[str, np.ndarray, np.ndarray]], margins: Sequence[float]) -> None:
    """`rows` have a label, and the seconds of each way as measured and as predicted."""
    by_label = defaultdict(list)
    for label, true, said in rows:
        by_label[label].append((true, said))
        by_label["all " + label.split(",")[0]].append((true, said))
    print("\nGroups in doubt: the fastest way chosen, and seconds over those of the fastest ways, if fusion")
    print(f"{'':24s} count | {'is always made':^15s}" + "".join(f" | asks, margin {margin:4.2f}" for margin in margins))
    for label, cells in sorted(by_label.items()):
        choices = [[0 for _ in cells]]
        choices += [[chosen(said, margin) for _, said in cells] for margin in margins]
        best = sum(true.min() for true, _ in cells)
        line = f"{label:24s} {len(cells):5d}"
        for choice in choices:
            right = np.mean([true[c] == true.min() for c, (true, _) in zip(choice, cells, strict=True)])
            took = sum(true[c] for c, (true, _) in zip(choice, cells, strict=True))
            line += f" | {right:6.1%} {took / best:7.3f}x "
        print(line)


def chosen(seconds: np.ndarray, margin: float) -> int:
    best = int(np.argmin(seconds))
    return best if seconds[0] > margin * seconds[best] else 0


@click.command()
@click.option("--data", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--folds", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--ship", is_flag=True, help="Write the weights into the package.")
def main(file: Path, folds: int, seed: int, ship: bool) -> None:
    data = read(file)
    names = {name for found in data.networks.values() for name in found}
    print(f"{len(data.bodies)} bodies of {len(names)} networks, {len(data.doubts)} groups in doubt; {folds} folds")
    true, parts, scratch, doubts = data.table(), defaultdict(list), [], []
    for test, learned, shapes in judged(data, folds, seed):
        parts["true"].append(true[test])
        parts["model"].append(learned)
        parts["estimate"].append(shapes)
        scratch.append(data.scratch[test])
        place = {int(number): i for i, number in enumerate(test)}
        for doubt in data.doubts:
            if all(number in place for way in doubt.ways for number in way):
                measured = np.array([true[way, 0].sum() for way in doubt.ways])
                said = np.array([learned[[place[i] for i in way], 0].sum() for way in doubt.ways])
                doubts.append((doubt.label, measured, said))
    true, *said = (np.concatenate(parts[name]) for name in ("true", "model", "estimate"))
    metrics = print_errors(true, dict(zip(("model", "estimate"), said, strict=True)), np.concatenate(scratch))
    print_doubts(doubts, (1.0, 1.1, 1.2, 1.3, 1.5))
    if ship:
        model = GraphModel(members=MEMBERS, seed=seed)
        model.fit(data.bodies, data.costs, datetime.datetime.now(datetime.UTC).date().isoformat(), metrics)
        folder = GROUP_MODELS / str(machines.detect().vector_bits)
        model.save(folder)
        print(f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.2f} MB in {folder}")


if __name__ == "__main__":
    main()
