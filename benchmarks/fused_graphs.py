"""Networks as the CPU target fuses them, by the names of files, of light models, or `random_wired_SEED`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import onnx
from light_models import fill_weights, light_models
from random_wired import random_wired

from tensorc.frontend import import_model
from tensorc.frontend.importer import Sizes
from tensorc.ir import Graph
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.target import find_target

_RANDOM_WIRED = re.compile(r"random_wired_(\d+)")
DEFAULTS = (*(path.stem for path in light_models()), *(f"random_wired_{seed}" for seed in range(3)))


def onnx_file(name: str, folder: Path) -> Path:
    """The file of that name, or a new one in `folder`."""
    light = {path.stem: path for path in light_models()}
    path = folder / f"{name}.onnx"
    if name in light:
        fill_weights(light[name], path)
    elif found := _RANDOM_WIRED.fullmatch(name):
        onnx.save(random_wired(int(found[1])), path)
    else:
        path = Path(name)
    return path


def fused(path: Path, shapes: Mapping[str, Sizes] | None = None) -> Graph:
    """Fused, with copies, in the order that the model has."""
    graph = import_model(path, shapes).graph
    passes = [step for step in find_target("cpu").passes(CompileOptions()) if step.name != "order"]
    run_passes(graph, passes)
    return graph
