"""What the core asks of the CUDA target. TVM and NVRTC are imported when something is built, not to run artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from targets.cuda import gpu as gpus
from tensorc.environment import emulates_cuda
from tensorc.ir import Graph, Node
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass
from tensorc.search.choice import Choice
from tensorc.search.context import TuningContext
from tensorc.target import Executable, Program, Progress, Target

#: Channels of a block: with two bytes each, what a thread moves at once and a row of a tensor core's operand.
BLOCK = 8


class CudaTarget(Target):
    """`cuda` compiles for this machine's GPU, `cuda:sm_90` for a named architecture."""

    name = "cuda"
    has_budgets = True
    precisions = ("float32", "tf32", "bfloat16", "float16")

    def passes(self, options: CompileOptions) -> Sequence[Pass]:
        from passes.canonical import canonical_passes, precision_passes, quantizing_passes
        from passes.cse import EliminateCommonSubexpressions
        from passes.fold import FoldConstants
        from passes.fusion import FuseGroups
        from passes.layout import BlockLayout, PackMatmulWeights
        from passes.legalize import Legalize
        from passes.lower_precision import WidenApart
        from passes.memory import InsertCopies, OrderNodes
        from passes.narrow_between import NarrowBetween
        from passes.simplify import Simplify
        from passes.spell_out import SpellOut
        from passes.split_axes import SplitAxes

        multiplies_bytes = gpus.find(self.part).multiplies_bytes
        narrow = options.precision in ("bfloat16", "float16")
        return [
            *canonical_passes(multiplies_bytes),
            *quantizing_passes(options.quantize, multiplies_bytes),
            *precision_passes(options.precision, False),
            Legalize(),
            SpellOut(_lacks_kernel),
            SplitAxes(),
            BlockLayout(BLOCK),
            PackMatmulWeights(BLOCK),
            Simplify(),
            FoldConstants(),
            EliminateCommonSubexpressions(),
            WidenApart(),
            FuseGroups(alignment=(2 if narrow else 1) * gpus.ALIGNMENT),  # what is narrowed takes half the bytes
            *([NarrowBetween(options.precision)] if narrow else []),
            InsertCopies(),
            OrderNodes(),
        ]

    def tuning(self, options: CompileOptions) -> TuningContext | None:
        from targets.cuda.tuning.context import CudaTuning

        return CudaTuning(gpus.find(self.part), options.numerics)

    def build(
        self, graph: Graph, options: CompileOptions, schedules: Mapping[str, Choice], progress: Progress
    ) -> Program:  # fmt: skip
        from targets.cuda.build import build

        gpu = replace(gpus.find(self.part), rounds_products=options.precision == "tf32")
        return build(graph, gpu, schedules, progress, options.memory_budget)

    def load(self, manifest: Mapping[str, Any], sections: Mapping[str, memoryview],
             constants: Sequence[memoryview], threads: int) -> Executable:  # noqa: ARG002  # fmt: skip
        from targets.cuda.driver import Driver
        from targets.cuda.emulator import Emulator
        from targets.cuda.executable import CudaExecutable

        return CudaExecutable(manifest, sections, constants, Emulator() if emulates_cuda() else Driver())

    @classmethod
    def describe(cls) -> list[tuple[str, str]]:
        return [("cuda", "this machine's GPU")] + [(f"cuda:{gpu.name}", gpu.description) for gpu in gpus.NAMED.values()]


def _lacks_kernel(node: Node) -> bool:
    """Composite operators have kernels in float32 and less, along the last axes."""
    if node.output.dtype == "float64":
        return True
    behind = node.output.shape[node.attrs["axis"] + 1 :] if node.op in ("softmax", "log_softmax") else ()
    return any(extent != 1 for extent in behind)
