"""A tuning job, and the file that lists many: every field may be a list, and lists multiply.

[defaults]                          # of every job
budget = "60s"
threads = [1, 2]

[[job]]
model = "models/resnet50.onnx"      # relative to the file

[[job]]
model = ["a.onnx", "b.onnx"]
shape = [{ x = "1x3x224x224" }, { x = "8x3x224x224" }]
numerics = "fast"
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from tensorc.errors import UserError
from tensorc.options import CompileOptions, Numerics, Precision, Sizes, parse_shape
from tensorc.search.budget import Budget
from tensorc.target import find_target

_MINUTE = Budget(seconds=60.0)


@dataclass(frozen=True)
class Job:
    """One search; the fields are those of `CompileOptions` and of `tensorc tune`."""

    model: Path
    target: str = "cpu"
    shape: Mapping[str, Sizes] = field(default_factory=dict)
    threads: int = 0
    numerics: Numerics = "strict"
    budget: Budget = _MINUTE
    seed: int = 0
    precision: Precision = "float32"

    def options(self, database: Path | None) -> CompileOptions:
        return CompileOptions(target=self.target, shapes=self.shape, threads=self.threads, database=database,
                              numerics=self.numerics, precision=self.precision)  # fmt: skip

    @property
    def label(self) -> str:
        """The model's name, and what is not as usual."""
        shapes = [f"{name}={'x'.join(map(str, dims))}" for name, dims in self.shape.items()]
        threads = [f"{self.threads} thread{'s' * (self.threads > 1)}"] if self.threads else []
        words = [self.target] * (self.target != "cpu") + threads + shapes + [self.numerics] * (self.numerics == "fast")
        words += [self.precision] * (self.precision != "float32")
        return ", ".join([self.model.stem, *words])

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "model": str(self.model), "budget": str(self.budget)}


def read_jobs(path: Path) -> list[Job]:
    """The jobs of a file, in order. Raises UserError, naming the job and the field, before any work is done."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    _check_names(f"{path}", table, ("defaults", "job"))
    defaults, rows = table.get("defaults", {}), table.get("job", [])
    if not isinstance(defaults, dict) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: write [defaults] and [[job]] as tables")
    if not rows:
        raise UserError(f"{path}: it has no [[job]]")
    _check_names(f"{path}: [defaults]", defaults, _FIELDS)
    jobs = []
    for number, row in enumerate(rows, start=1):
        where = f"{path}: [[job]] {number}"
        _check_names(where, row, _FIELDS)
        jobs += _jobs(where, defaults | row, path.parent)
    return jobs


def _jobs(where: str, row: Mapping[str, Any], folder: Path) -> list[Job]:
    if "model" not in row:
        raise UserError(f"{where}: it has no model")
    choices = []
    for name, value in row.items():
        listed = value if isinstance(value, list) else [value]
        if not listed:
            raise UserError(f"{where}: {name} is an empty list")
        try:
            choices.append([(name, _FIELDS[name](item)) for item in listed])
        except (UserError, TypeError) as error:
            raise UserError(f"{where}: {name}: {error}") from error
    jobs = []
    for chosen in product(*choices):
        job = dict(chosen)
        model = folder / job["model"]
        if not model.is_file():
            raise UserError(f"{where}: there is no model {model}")
        jobs.append(Job(**job | {"model": model}))
    return jobs


def _check_names(where: str, table: Mapping[str, Any], legal: Any) -> None:
    for name in table:
        if name not in legal:
            near = difflib.get_close_matches(name, list(legal), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"{where}: no field {name!r}{hint}; legal: {', '.join(legal)}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{value!r} is not a text")
    return value


def _target(value: Any) -> str:
    find_target(_text(value))
    return str(value)


def _shape(value: Any) -> dict[str, Sizes]:
    if not isinstance(value, dict):
        raise UserError(f'{value!r} is not a table such as {{ x = "1x3x224x224" }}')
    return {name: parse_shape(_text(dims)) for name, dims in value.items()}


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise UserError(f"{value!r} is not a whole number from 0 on")
    return value


def _numerics(value: Any) -> str:
    return CompileOptions(numerics=value).numerics


def _precision(value: Any) -> str:
    return CompileOptions(precision=value).precision


def _budget(value: Any) -> Budget:
    return Budget.parse(str(value) if type(value) is int else _text(value))


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "model": _text,
    "target": _target,
    "shape": _shape,
    "threads": _count,
    "numerics": _numerics,
    "budget": _budget,
    "seed": _count,
    "precision": _precision,
}
assert list(_FIELDS) == [entry.name for entry in fields(Job)]
