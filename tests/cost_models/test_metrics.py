"""Metrics against values worked out by hand, and splits that leak nothing."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.controls import AnalyticModel
from cost_models.metrics import (
    best_of,
    calibration_error,
    coverage,
    evaluate,
    network_folds,
    peak_score,
    relative_throughput,
    rmse,
    split_by_group,
)
from tensorc.search.model import Prediction, Samples

#: Four candidates of 1, 2, 4 and 8 seconds, and a model that puts the second best first and the best third.
SECONDS = np.log2([1.0, 2.0, 4.0, 8.0])
GUESSES = np.array([1.0, 3.0, 2.0, 0.0])


def test_best_of_is_what_measuring_the_first_k_finds() -> None:
    assert relative_throughput(SECONDS).tolist() == [1.0, 0.5, 0.25, 0.125]
    assert [best_of(GUESSES, SECONDS, k) for k in (1, 2, 3, 9)] == [0.5, 0.5, 1.0, 1.0]


def test_peak_score_is_the_mean_over_the_curve() -> None:
    assert [peak_score(GUESSES, SECONDS, k) for k in (1, 2, 3)] == [0.5, 0.5, pytest.approx(2 / 3)]
    assert peak_score(GUESSES, SECONDS, 9) == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)


def test_rmse() -> None:
    assert rmse(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == pytest.approx(2**0.5)


def test_calibration_tells_right_from_over_and_under_confident() -> None:
    truth = np.random.default_rng(0).normal(0, 2, 20_000)
    right, sure, unsure = (Prediction(np.zeros(20_000), np.full(20_000, s)) for s in (2.0, 0.5, 8.0))
    assert coverage(right, truth) == pytest.approx(0.683, abs=0.01)
    assert coverage(right, truth, 2.0) == pytest.approx(0.954, abs=0.01)
    assert calibration_error(right, truth) < 0.01
    assert coverage(sure, truth) < 0.25
    assert coverage(unsure, truth) > 0.99
    assert calibration_error(sure, truth) > 0.3
    assert calibration_error(unsure, truth) > 0.3


def test_evaluate_weighs_tasks_by_their_samples() -> None:
    right = np.array([[1.0], [2.0], [3.0]])
    wrong = np.array([[2.0], [1.0]])
    samples = Samples(np.concatenate([right, wrong]), np.array([1.0, 2, 3, 1, 2]), np.array([4, 4, 4, 7, 7]))
    scores = evaluate(AnalyticModel(0), samples)
    assert (scores.samples, scores.tasks) == (5, 2)
    assert scores.pairwise_accuracy == pytest.approx(3 / 5)
    assert scores.best_of == {1: pytest.approx((3 * 1 + 2 * 0.5) / 5), 5: 1.0}
    assert scores.peak_score == {1: pytest.approx(0.8), 5: pytest.approx((3 * 1 + 2 * 0.75) / 5)}
    assert scores.rmse == pytest.approx((2 / 5) ** 0.5)
    assert scores.throughput_rmse == pytest.approx((2 * 0.25 / 5) ** 0.5)
    assert scores.coverage == pytest.approx(3 / 5)


NETWORKS = {0: ("resnet",), 1: ("resnet", "vgg"), 2: ("vgg",), 3: ("bert",)}


def test_a_task_shared_with_a_held_out_network_is_not_trained_on() -> None:
    tasks = np.array([3, 0, 1, 2, 1, 0])
    train, test = split_by_group(tasks, NETWORKS, ["vgg"])
    assert train.tolist() == [0, 1, 5]
    assert test.tolist() == [2, 3, 4]
    train, test = split_by_group(tasks, NETWORKS, [])
    assert (len(train), len(test)) == (6, 0)


def test_folds_hold_out_every_network_once() -> None:
    folds = network_folds(NETWORKS, 2, seed=3)
    assert sorted(name for fold in folds for name in fold) == ["bert", "resnet", "vgg"]
    assert folds == network_folds(NETWORKS, 2, seed=3)
    with pytest.raises(ValueError, match="3 networks cannot be cut into 4 folds; 2 to 3 are possible"):
        network_folds(NETWORKS, 4)
