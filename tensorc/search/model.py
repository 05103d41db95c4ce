"""What a cost model promises to the search."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """For each candidate: log2 of the expected seconds, and the standard deviation of that (0 where not known)."""

    log2_seconds: np.ndarray
    uncertainty: np.ndarray


@dataclass(frozen=True)
class Samples:
    """Measured candidates: a row of features each, log2 of the seconds, and the task (workload) each belongs to."""

    features: np.ndarray
    log2_seconds: np.ndarray
    tasks: np.ndarray

    def __len__(self) -> int:
        return len(self.log2_seconds)


class CostModel(abc.ABC):
    """Predicts how long candidates take, from features that need no compilation."""

    name: str

    @abc.abstractmethod
    def predict(self, features: np.ndarray) -> Prediction:
        """`features` is [candidates, features]; ten thousand of them take well under a second."""

    @abc.abstractmethod
    def rank(self, features: np.ndarray) -> np.ndarray:
        """Scores of candidates of ONE workload: higher is faster. May be sharper than the absolute prediction."""

    @abc.abstractmethod
    def update(self, samples: Samples) -> None:
        """Learn from measurements; the whole history of this run is given each time. Controls learn nothing."""


def pairwise_accuracy(predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray], margin: float = 0.0) -> float:
    """The share of pairs within a task that are put in the measured order (predicted ties count half).

    `predicted` are scores, higher is better, as `CostModel.rank` gives them; `measured` likewise (such as 1/seconds).
    Pairs whose measured values are no more than `margin` apart are not counted.
    """
    right = pairs = 0.0
    for guess, truth in zip(predicted, measured, strict=True):
        upper = np.triu_indices(len(truth), 1)
        a, b = (guess[:, None] - guess[None, :])[upper], (truth[:, None] - truth[None, :])[upper]
        told = np.abs(b) > margin
        right += float(np.sum((np.sign(a) == np.sign(b)) & told) + 0.5 * np.sum((a == 0) & told))
        pairs += float(np.sum(told))
    return right / pairs if pairs else 1.0
