"""How good a cost model is: in order, in level, and in what it claims to know; and splits that tell the truth.

Tasks count by their number of samples, as in TenSet (Zheng et al., NeurIPS 2021), whose published script defines
`pairwise_accuracy`, `peak_score` and `throughput_rmse`. A split within tasks flatters: the model has seen the workload.
Splits here hold out whole networks, together with every task that occurs in them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tensorc.search.model import CostModel, Prediction, Samples, pairwise_accuracy

#: Shares of a normal distribution around its mean at which uncertainty is checked.
_LEVELS = np.arange(0.1, 0.95, 0.1)
_PEAKS = (1, 5)
#: Times of one candidate measured twice on a busy machine differ by about so much, as a share.
APART = 0.03


@dataclass(frozen=True)
class Scores:
    """What `evaluate` found on `samples` measurements of `tasks` tasks.

    `pairwise_apart` is the accuracy over pairs more than `APART` apart, whose order noise seldom turns round. `rmse` is
    in log2 seconds, `throughput_rmse` in shares of each task's best throughput. `best_of` and `peak_score`
    are by k. `coverage` is the share of measurements within one standard deviation: 0.683 when calibrated.
    """

    samples: int
    tasks: int
    pairwise_accuracy: float
    pairwise_apart: float
    best_of: dict[int, float]
    peak_score: dict[int, float]
    rmse: float
    throughput_rmse: float
    coverage: float
    calibration_error: float


def evaluate(model: CostModel, samples: Samples) -> Scores:
    """Scores of `model` on measurements that it has not seen."""
    prediction = model.predict(samples.features)
    groups = [np.flatnonzero(samples.tasks == task) for task in np.unique(samples.tasks)]
    weights = [len(rows) for rows in groups]
    scores = [model.rank(samples.features[rows]) for rows in groups]
    measured = [samples.log2_seconds[rows] for rows in groups]
    predicted = [prediction.log2_seconds[rows] for rows in groups]

    def average(values: Iterator[float]) -> float:
        return float(np.average(list(values), weights=weights))

    return Scores(
        samples=len(samples),
        tasks=len(groups),
        pairwise_accuracy=average(pairwise_accuracy([s], [-m]) for s, m in zip(scores, measured, strict=True)),
        pairwise_apart=pairwise_accuracy(scores, [-m for m in measured], math.log2(1 + APART)),
        best_of={k: average(best_of(s, m, k) for s, m in zip(scores, measured, strict=True)) for k in _PEAKS},
        peak_score={k: average(peak_score(s, m, k) for s, m in zip(scores, measured, strict=True)) for k in _PEAKS},
        rmse=rmse(prediction.log2_seconds, samples.log2_seconds),
        throughput_rmse=rmse(
            np.concatenate([relative_throughput(p) for p in predicted]),
            np.concatenate([relative_throughput(m) for m in measured]),
        ),
        coverage=coverage(prediction, samples.log2_seconds),
        calibration_error=calibration_error(prediction, samples.log2_seconds),
    )


def rmse(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Root of the mean square difference."""
    return float(np.sqrt(np.mean(np.square(predicted - measured))))


def relative_throughput(log2_seconds: np.ndarray) -> np.ndarray:
    """Throughput of each candidate of one task as a share of the best one's."""
    share: np.ndarray = np.exp2(log2_seconds.min() - log2_seconds)
    return share


def best_of(scores: np.ndarray, log2_seconds: np.ndarray, k: int) -> float:
    """What a search gets that measures the `k` candidates with the best scores: their best throughput over the best."""
    chosen = np.argsort(-scores, kind="stable")[:k]
    return float(relative_throughput(log2_seconds)[chosen].max())


def peak_score(scores: np.ndarray, log2_seconds: np.ndarray, k: int) -> float:
    """TenSet's "average peak score@k": the mean of `best_of` over 1, 2, .. k. It is below `best_of` for k > 1."""
    chosen = np.argsort(-scores, kind="stable")[:k]
    return float(np.maximum.accumulate(relative_throughput(log2_seconds)[chosen]).mean())


def coverage(prediction: Prediction, log2_seconds: np.ndarray, deviations: float = 1.0) -> float:
    """The share of measurements within so many predicted standard deviations of the prediction."""
    inside = np.abs(log2_seconds - prediction.log2_seconds) <= deviations * prediction.uncertainty
    return float(inside.mean())


def calibration_error(prediction: Prediction, log2_seconds: np.ndarray) -> float:
    """The mean difference between the share of measurements inside a central interval of the predicted normal
    distribution and the share that ought to be, over intervals of 10 % to 90 % (Kuleshov et al., ICML 2018)."""
    widths = [NormalDist().inv_cdf(0.5 + level / 2) for level in _LEVELS]
    found = np.array([coverage(prediction, log2_seconds, width) for width in widths])
    return float(np.abs(found - _LEVELS).mean())


def split_by_group(tasks: np.ndarray, networks: Mapping[int, Collection[str]],
                   held_out: Collection[str]) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Row numbers for training and for testing: every row of a task that occurs in a held-out network is tested.

    `tasks` gives the task of each row, `networks` the networks that a task occurs in.
    """
    held = set(held_out)
    tested = [task for task in np.unique(tasks).tolist() if held & set(networks[task])]
    mask = np.isin(tasks, tested)
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def network_folds(networks: Mapping[int, Collection[str]], folds: int, seed: int = 0) -> list[tuple[str, ...]]:
    """All networks, shuffled and cut into `folds` sets to hold out one after the other."""
    names = sorted({name for found in networks.values() for name in found})
    if not 2 <= folds <= len(names):
        raise ValueError(f"{len(names)} networks cannot be cut into {folds} folds; 2 to {len(names)} are possible")
    order = np.random.default_rng(seed).permutation(len(names))
    return [tuple(sorted(names[i] for i in part)) for part in np.array_split(order, folds)]
