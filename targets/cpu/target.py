"""What the core asks of the CPU target. TVM is imported when something is built, never to run an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from targets.cpu import machine as machines
from targets.cpu.executable import CpuExecutable
from tensorc.ir import Graph
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass
from tensorc.search.choice import Choice
from tensorc.search.context import TuningContext
from tensorc.target import Executable, Program, Progress, Target


class CpuTarget(Target):
    """`cpu` compiles for this machine, `cpu:NAME` for a named one."""

    name = "cpu"

    def passes(self, options: CompileOptions) -> Sequence[Pass]:  # noqa: ARG002  (the contract's)
        from passes.canonical import canonical_passes
        from passes.cse import EliminateCommonSubexpressions
        from passes.fold import FoldConstants
        from passes.fusion import FuseGroups
        from passes.layout import BlockLayout, PackMatmulWeights
        from passes.memory import InsertCopies
        from passes.simplify import Simplify

        block = machines.find(self.part).vector_bits // 32
        return [
            *canonical_passes(),
            BlockLayout(block),
            PackMatmulWeights(block),
            Simplify(),
            FoldConstants(),
            EliminateCommonSubexpressions(),
            FuseGroups(),
            InsertCopies(),
        ]

    def tuning(self, options: CompileOptions) -> TuningContext:
        from targets.cpu.tuning.context import CpuTuning

        return CpuTuning(machines.find(self.part), options.threads, options.numerics)

    def build(
        self, graph: Graph, options: CompileOptions, schedules: Mapping[str, Choice], progress: Progress
    ) -> Program:
        from targets.cpu.build import build

        return build(graph, machines.find(self.part), options.threads, schedules, progress)

    def load(self, manifest: Mapping[str, Any], sections: Mapping[str, memoryview], threads: int) -> Executable:
        return CpuExecutable(manifest, sections, threads)

    @classmethod
    def describe(cls) -> list[tuple[str, str]]:
        host = machines.detect()
        rows = [("cpu", f"this machine: {host.name}, {host.cores} cores, {host.vector_bits}-bit vectors")]
        return rows + [
            (f"cpu:{name}", f"{machine.vector_bits}-bit vectors") for name, machine in machines.NAMED.items()
        ]
