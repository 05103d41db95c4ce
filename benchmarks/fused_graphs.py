"""Networks as the CPU target fuses them, by the names of files, of light models, or `random_wired_SEED`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import onnx
from light_models import fill_weights, light_models
from random_wired import random_wired

from tensorc.frontend import import_model
from tensorc.ir import Graph
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.target import find_target

_RANDOM_WIRED = re.compile(r"random_wired_(\d+)")
DEFAULTS = (*(path.stem for path in light_models()), *(f"random_wired_{seed}" for seed in range(3)))


def fused(name: str) -> Graph:
    """Fused, with copies, in the order that the model has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(name)
        light = {path.stem: path for path in light_models()}
        if name in light:
            path = Path(folder, f"{name}.onnx")
            fill_weights(light[name], path)
        elif found := _RANDOM_WIRED.fullmatch(name):
            path = Path(folder, f"{name}.onnx")
            onnx.save(random_wired(int(found[1])), path)
        graph = import_model(path).graph
        passes = [step for step in find_target("cpu").passes(CompileOptions()) if step.name != "order"]
        run_passes(graph, passes)
    return graph
