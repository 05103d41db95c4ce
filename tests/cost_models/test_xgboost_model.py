"""The learned model on a simulated machine: what it learns, how it adapts, what it claims to know, and its files."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cost_models.controls import AnalyticModel, RandomModel
from cost_models.metrics import Scores, evaluate
from cost_models.xgboost_model import Training, XGBoostModel
from tensorc.errors import UserError
from tensorc.search.model import Samples


@dataclass(frozen=True)
class Machine:
    """A core that multiplies matrices: what spills, misses a cache or unrolls too far costs time."""

    hertz: float = 4e9
    registers: int = 32
    l1: float = 32e3
    l2: float = 1e6
    spill: float = 0.8
    noise: float = 0.03


OTHER = Machine(hertz=2.5e9, registers=16, l1=48e3, l2=2.5e5, spill=1.5)
BASELINE = "log_estimate"
FEATURES = (
    "log_rows", "log_columns", "log_depth", "log_work", "tile_rows", "tile_vectors", "unroll", "block", "order", "tile",
    "registers", "loads", "loads_per_product", "row_waste", "column_waste", "log_tiles", "log_panel", "log_block",
    "log_code", "log_trips", "block_share", BASELINE,
)  # fmt: skip
EMPTY = Samples(np.zeros((0, 0)), np.zeros(0), np.zeros(0, dtype=np.int64))


def measure(shape: tuple[int, int, int], count: int, machine: Machine, rng: np.random.Generator,
            ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Features and log2 seconds of random schedules of one product; the estimate knows the register tile alone."""
    m, n, k = shape
    rows, vectors = rng.integers(1, 17, count).astype(float), rng.integers(1, 5, count).astype(float)
    unroll, order = rng.choice([1.0, 2, 4, 8, 16], count), rng.integers(0, 2, count).astype(float)
    block = np.minimum(rng.choice([32.0, 64, 128, 256, 512, 4096], count), k)
    row_tiles, column_tiles = np.ceil(m / rows), np.ceil(n / 16 / vectors)
    tile, loads, tiles = rows * vectors, rows + vectors, row_tiles * column_tiles
    step = np.maximum(np.maximum(tile / 2, loads / 2), 4) + 0.1 * loads
    estimate = tiles * (step * k + 20 + 2 * tile) / Machine.hertz

    panel, kept, code = vectors * 64 * block, m * block * 4, tile * unroll * 8
    spilled = np.maximum(tile + vectors + 1 - machine.registers, 0) * machine.spill
    loop = 1.5 / unroll + 0.15 * np.maximum(code / 1500 - 1, 0)
    missed = 1.2 * vectors * np.clip(panel / machine.l1 - 1, 0, 1)
    missed += 0.5 * rows * np.clip(kept / machine.l2 - 1, 0, 1) * np.where(order == 1, 0.4, 1)
    cycles = tiles * ((step + spilled + loop + missed) * k + (20 + 2.5 * tile) * np.ceil(k / block)) + 2000
    seconds = cycles / machine.hertz * np.exp(rng.normal(0, machine.noise, count))

    same, log = np.ones(count), np.log2
    columns = (
        log(m) * same, log(n) * same, log(k) * same, log(2.0 * m * n * k) * same, rows, vectors, unroll, block, order,
        tile, tile + vectors + 1, loads, loads / tile, row_tiles * rows / m, column_tiles * vectors * 16 / n,
        log(tiles), log(panel), log(kept), log(code), log(block / unroll), block / k, log(estimate),
    )  # fmt: skip
    return np.stack(columns, axis=1), log(seconds)


def dataset(seed: int, tasks: int, count: int, machine: Machine = Machine(), scale: int = 1) -> Samples:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(tasks):
        m, n = rng.choice([7, 16, 49, 64, 128, 196, 256, 784]), 16 * rng.integers(1, 128)
        k = rng.choice([27, 64, 147, 256, 576, 768, 1152, 3072])
        parts.append(measure((int(m) * scale, int(n) * scale, int(k) * scale), count, machine, rng))
    features, seconds = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Samples(features, seconds, np.repeat(np.arange(tasks), count))


