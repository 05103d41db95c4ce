"""The learned cost model: ensembles of XGBoost trees, pretrained once and corrected by each run's own measurements.

Two heads. The absolute head learns log2 of measured over estimated seconds: the analytic estimate is one of the
features, and the trees only learn where it is wrong. The ranking head learns which of two candidates of one task is
faster. Both are ensembles whose members saw different tasks (drawn with replacement), so that where they disagree the
model is unsure; the scale of that disagreement is set on tasks that no member saw. Trees are constant beyond their
data and would agree there: uncertainty also grows with the distance from the ranges that were trained on.

Pretrained trees are never changed. `update` trains small trees on what they got wrong in this run, so that a handful
of measurements moves the level on a new machine and nothing is forgotten. A model that was never pretrained corrects
the analytic estimate itself.

A member is trained and asked on one thread, and `threads` only spreads members: results do not depend on it.
Importing this module imports XGBoost (a second or two): import it late.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xgboost

from cost_models.metrics import evaluate
from cost_models.trees import COMMON, DESCRIPTION, boost, difference, outputs, read_booster, save_boosters
from tensorc.errors import UserError
from tensorc.search.model import CostModel, Prediction, Samples

_FORMAT = 1
#: Fewer tasks than this cannot be split into tasks to learn from and tasks to set the scale of uncertainty on.
_FEWEST_TASKS = 8
_HELD_OUT_SHARE = 0.25
_ABSOLUTE = {**COMMON, "objective": "reg:squarederror", "max_depth": 6, "eta": 0.12, "min_child_weight": 4,
             "subsample": 0.8, "colsample_bytree": 0.6}  # fmt: skip
_RANKING = {**COMMON, "objective": "rank:pairwise", "max_depth": 6, "eta": 0.12, "colsample_bytree": 0.6,
            "min_child_weight": 0.1, "lambdarank_pair_method": "mean", "lambdarank_num_pair_per_sample": 8,
            "base_score": 0.0}  # fmt: skip
_ROUNDS = 150
#: Trees on a few own measurements. Few features a split: many explain ten samples equally well, and each shall have
#: its say.
_CORRECTION = {**COMMON, "objective": "reg:squarederror", "max_depth": 3, "eta": 0.3,
               "min_child_weight": 2, "colsample_bynode": 0.3}  # fmt: skip
_CORRECTION_ROUNDS = 30
#: Own measurements weigh against the pretrained scale of uncertainty as if that rested on so many of them.
_SCALE_SAMPLES = 8
#: However well they went, they do not make the model certain.
_LEAST_SCALE = 0.01
#: The share of a normal distribution within one standard deviation.
_ONE_SIGMA = 0.6827


@dataclass(frozen=True)
class Calibration:
    """Uncertainty is scale * sqrt(disagreement^2 + floor^2). A candidate's score, in units of log2 of speed, is
    ranking * (score of the ranking head) - absolute * (log2 seconds of the absolute head)."""

    scale: float
    floor: float
    ranking: float
    absolute: float


#: Before any training: the estimate may be off by a factor of two.
_UNTRAINED = Calibration(scale=1.0, floor=1.0, ranking=0.0, absolute=1.0)


@dataclass(frozen=True)
class Training:
    """What a pretrained model rests on. `metrics` were taken on tasks held out from a twin trained on the rest."""

    date: str
    samples: int
    tasks: int
    seed: int
    xgboost: str
    metrics: dict[str, float]


class XGBoostModel(CostModel):
    """Predicts from columns named `features`, of which `baseline` is log2 of the analytic estimate in seconds."""

    name = "xgboost"

    def __init__(self, features: Sequence[str], baseline: str, *, members: int = 5, seed: int = 0, threads: int = 1):
        if baseline not in features:
            raise ValueError(f"the baseline {baseline!r} is not one of the features")
        if members < 2:
            raise ValueError("disagreement needs at least two members")
        self.features = tuple(features)
        self.baseline = baseline
        self.members = members
        self.seed = seed
        self.threads = threads
        self.training: Training | None = None
        self.calibration = _UNTRAINED
        self._absolute: list[xgboost.Booster] = []
        self._ranking: list[xgboost.Booster] = []
        self._seconds_correction: list[xgboost.Booster] = []
        self._speed_correction: list[xgboost.Booster] = []
        self._own_scale = 1.0
        #: Least and greatest value of each feature met, [2, features]; None before pretraining.
        self._trained_range: np.ndarray | None = None
        self._range: np.ndarray | None = None

    # Prediction -----------------------------------------------------------------------------------------

    def predict(self, features: np.ndarray) -> Prediction:
        """The members' mean, and their calibrated disagreement."""
        rows = self._checked(features)
        every = self._prior_seconds(features, rows) + outputs(self._seconds_correction, rows)
        return Prediction(every.mean(axis=0), self._own_scale * self._deviation(every, rows))

    def rank(self, features: np.ndarray) -> np.ndarray:
        """What both heads say together, in units of log2 of speed."""
        rows = self._checked(features)
        scores: np.ndarray = self._prior_speed(self._prior_seconds(features, rows), rows)
        scores += _mean(self._speed_correction, rows)
        return scores

    def _prior_seconds(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Each member's log2 seconds before this run's corrections, [members, candidates] (or [1, candidates])."""
        seconds: np.ndarray = features[:, self.features.index(self.baseline)] + outputs(self._absolute, rows)
        return seconds

    def _prior_speed(self, seconds: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores before this run's corrections, from the absolute head's `seconds`."""
        speed: np.ndarray = self.calibration.ranking * _mean(self._ranking, rows)
        speed -= self.calibration.absolute * seconds.mean(axis=0)
        return speed

    def _deviation(self, every: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The calibrated disagreement of the members' predictions `every` for `rows`."""
        spread = np.hypot(every.std(axis=0, ddof=1) if len(every) > 1 else np.zeros(len(rows)), self.calibration.floor)
        deviation: np.ndarray = self.calibration.scale * spread * self._strangeness(rows)
        return deviation

    def _strangeness(self, rows: np.ndarray) -> np.ndarray:
        """1 within the ranges of the features met so far, 2 where some feature is a whole range beyond its own."""
        if self._range is None:
            return np.ones(len(rows))
        low, high = self._range
        beyond = np.maximum(np.maximum(low - rows, rows - high), 0) / np.where(high > low, high - low, 1)
        strangeness: np.ndarray = 1 + np.log2(1 + beyond.max(axis=1).astype(np.float64))
        return strangeness

    # Pretraining ----------------------------------------------------------------------------------------

    def fit(self, samples: Samples, date: str = "") -> Training:
        """Pretrain from nothing, on at least 8 tasks. `date` is only kept; own measurements are forgotten.

        Uncertainty is calibrated, and metrics are taken, with a twin trained without a quarter of the tasks.
        """
        rows = self._checked_samples(samples)
        tasks = np.unique(samples.tasks)
        if len(tasks) < _FEWEST_TASKS:
            raise ValueError(f"pretraining needs samples of at least {_FEWEST_TASKS} tasks, not {len(tasks)}")
        shuffled = np.random.default_rng(self.seed).permutation(tasks)
        held = shuffled[: max(int(len(tasks) * _HELD_OUT_SHARE), 2)]
        twin = XGBoostModel(self.features, self.baseline, members=self.members, seed=self.seed, threads=self.threads)
        outside = ~np.isin(samples.tasks, held)
        twin._train(_select(samples, outside), rows[outside])
        # Half of the held-out tasks set the scale, the other half tells how good it is.
        twin._calibrate(_select(samples, np.isin(samples.tasks, held[::2])))
        scores = evaluate(twin, _select(samples, np.isin(samples.tasks, held[1::2])))
        twin._calibrate(_select(samples, ~outside))

        self._seconds_correction, self._speed_correction, self._own_scale = [], [], 1.0
        self._train(samples, rows)
        self.calibration = twin.calibration
        metrics = {
            "pairwise_accuracy": scores.pairwise_accuracy,
            "peak_score_1": scores.peak_score[1],
            "peak_score_5": scores.peak_score[5],
            "rmse": scores.rmse,
            "throughput_rmse": scores.throughput_rmse,
            "coverage": scores.coverage,
            "calibration_error": scores.calibration_error,
        }
        self.training = Training(date, len(samples), len(tasks), self.seed, xgboost.__version__, metrics)
        return self.training

    def _train(self, samples: Samples, rows: np.ndarray) -> None:
        residual = samples.log2_seconds - samples.features[:, self.features.index(self.baseline)]
        _, groups = np.unique(samples.tasks, return_inverse=True)
        best = np.full(groups.max() + 1, np.inf)
        np.minimum.at(best, groups, samples.log2_seconds)
        relevance = np.exp2(best[groups] - samples.log2_seconds)
        order = np.argsort(groups, kind="stable")

        def absolute(member: int) -> xgboost.Booster:
            drawn = self._drawn(member, len(best))[groups]
            return boost(
                _ABSOLUTE, _ROUNDS, self._seed(member), float(np.average(residual, weights=drawn)),
                data=rows[drawn > 0], label=residual[drawn > 0], weight=drawn[drawn > 0],
            )  # fmt: skip

        def ranking(member: int) -> xgboost.Booster:
            drawn = self._drawn(member, len(best))
            kept = order[drawn[groups[order]] > 0]
            return boost(
                _RANKING, _ROUNDS, self._seed(member), 0.0,
                data=rows[kept], label=relevance[kept], qid=groups[kept], weight=drawn[drawn > 0],
            )  # fmt: skip

        self._absolute = self._every(absolute)
        self._ranking = self._every(ranking)
        self._trained_range = self._range = np.stack([rows.min(axis=0), rows.max(axis=0)])

    def _calibrate(self, samples: Samples) -> None:
        """Set the scale and the floor of the uncertainty and the heads' weights on tasks that were not trained on."""
        rows = self._checked(samples.features)
        every = self._prior_seconds(samples.features, rows)
        error = np.abs(samples.log2_seconds - every.mean(axis=0)) / self._strangeness(rows)
        spread = every.std(axis=0, ddof=1)
        floor, scale, least = 0.0, 1.0, np.inf
        for candidate in np.sqrt(np.mean(error**2)) * np.exp2(np.arange(-6.0, 1.5, 0.5)):
            shape = np.hypot(spread, candidate)
            # The likelihood of a normal distribution whose deviation is `shape`, times the best factor for it.
            loss = np.log(np.mean((error / shape) ** 2)) / 2 + np.mean(np.log(shape))
            if loss < least:
                floor, scale, least = float(candidate), float(np.quantile(error / shape, _ONE_SIGMA)), float(loss)
        scores = _mean(self._ranking, rows), -every.mean(axis=0), -samples.log2_seconds
        *heads, speed = (_centred(score, samples.tasks) for score in scores)
        ranking, absolute = np.linalg.lstsq(np.stack(heads, axis=1), speed)[0].tolist()
        self.calibration = Calibration(scale, floor, ranking, absolute)

    # This run's measurements ----------------------------------------------------------------------------

    def update(self, samples: Samples) -> None:
        """Correct both heads by small trees on what they got wrong; none for no samples."""
        self._seconds_correction, self._speed_correction, self._own_scale = [], [], 1.0
        self._range = self._trained_range
        if not len(samples):
            return
        rows = self._checked_samples(samples)
        if self._range is not None:
            low, high = self._range
            self._range = np.stack([np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))])
        seconds = self._prior_seconds(samples.features, rows)
        wrong = np.broadcast_to(samples.log2_seconds - seconds, (self.members, len(samples)))
        wrong_order = _centred(-samples.log2_seconds - self._prior_speed(seconds, rows), samples.tasks)
        drawn = [self._drawn(member, len(samples)) for member in range(self.members)]

        def correct(member: int, residual: np.ndarray) -> xgboost.Booster:
            kept = drawn[member] > 0
            # Each task counts alike for the level: it is what a task never met will be told.
            level = np.mean([residual[samples.tasks == task].mean() for task in np.unique(samples.tasks)])
            return boost(
                _CORRECTION, _CORRECTION_ROUNDS, self._seed(member), float(level),
                data=rows[kept], label=residual[kept], weight=drawn[member][kept],
            )  # fmt: skip

        self._seconds_correction = self._every(lambda member: correct(member, wrong[member]))
        self._speed_correction = self._every(lambda member: correct(member, wrong_order))
        self._rescale(samples, rows, seconds + outputs(self._seconds_correction, rows), np.stack(drawn) == 0)

    def _rescale(self, samples: Samples, rows: np.ndarray, every: np.ndarray, unseen: np.ndarray) -> None:
        """Scale the uncertainty by the errors of members on the measurements that they did not draw."""
        some = unseen.any(axis=0)
        if not some.any():
            return
        honest = np.average(every[:, some], axis=0, weights=unseen[:, some])
        error = np.abs(samples.log2_seconds[some] - honest) / self._deviation(every[:, some], rows[some])
        own = float(np.quantile(error, _ONE_SIGMA))
        self._own_scale = max(own, _LEAST_SCALE) ** (len(error) / (_SCALE_SAMPLES + len(error)))

    # Files ----------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the pretrained trees as XGBoost's own files and `model.json` beside them; what this run measured is
        the database's to keep. The JSON is written last: a folder without it holds no model."""
        if self.training is None or self._trained_range is None:
            raise ValueError("only a pretrained model can be saved")
        digests = save_boosters(folder, {"absolute": self._absolute, "ranking": self._ranking})
        description = {
            "format": _FORMAT,
            "features": list(self.features),
            "baseline": self.baseline,
            "members": self.members,
            "ranges": self._trained_range.tolist(),
            "calibration": asdict(self.calibration),
            "training": asdict(self.training),
            "sha256": digests,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, features: Sequence[str], *, seed: int = 0, threads: int = 1) -> XGBoostModel:
        """Read what `save` wrote. Raises UserError when a file is missing or damaged, or when the model was trained on
        other columns than `features`, those that the target computes."""
        path = folder / DESCRIPTION
        try:
            description = json.loads(path.read_text())
            if description["format"] != _FORMAT:
                raise UserError(f"{path}: format {description['format']} is not {_FORMAT}; train the model again")
            known = tuple(description["features"])
            if known != tuple(features):
                raise UserError(f"{path}: {difference(known, features)}; train the model again")
            model = cls(known, description["baseline"], members=description["members"], seed=seed, threads=threads)
            model.calibration = Calibration(**description["calibration"])
            model.training = Training(**description["training"])
            ranges = np.array(description["ranges"], dtype=np.float32).reshape(2, len(known))
            model._trained_range = model._range = ranges
            digests: dict[str, str] = description["sha256"]
            for head, boosters in (("absolute", model._absolute), ("ranking", model._ranking)):
                names = [f"{head}-{member}.ubj" for member in range(model.members)]
                boosters += [read_booster(folder / name, digests[name]) for name in names]
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; a cost model needs this file") from error
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a description of a cost model: {error!r}") from error
        return model

    # Parts ----------------------------------------------------------------------------------------------

    def _checked(self, features: np.ndarray) -> np.ndarray:
        """The features as XGBoost wants them."""
        if features.ndim != 2 or features.shape[1] != len(self.features):
            raise ValueError(f"features are {list(features.shape)}, not [candidates, {len(self.features)}]")
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(features, dtype=np.float32)
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
            raise ValueError(
                f"feature {self.features[column]!r} of candidate {row} is {features[row, column]}: not a finite float32"
            )
        return rows

    def _checked_samples(self, samples: Samples) -> np.ndarray:
        if not np.isfinite(samples.log2_seconds).all():
            raise ValueError("measured times must be finite and above zero")
        return self._checked(samples.features)

    def _seed(self, member: int) -> int:
        return self.seed * 1000 + member

    def _drawn(self, member: int, count: int) -> np.ndarray:
        """How often the member's draw of `count` out of `count`, with replacement, met each."""
        rng = np.random.default_rng([self.seed, member])
        return np.bincount(rng.integers(count, size=count), minlength=count)

    def _every(self, train: Callable[[int], xgboost.Booster]) -> list[xgboost.Booster]:
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(train, range(self.members)))


def _mean(boosters: Sequence[xgboost.Booster], rows: np.ndarray) -> np.ndarray:
    mean: np.ndarray = outputs(boosters, rows).mean(axis=0)
    return mean


def _select(samples: Samples, mask: np.ndarray) -> Samples:
    return Samples(samples.features[mask], samples.log2_seconds[mask], samples.tasks[mask])


def _centred(values: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """`values` less their mean over each task."""
    _, groups, counts = np.unique(tasks, return_inverse=True, return_counts=True)
    centred: np.ndarray = values - (np.bincount(groups, weights=values) / counts)[groups]
    return centred
