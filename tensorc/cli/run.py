"""`tensorc run`: an artifact on arrays from files, or on random ones."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from tensorc.cli.console import duration, print_json, print_table, tensor
from tensorc.cli.options import (
    Shape,
    input_option,
    json_option,
    model_argument,
    refuse_for_artifact,
    shape_option,
    threads_option,
)
from tensorc.cli.subject import is_free
from tensorc.errors import UserError
from tensorc.runtime.artifact import replaced_file
from tensorc.runtime.model import Model, TensorInfo, load
from tensorc.sampling import Spec, random_inputs


@click.command()
@model_argument("OUT.tcm|DIR", folders=True)
@input_option
@click.option("--random", "seed", type=click.IntRange(min=0), metavar="SEED",
              help="Draw the inputs that are not given; integers are 0 or 1.")  # fmt: skip
@click.option("--output", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Write every output there, as NAME.npy.")  # fmt: skip
@shape_option
@threads_option
@json_option
def run(
    model: Path, files: dict[str, Path], seed: int | None, folder: Path | None, shapes: dict[str, Shape], threads: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Run a compiled model once."""
    start = time.perf_counter()
    loaded = load(model, threads)
    load_seconds = time.perf_counter() - start
    with loaded:
        refuse_for_artifact(model, None, {} if is_free(loaded.manifest) else shapes)
        feed = _feed(loaded, files, seed, shapes)
        start = time.perf_counter()
        results = loaded.run(None, feed)
        run_seconds = time.perf_counter() - start
    outputs = dict(zip([info.name for info in loaded.get_outputs()], results, strict=True))
    written = _write(outputs, folder) if folder is not None else {}
    rows = [{**_described(name, array), "file": written.get(name)} for name, array in outputs.items()]
    if as_json:
        timing = {"load_ms": load_seconds * 1e3, "run_ms": run_seconds * 1e3}
        print_json({"model": str(model), "target": loaded.manifest["target"], **timing, "outputs": rows})
    else:
        title = f"{model}: loaded in {duration(load_seconds)}, first run {duration(run_seconds)}"
        columns = ("output", "type", "min", "mean", "max", "file")
        print_table(title, columns, [
            (row["name"], tensor(row), *(f"{row[key]:.6g}" for key in ("min", "mean", "max")), row["file"] or "-")
            for row in rows
        ])  # fmt: skip
    return 0


def _feed(model: Model, files: dict[str, Path], seed: int | None, shapes: dict[str, Shape]) -> dict[str, np.ndarray]:
    infos = {info.name: info for info in model.get_inputs()}
    legal = f"inputs: {', '.join(f'{i.name} {i.dtype}{i.shape}' for i in infos.values()) or 'none'}"
    for name in files:
        if name not in infos:
            raise UserError(f"no input is named {name!r}; {legal}")
    missing = [info for name, info in infos.items() if name not in files]
    if missing and seed is None:
        raise UserError(f"input {missing[0].name!r} is missing: give --input or --random SEED; {legal}")
    feed = {name: _read(path, infos[name]) for name, path in files.items()}
    specs = Spec.of_manifest([vars(info) for info in missing], shapes)
    return feed | random_inputs(specs, seed or 0)


def _read(path: Path, info: TensorInfo) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is not an array that numpy.save wrote: {error}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive of arrays; it must be one array, as numpy.save writes it")
    if array.dtype.name != info.dtype or not info.admits(array.shape):
        raise UserError(f"{path} holds {array.dtype.name}{list(array.shape)}; the input is {info.dtype}{info.shape}")
    return array


def _write(outputs: dict[str, np.ndarray], folder: Path) -> dict[str, str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    written: dict[str, str] = {}
    for name, array in outputs.items():
        stem = file_stem(name)
        while str(folder / f"{stem}.npy") in written.values():
            stem += "_"
        path = folder / f"{stem}.npy"
        with replaced_file(path) as file:
            np.save(file, array)
        written[name] = str(path)
    return written


def file_stem(name: str) -> str:
    """An output's name as a file name: no folders, nothing hidden, never empty."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "output"


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    # Without a copy, which would be the largest thing in memory.
    statistics = (array.min(), array.mean(dtype=np.float64), array.max()) if array.size else (np.nan,) * 3
    return row | {key: float(value) for key, value in zip(("min", "mean", "max"), statistics, strict=True)}
