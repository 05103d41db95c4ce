"""Controls: what a search finds without a learned model, by chance and by the analytic estimate alone."""

from __future__ import annotations

import numpy as np

from tensorc.search.model import CostModel, Prediction, Samples


class RandomModel(CostModel):
    """Scores by chance. Predictions are spread over a few octaves, so that a search always sees something to gain."""

    name = "random"

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def predict(self, features: np.ndarray) -> Prediction:
        return Prediction(self.rng.standard_normal(len(features)), np.zeros(len(features)))

    def rank(self, features: np.ndarray) -> np.ndarray:
        return self.rng.standard_normal(len(features))

    def update(self, samples: Samples) -> None:
        """Chance learns nothing."""


class AnalyticModel(CostModel):
    """Believes one column of the features: log2 of the analytic estimate in seconds."""

    name = "analytic"

    def __init__(self, column: int):
        self.column = column

    def predict(self, features: np.ndarray) -> Prediction:
        return Prediction(features[:, self.column].astype(np.float64), np.zeros(len(features)))

    def rank(self, features: np.ndarray) -> np.ndarray:
        return -self.predict(features).log2_seconds

    def update(self, samples: Samples) -> None:
        """An estimate from first principles stays as it is."""
