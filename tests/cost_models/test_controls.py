"""The controls keep the protocol and learn nothing."""

from __future__ import annotations

import numpy as np

from cost_models.controls import AnalyticModel, RandomModel
from tensorc.search.model import CostModel, Samples

FEATURES = np.array([[5.0, -1.0], [3.0, -3.0], [4.0, -2.0]])


def test_chance_repeats_under_a_seed() -> None:
    one, two, other = RandomModel(1), RandomModel(1), RandomModel(2)
    assert one.rank(FEATURES).tolist() == two.rank(FEATURES).tolist()
    assert one.predict(FEATURES).log2_seconds.tolist() == two.predict(FEATURES).log2_seconds.tolist()
    assert one.rank(FEATURES).tolist() != other.rank(FEATURES).tolist()


def test_the_analytic_model_believes_its_column() -> None:
    model = AnalyticModel(1)
    prediction = model.predict(FEATURES)
    assert prediction.log2_seconds.tolist() == [-1.0, -3.0, -2.0]
    assert prediction.uncertainty.tolist() == [0.0, 0.0, 0.0]
    assert np.argsort(-model.rank(FEATURES)).tolist() == [1, 2, 0]


def test_controls_do_not_learn() -> None:
    samples = Samples(FEATURES, np.array([0.0, 1.0, 2.0]), np.zeros(3, dtype=np.int64))
    model: CostModel
    for model, twin in ((AnalyticModel(0), AnalyticModel(0)), (RandomModel(0), RandomModel(0))):
        model.update(samples)
        assert model.rank(FEATURES).tolist() == twin.rank(FEATURES).tolist()
        assert len(model.predict(FEATURES[:0]).log2_seconds) == len(model.rank(FEATURES[:0])) == 0
