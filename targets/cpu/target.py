"""What the core asks of the CPU target. TVM is imported when something is built, never to run an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cost_models
from targets.cpu import machine as machines
from targets.cpu.executable import CpuExecutable
from tensorc.ir import OPS, Graph, Kind, Node
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass
from tensorc.search.choice import Choice
from tensorc.search.context import TuningContext
from tensorc.target import Executable, Program, Progress, Target

if TYPE_CHECKING:
    from cost_models.graph_model import GraphModel
    from passes.fusion import Choose

#: Models of what fused groups cost, in folders by the bits of the vectors that they were trained with.
GROUP_MODELS = Path(cost_models.__file__).parent / "pretrained" / "cpu_groups"
#: One kernel is made of a doubtful group unless it is predicted to take so many times as long as several.
FUSION_MARGIN = 1.2


class CpuTarget(Target):
    """`cpu` compiles for this machine, `cpu:NAME` for a named one."""

    name = "cpu"
    has_budgets = True
    precisions = ("float32", "bfloat16", "float16")

    def prepare(self) -> None:
        for module in ("cost_models.graph_model", "cost_models.xgboost_model", "targets.cpu.build",
                       "targets.cpu.tuning.context"):  # fmt: skip
            import_module(module)

    def default_threads(self) -> int:
        return machines.available_cores()

    def passes(self, options: CompileOptions) -> Sequence[Pass]:
        from passes.canonical import canonical_passes, precision_passes, quantizing_passes
        from passes.cse import EliminateCommonSubexpressions
        from passes.fold import FoldConstants
        from passes.fusion import FuseGroups
        from passes.layout import BlockLayout, PackMatmulWeights
        from passes.legalize import Legalize
        from passes.lower_precision import WidenApart
        from passes.memory import InsertCopies, OrderNodes
        from passes.simplify import Simplify
        from passes.spell_out import SpellOut

        machine = machines.find(self.part)
        block = machine.vector_bits // 32
        return [
            *canonical_passes(machine.multiplies_bytes),
            *quantizing_passes(options.quantize, machine.multiplies_bytes),
            *precision_passes(options.precision, machine.multiplies_bfloat16),
            Legalize(),
            SpellOut(_lacks_kernel),
            BlockLayout(block),
            PackMatmulWeights(block),
            Simplify(),
            FoldConstants(),
            EliminateCommonSubexpressions(),
            WidenApart(),
            FuseGroups(_choose_kernels(machine.vector_bits)),
            InsertCopies(),
            OrderNodes(),
        ]

    def tuning(self, options: CompileOptions) -> TuningContext:
        from targets.cpu.tuning.context import CpuTuning

        return CpuTuning(machines.find(self.part), options.threads, options.numerics)

    def build(
        self, graph: Graph, options: CompileOptions, schedules: Mapping[str, Choice], progress: Progress
    ) -> Program:
        from targets.cpu.build import build

        machine = machines.find(self.part)
        return build(graph, machine, options.threads, schedules, progress, options.memory_budget)

    def load(self, manifest: Mapping[str, Any], sections: Mapping[str, memoryview],
             constants: Sequence[memoryview], threads: int) -> Executable:  # fmt: skip
        return CpuExecutable(manifest, sections, constants, threads)

    @classmethod
    def describe(cls) -> list[tuple[str, str]]:
        host = machines.detect()
        rows = [("cpu", f"this machine: {host.name}, {host.cores} cores, {host.vector_bits}-bit vectors")]
        return rows + [
            (f"cpu:{name}", f"{machine.vector_bits}-bit vectors") for name, machine in machines.NAMED.items()
        ]


def _lacks_kernel(node: Node) -> bool:
    """Composite operators have kernels in float32, along the last axes."""
    if node.output.dtype == "float64":
        return True
    behind = node.output.shape[node.attrs["axis"] + 1 :] if node.op in ("softmax", "log_softmax") else ()
    return any(extent != 1 for extent in behind)


def _choose_kernels(vector_bits: int) -> Choose | None:
    """What fusion asks in doubt; None where no model ships. The model is read when the first doubt arises."""
    folder = GROUP_MODELS / str(vector_bits)
    if not folder.is_dir():
        return None

    def choose(ways: Sequence[Sequence[Graph]]) -> int:
        # Anchors copy what they read again and again: of 35 groups in networks one kernel took 0.2 % longer in sum than
        # the fastest ways, and the model cannot tell which those are.
        if any(OPS[node.op].kind is Kind.ANCHOR for kernel in ways[0] for node in kernel.nodes):
            return 0
        return _group_model(folder).fastest(ways, FUSION_MARGIN)

    return choose


@cache
def _group_model(folder: Path) -> GraphModel:
    from cost_models.graph_model import GraphModel

    return GraphModel.load(folder)
