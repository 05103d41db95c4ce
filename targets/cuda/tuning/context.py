"""The CUDA target, as far as tuning goes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from targets.cpu.kernels import head
from targets.cpu.tuning.bundle import import_results
from targets.cuda.gpu import Gpu
from targets.cuda.schedules import KINDS
from targets.cuda.spaces import space_of
from targets.cuda.tuning.bundle import export_bundle
from targets.cuda.tuning.features import BASELINE, FEATURES, features
from targets.cuda.tuning.measurer import CudaMeasurer
from tensorc.ir import Graph
from tensorc.options import Numerics
from tensorc.search.bundle import BundleResults, BundleTask
from tensorc.search.context import TuningContext
from tensorc.search.measure import Measurer
from tensorc.search.model import CostModel
from tensorc.search.space import ScheduleJson, Space

#: What decides the code that is made of a workload and a schedule, from the root of the packages.
_GENERATOR = ("tensorc/lowering", "targets/cpu/kernels", "targets/cuda/kernels", "targets/cuda/codegen.py",
              "targets/cuda/compiler.py", "targets/cuda/prelude.cuh")  # fmt: skip
_ROOT = Path(__file__).resolve().parents[3]


class CudaTuning(TuningContext):
    """Of kernels for `gpu`."""

    threads = 1
    bundle_needs = "Python, numpy and cuda-bindings"

    def __init__(self, gpu: Gpu, numerics: Numerics = "strict"):
        self.gpu = gpu
        self.numerics = numerics
        self.machine = f"cuda {gpu.name}"
        self.compiler = generator()

    def space(self, body: Graph) -> Space | None:
        return space_of(body, self.gpu, self.numerics)

    def features(self, body: Graph, schedules: Sequence[ScheduleJson]) -> np.ndarray:
        return features(body, self.gpu, schedules)

    def packing(self, body: Graph, schedule: ScheduleJson) -> Hashable:
        knobs = KINDS[schedule["kind"]].packing
        node = head(body)
        assert node is not None
        return (str(node.inputs[1].type), schedule["kind"], *(schedule[knob] for knob in knobs)) if knobs else None

    def pretrained(self, seed: int = 0) -> CostModel | None:  # noqa: ARG002  (the contract's)
        """None: no measurements to learn from come with the target. The rules choose by the analytic estimate."""
        return None

    def untrained(self, seed: int = 0) -> CostModel:
        from cost_models.xgboost_model import XGBoostModel

        return XGBoostModel(FEATURES, BASELINE, seed=seed)

    def export_bundle(self, folder: Path, tasks: Sequence[BundleTask],
                      progress: Callable[[int, int], None] | None = None) -> None:  # fmt: skip
        export_bundle(folder, tasks, self.gpu, progress)

    def import_bundle(self, folder: Path) -> BundleResults:
        return import_results(folder)

    def measurer(self) -> Measurer:
        return CudaMeasurer(self.gpu)


@cache
def generator() -> str:
    """The code generator's version: TVM's, NVRTC's, and a hash of our own part's source."""
    digest = hashlib.sha256()
    for place in _GENERATOR:
        path = _ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    made_by = f"tvm {version('apache-tvm')}, nvrtc {version('nvidia-cuda-nvrtc')}"
    return f"tensorc {digest.hexdigest()[:12]}, {made_by}"
