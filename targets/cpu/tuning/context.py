"""The CPU target, as far as tuning goes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

import cost_models
from targets.cpu.features import BASELINE, FEATURES, features
from targets.cpu.kernels import head
from targets.cpu.machine import Machine, available_cores
from targets.cpu.schedules import KINDS
from targets.cpu.spaces import space_of
from targets.cpu.tuning.bundle import export_bundle, import_results
from targets.cpu.tuning.measure import core_cpus
from targets.cpu.tuning.measurer import CpuMeasurer
from tensorc.ir import Graph
from tensorc.options import Numerics
from tensorc.search.bundle import BundleResults, BundleTask
from tensorc.search.context import TuningContext
from tensorc.search.measure import Measurer
from tensorc.search.model import CostModel
from tensorc.search.space import ScheduleJson, Space

#: What decides the code that is made of a workload and a schedule, from the root of the packages.
_GENERATOR = ("tensorc/lowering", "targets/cpu/kernels", "targets/cpu/codegen.py")
_ROOT = Path(__file__).resolve().parents[3]
PRETRAINED = Path(cost_models.__file__).parent / "pretrained" / "cpu"


class CpuTuning(TuningContext):
    """Of kernels for `machine`; `threads` of 0 means all cores."""

    def __init__(self, machine: Machine, threads: int, numerics: Numerics = "strict"):
        self.numerics = numerics
        self.target = machine
        self.machine = f"cpu {machine.name}, {machine.vector_bits}-bit vectors"
        self.compiler = generator()
        self.threads = threads or available_cores()

    def space(self, body: Graph) -> Space | None:
        return space_of(body, self.target, self.numerics)

    def features(self, body: Graph, schedules: Sequence[ScheduleJson]) -> np.ndarray:
        return features(body, self.target, self.threads, schedules)

    def packing(self, body: Graph, schedule: ScheduleJson) -> Hashable:
        knobs = KINDS[schedule["kind"]].packing
        node = head(body)
        assert node is not None
        return (str(node.inputs[1].type), schedule["kind"], *(schedule[knob] for knob in knobs)) if knobs else None

    def pretrained(self, seed: int = 0) -> CostModel | None:
        if not PRETRAINED.is_dir():
            return None
        from cost_models.xgboost_model import XGBoostModel

        return XGBoostModel.load(PRETRAINED, FEATURES, seed=seed)

    def untrained(self, seed: int = 0) -> CostModel:
        from cost_models.xgboost_model import XGBoostModel

        return XGBoostModel(FEATURES, BASELINE, seed=seed)

    def cores(self) -> Sequence[int]:
        return core_cpus()

    def export_bundle(self, folder: Path, tasks: Sequence[BundleTask],
                      progress: Callable[[int, int], None] | None = None) -> None:  # fmt: skip
        export_bundle(folder, tasks, self.target, progress)

    def import_bundle(self, folder: Path) -> BundleResults:
        return import_results(folder)

    def measurer(self) -> Measurer:
        return CpuMeasurer(self.target, self.threads)


@cache
def generator() -> str:
    """The code generator's version: TVM's, and a hash of our own part's source, since any change to it may change
    what is measured."""
    digest = hashlib.sha256()
    for place in _GENERATOR:
        path = _ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return f"tensorc {digest.hexdigest()[:12]}, tvm {version('apache-tvm')}"