def rows_of(samples: Samples, rows: np.ndarray) -> Samples:
    return Samples(samples.features[rows], samples.log2_seconds[rows], samples.tasks[rows])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model pretrained on 80 tasks."""
    folder = tmp_path_factory.mktemp("cost-model") / "cpu"
    model = XGBoostModel(FEATURES, BASELINE, threads=2)
    model.fit(dataset(0, 80, 40), date="2026-11-21")
    model.save(folder)
    return folder


@pytest.fixture
def model(saved: Path) -> XGBoostModel:
    return XGBoostModel.load(saved, FEATURES)


@pytest.fixture(scope="module")
def held_out() -> Samples:
    return dataset(1, 40, 40)


@pytest.fixture
def scores(model: XGBoostModel, held_out: Samples) -> Scores:
    return evaluate(model, held_out)


# What it learns ---------------------------------------------------------------------------------------------


def test_it_orders_candidates_of_tasks_never_met(scores: Scores, held_out: Samples) -> None:
    chance, estimate = evaluate(RandomModel(0), held_out), evaluate(AnalyticModel(FEATURES.index(BASELINE)), held_out)
    assert scores.pairwise_accuracy > 0.9 > estimate.pairwise_accuracy + 0.1 > chance.pairwise_accuracy + 0.2
    assert scores.best_of[1] > 0.95 > estimate.best_of[1] + 0.1
    assert scores.best_of[1] > chance.best_of[1] + 0.2
    assert scores.rmse < 0.15 < estimate.rmse / 2


def test_the_ranking_head_learns_the_order_by_itself(model: XGBoostModel, held_out: Samples) -> None:
    model.calibration = replace(model.calibration, ranking=1.0, absolute=0.0)
    assert evaluate(model, held_out).pairwise_accuracy > 0.85


def test_metrics_of_the_training_are_those_of_unseen_tasks(model: XGBoostModel, scores: Scores) -> None:
    assert model.training is not None
    metrics = model.training.metrics
    assert metrics["pairwise_accuracy"] == pytest.approx(scores.pairwise_accuracy, abs=0.03)
    assert metrics["rmse"] == pytest.approx(scores.rmse, rel=0.5)
    assert (model.training.samples, model.training.tasks, model.training.date) == (3200, 80, "2026-11-21")


def test_pretraining_needs_several_tasks() -> None:
    with pytest.raises(ValueError, match="at least 8 tasks, not 3"):
        XGBoostModel(FEATURES, BASELINE).fit(dataset(0, 3, 50))


def test_ten_thousand_candidates_take_well_under_a_second(model: XGBoostModel) -> None:
    many = np.resize(dataset(2, 10, 100).features, (10_000, len(FEATURES)))
    model.update(dataset(3, 2, 20))
    # Of the processor's time: what else runs on this machine is not the model's fault.
    start = time.process_time()
    model.rank(many)
    model.predict(many)
    assert time.process_time() - start < 1.0


# What it claims to know -------------------------------------------------------------------------------------


def test_uncertainty_is_calibrated_on_tasks_never_met(scores: Scores) -> None:
    assert scores.coverage == pytest.approx(0.683, abs=0.12)
    assert scores.calibration_error < 0.1


def test_uncertainty_tells_bad_predictions_from_good_ones(model: XGBoostModel, held_out: Samples) -> None:
    prediction = model.predict(held_out.features)
    error = np.abs(prediction.log2_seconds - held_out.log2_seconds)
    order = np.argsort(prediction.uncertainty)
    half = len(order) // 2
    assert error[order[half:]].mean() > 1.2 * error[order[:half]].mean()


def test_uncertainty_grows_far_from_the_data(model: XGBoostModel, held_out: Samples) -> None:
    """Shapes 4 and 32 times as large: predictions get worse, and uncertainty follows until the shapes are met."""
    near = model.predict(held_out.features).uncertainty.mean()
    large, huge = dataset(4, 20, 40, scale=4), dataset(4, 20, 40, scale=32)
    far, farther = (model.predict(samples.features).uncertainty.mean() for samples in (large, huge))
    assert farther > 1.3 * far > 1.3 * near
    assert 0.5 < evaluate(model, huge).coverage < 0.95
    model.update(rows_of(huge, np.arange(0, 800, 4)))
    assert model.predict(huge.features).uncertainty.mean() < farther


def test_uncertainty_covers_another_machine_after_some_measurements(model: XGBoostModel) -> None:
    every = dataset(5, 4, 200, OTHER)
    own = np.arange(len(every)) % 200 < 30
    before = evaluate(model, rows_of(every, ~own))
    model.update(rows_of(every, own))
    after = evaluate(model, rows_of(every, ~own))
    assert before.coverage < 0.1
    assert after.coverage == pytest.approx(0.683, abs=0.15)


# How it adapts ----------------------------------------------------------------------------------------------


def test_ten_measurements_on_another_machine_help(model: XGBoostModel) -> None:
    """On every workload against no update, and on average against a model that knows these ten alone."""
    updated, cold = [], []
    for seed in range(12):
        every = dataset(100 + seed, 1, 200, OTHER)
        own, rest = rows_of(every, np.arange(10)), rows_of(every, np.arange(10, 200))
        model.update(EMPTY)
        before = evaluate(model, rest)
        model.update(own)
        updated.append(evaluate(model, rest))
        assert updated[-1].rmse < before.rmse / 2
        assert updated[-1].pairwise_accuracy > before.pairwise_accuracy
        fresh = XGBoostModel(FEATURES, BASELINE)
        fresh.update(own)
        cold.append(evaluate(fresh, rest))
    assert np.mean([s.rmse for s in updated]) < np.mean([s.rmse for s in cold])
    assert np.mean([s.pairwise_accuracy for s in updated]) > np.mean([s.pairwise_accuracy for s in cold])


def test_measurements_of_one_task_do_not_spoil_the_others(model: XGBoostModel, held_out: Samples) -> None:
    before = evaluate(model, held_out)
    model.update(dataset(20, 1, 50))
    after = evaluate(model, held_out)
    assert after.pairwise_accuracy > before.pairwise_accuracy - 0.02
    assert after.rmse < before.rmse + 0.05


def test_one_measurement_moves_the_level_and_not_the_order(model: XGBoostModel) -> None:
    every = dataset(21, 1, 100, OTHER)
    before, order = evaluate(model, every), model.rank(every.features)
    model.update(rows_of(every, np.arange(1)))
    assert evaluate(model, every).rmse < before.rmse
    assert model.rank(every.features) == pytest.approx(order)


def test_each_update_replaces_the_last_one(model: XGBoostModel, held_out: Samples) -> None:
    fresh = model.predict(held_out.features)
    model.update(dataset(22, 2, 20, OTHER))
    changed = model.predict(held_out.features)
    assert not np.allclose(changed.log2_seconds, fresh.log2_seconds)
    model.update(EMPTY)
    again = model.predict(held_out.features)
    assert again.log2_seconds.tolist() == fresh.log2_seconds.tolist()
    assert again.uncertainty.tolist() == fresh.uncertainty.tolist()


def test_a_model_without_pretraining_is_the_estimate_until_it_learns() -> None:
    every = dataset(23, 4, 200)
    model, column = XGBoostModel(FEATURES, BASELINE), FEATURES.index(BASELINE)
    assert model.predict(every.features).log2_seconds.tolist() == every.features[:, column].tolist()
    assert model.rank(every.features).tolist() == (-every.features[:, column]).tolist()
    assert (model.predict(every.features).uncertainty == 1.0).all()
    own = np.arange(len(every)) % 200 < 40
    before = evaluate(model, rows_of(every, ~own))
    model.update(rows_of(every, own))
    after = evaluate(model, rows_of(every, ~own))
    assert after.pairwise_accuracy > before.pairwise_accuracy + 0.1
    assert after.rmse < before.rmse / 2


# Determinism ------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_threads() -> None:
    samples, own, asked = dataset(30, 10, 20), dataset(31, 2, 15, OTHER), dataset(32, 3, 20)
    found = []
    for threads in (1, 2):
        model = XGBoostModel(FEATURES, BASELINE, seed=5, threads=threads)
        training = model.fit(samples)
        model.update(own)
        prediction = model.predict(asked.features)
        found.append((training, model.rank(asked.features).tolist(), prediction.log2_seconds.tolist(),
                      prediction.uncertainty.tolist()))  # fmt: skip
    assert found[0] == found[1]
    other = XGBoostModel(FEATURES, BASELINE, seed=6)
    other.fit(samples)
    other.update(own)
    assert other.rank(asked.features).tolist() != found[0][1]


def test_a_candidate_is_judged_alone(model: XGBoostModel, held_out: Samples) -> None:
    whole, one = model.rank(held_out.features), model.rank(held_out.features[7:8])
    assert one.tolist() == [whole[7]]
    assert len(model.rank(held_out.features[:0])) == len(model.predict(held_out.features[:0]).uncertainty) == 0


# What it refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_features_that_are_no_numbers_are_refused(model: XGBoostModel, value: float) -> None:
    samples = dataset(40, 8, 2)
    samples.features[3, 9] = value
    for use in (model.predict, model.rank):
        with pytest.raises(ValueError, match=r"feature 'tile' of candidate 3 is .*: not a finite float32"):
            use(samples.features)
    for learn in (model.update, model.fit):
        with pytest.raises(ValueError, match="feature 'tile' of candidate 3"):
            learn(samples)


def test_times_that_are_no_numbers_are_refused(model: XGBoostModel) -> None:
    samples = dataset(40, 8, 2)
    samples.log2_seconds[0] = -np.inf
    for learn in (model.update, model.fit):
        with pytest.raises(ValueError, match="times must be finite and above zero"):
            learn(samples)


def test_other_columns_are_refused(model: XGBoostModel) -> None:
    with pytest.raises(ValueError, match=r"features are \[3, 4\], not \[candidates, 22\]"):
        model.predict(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="the baseline 'guess' is not one of the features"):
        XGBoostModel(FEATURES, "guess")
    with pytest.raises(ValueError, match="at least two members"):
        XGBoostModel(FEATURES, BASELINE, members=1)


# Files ------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_small_and_reads_back_the_same(saved: Path, tmp_path: Path, held_out: Samples) -> None:
    model = XGBoostModel(FEATURES, BASELINE, members=3, seed=9)
    training = model.fit(dataset(50, 12, 20), date="today")
    prediction, ranks = model.predict(held_out.features), model.rank(held_out.features)
    model.update(dataset(51, 1, 5, OTHER))
    model.save(tmp_path / "a" / "b")
    again = XGBoostModel.load(tmp_path / "a" / "b", FEATURES)
    assert isinstance(again.training, Training)
    assert again.training == training
    assert again.predict(held_out.features).log2_seconds.tolist() == prediction.log2_seconds.tolist()
    assert again.predict(held_out.features).uncertainty.tolist() == prediction.uncertainty.tolist()
    assert again.rank(held_out.features).tolist() == ranks.tolist()
    assert sum(path.stat().st_size for path in saved.iterdir()) < 8e6


def test_only_a_pretrained_model_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only a pretrained model can be saved"):
        XGBoostModel(FEATURES, BASELINE).save(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (
            (*FEATURES, "cache_lines"),
            "the target computes features with the unknown cache_lines; train the model again",
        ),
        (FEATURES[1:], "the target computes features without log_rows; train"),
        (("lines", *FEATURES[1:]), "the target computes features without log_rows and with the unknown lines; train"),
        (FEATURES[::-1], "the target computes the same features in another order; train"),
    ],
)
def test_a_model_of_other_features_is_refused(saved: Path, features: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        XGBoostModel.load(saved, features)
    assert str(caught.value).startswith(f"{saved / 'model.json'}: ")
    assert "\n" not in str(caught.value)


def copy(saved: Path, folder: Path) -> Path:
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_damaged_model_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path)
    trees = folder / "ranking-1.ubj"
    trees.write_bytes(trees.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"ranking-1\.ubj: damaged: its SHA-256"):
        XGBoostModel.load(folder, FEATURES)
    trees.unlink()
    with pytest.raises(UserError, match=r"ranking-1\.ubj: No such file or directory; a cost model needs this file"):
        XGBoostModel.load(folder, FEATURES)


@pytest.mark.parametrize(
    "change", [{"format": 99}, {"calibration": {"scale": 1}}, {"sha256": {}}, {"features": None}, {"ranges": [1]}]
)
def test_a_description_that_makes_no_sense_is_refused(saved: Path, tmp_path: Path, change: dict[str, object]) -> None:
    path = copy(saved, tmp_path) / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"model\.json: (format 99 is not 1|not a description of a cost model)"):
        XGBoostModel.load(tmp_path, FEATURES)


@pytest.mark.parametrize("text", ["", "[]", "{", "\0"])
def test_text_that_is_no_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.json: not a description of a cost model"):
        XGBoostModel.load(tmp_path, FEATURES)
