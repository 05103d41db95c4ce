"""The graph-level cost model: what a fused group will cost, from the structure of its body, before any schedule.

It sees what the graph IR says (operators, shapes, types, how they are connected) and predicts what the compiler will
make of it: latency, instructions, size of the code and bytes of buffers. Graph passes ask it; kernels' schedules are
the other model's affair (`cost_models.xgboost_model`).

One ensemble of XGBoost trees for each quantity learns log2 of the true over the estimated value, where the estimate is
plain arithmetic on shapes and is a feature too. Unlike the schedules' model it is not corrected by own measurements:
it compares bodies for one machine, and a level that is off for all alike does no harm there.

Importing this module imports XGBoost (a second or two): import it late.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import xgboost

from cost_models.graph_features import FEATURES, QUANTITIES, GroupCost, group_features
from cost_models.trees import COMMON, DESCRIPTION, boost, difference, outputs, read_booster, save_boosters
from tensorc.errors import UserError
from tensorc.ir import Graph

_FORMAT = 1
_TREES = {**COMMON, "objective": "reg:squarederror", "max_depth": 5, "eta": 0.1, "min_child_weight": 3,
          "subsample": 0.8, "colsample_bytree": 0.5}  # fmt: skip
_ROUNDS = 110


@dataclass(frozen=True)
class Training:
    """What a model rests on. `metrics` were taken on networks that the judged models had not seen."""

    date: str
    samples: int
    seed: int
    xgboost: str
    metrics: dict[str, float]


class GraphModel:
    """Predicts what bodies cost: the estimate, corrected by trees once there are any."""

    def __init__(self, *, members: int = 1, seed: int = 0):
        self.members = members
        self.seed = seed
        self.training: Training | None = None
        self._trees: dict[str, list[xgboost.Booster]] = {name: [] for name in QUANTITIES}

    def fit(self, bodies: Sequence[Graph], costs: Sequence[GroupCost], date: str = "",
            metrics: dict[str, float] | None = None) -> None:  # fmt: skip
        """Train from nothing. `date` and `metrics` are only kept. Raises ValueError for costs that no group has."""
        if not bodies or len(bodies) != len(costs):
            raise ValueError(f"{len(bodies)} bodies and {len(costs)} costs are nothing to learn from")
        targets = np.array([astuple(cost) for cost in costs], dtype=np.float64)
        if not (np.isfinite(targets).all() and (targets > 0).all()):
            raise ValueError("costs must be finite and above zero")
        rows = _rows(bodies)
        for column, name in enumerate(QUANTITIES):
            residual = np.log2(targets[:, column]) - rows[:, FEATURES.index(f"estimate_{name}")]
            base = float(residual.mean())
            self._trees[name] = [
                boost(_TREES, _ROUNDS, self.seed * 1000 + member, base, data=rows, label=residual)
                for member in range(self.members)
            ]
        self.training = Training(date, len(bodies), self.seed, xgboost.__version__, metrics or {})

    def predict(self, bodies: Sequence[Graph]) -> list[GroupCost]:
        """What each body costs."""
        if not bodies:
            return []
        rows = _rows(bodies)
        columns = [
            np.exp2(rows[:, FEATURES.index(f"estimate_{name}")] + outputs(self._trees[name], rows).mean(axis=0))
            for name in QUANTITIES
        ]
        return [GroupCost(*values) for values in np.stack(columns, axis=1).astype(float).tolist()]

    def fastest(self, ways: Sequence[Sequence[Graph]], margin: float = 1.0) -> int:
        """The number of the way, kernels of bodies one after the other, that takes the shortest time. It is the first
        one unless that takes more than `margin` times as long."""
        costs = iter(self.predict([body for way in ways for body in way]))
        seconds = [sum(next(costs).seconds for _ in way) for way in ways]
        best = int(np.argmin(seconds))
        return best if seconds[0] > margin * seconds[best] else 0

    # Files ----------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the trees as XGBoost's own files and `model.json` beside them, which is written last: a folder without
        it holds no model."""
        if self.training is None:
            raise ValueError("only a trained model can be saved")
        digests = save_boosters(folder, self._trees)
        description = {
            "format": _FORMAT,
            "kind": "graph",
            "features": list(FEATURES),
            "members": self.members,
            "training": asdict(self.training),
            "sha256": digests,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> GraphModel:
        """Read what `save` wrote. Raises UserError when a file is missing, damaged, or of another kind of model."""
        path = folder / DESCRIPTION
        try:
            description = json.loads(path.read_text())
            if description["kind"] != "graph" or description["format"] != _FORMAT:
                raise UserError(f"{path}: not a graph model of format {_FORMAT}; train the model again")
            known = tuple(description["features"])
            if known != FEATURES:
                raise UserError(f"{path}: {difference(known, FEATURES)}; train the model again")
            training = Training(**description["training"])
            model = cls(members=description["members"], seed=training.seed)
            model.training = training
            digests: dict[str, str] = description["sha256"]
            for quantity in QUANTITIES:
                names = [f"{quantity}-{member}.ubj" for member in range(model.members)]
                model._trees[quantity] = [read_booster(folder / name, digests[name]) for name in names]
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; a cost model needs this file") from error
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a description of a graph model: {error!r}") from error
        return model


def _rows(bodies: Sequence[Graph]) -> np.ndarray:
    """[bodies, features] as XGBoost wants them."""
    return np.ascontiguousarray([group_features(body) for body in bodies], dtype=np.float32)
