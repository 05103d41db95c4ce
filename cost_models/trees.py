"""XGBoost's trees as the cost models use them: trained on one thread, kept as XGBoost's own files that are checked by
their digests before XGBoost is asked to make sense of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from tensorc.errors import UserError

#: The file that describes a folder's trees. It is written last: a folder without it holds no model.
DESCRIPTION = "model.json"
COMMON = {"nthread": 1, "tree_method": "hist", "max_bin": 128, "verbosity": 0}


def boost(parameters: dict[str, Any], rounds: int, seed: int, base: float, **data: Any) -> xgboost.Booster:
    """Trees on `data` (as a DMatrix takes it), which start from `base`."""
    # A QuantileDMatrix would start a thread for each core whatever its `nthread`: they would disturb measurements.
    matrix = xgboost.DMatrix(nthread=1, **data)
    return xgboost.train({**parameters, "seed": seed, "base_score": base}, matrix, rounds)


def outputs(boosters: Sequence[xgboost.Booster], rows: np.ndarray) -> np.ndarray:
    """[boosters, rows]; one row of zeros where there is no booster."""
    if not boosters or not len(rows):
        return np.zeros((max(len(boosters), 1), len(rows)))
    outputs: np.ndarray = np.stack([booster.inplace_predict(rows) for booster in boosters]).astype(np.float64)
    return outputs


def save_boosters(folder: Path, ensembles: Mapping[str, Sequence[xgboost.Booster]]) -> dict[str, str]:
    """Write each ensemble's members into `folder`, made if need be and emptied of another model; gives their digests
    by file name, for the description that the caller writes next."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (folder / DESCRIPTION, *folder.glob("*.ubj")):
        stale.unlink(missing_ok=True)
    digests = {}
    for ensemble, boosters in ensembles.items():
        for member, booster in enumerate(boosters):
            data = bytes(booster.save_raw("ubj"))
            name = f"{ensemble}-{member}.ubj"
            (folder / name).write_bytes(data)
            digests[name] = hashlib.sha256(data).hexdigest()
    return digests


def difference(known: Sequence[str], wanted: Sequence[str]) -> str:
    """In what the columns of a stored model are not those that the target computes."""
    gone, new = [n for n in known if n not in wanted], [n for n in wanted if n not in known]
    parts = [f"{label} {', '.join(names)}" for label, names in (("without", gone), ("with the unknown", new)) if names]
    if not parts:
        return "the target computes the same features in another order"
    return f"the target computes features {' and '.join(parts)}"


def read_booster(path: Path, digest: str) -> xgboost.Booster:
    """A booster on one thread. XGBoost is not asked to make sense of a damaged file."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path}: damaged: its SHA-256 is not the one in {DESCRIPTION}")
    booster = xgboost.Booster(model_file=bytearray(data))
    booster.set_param({"nthread": 1})
    return booster
