"""What the targets have in common that compute in fixed point: their passes, and how their graphs are run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tensorc.errors import UnsupportedError
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass
from tensorc.runtime.constants import ConstantStore
from tensorc.target import Executable, Program, Target


class FixedPointTarget(Target):
    """Nothing that it writes runs here as it is; graphs are interpreted, which in fixed point is exact."""

    is_fixed_point: ClassVar[bool] = True

    def passes(self, options: CompileOptions) -> Sequence[Pass]:
        from targets.hls.fixed_point import fixed_point_passes

        return fixed_point_passes(options)

    def executable(self, graph: Graph, later: Sequence[Pass], options: CompileOptions) -> Executable:  # noqa: ARG002
        from targets.hls.fixed_point import Interpreted

        graph.remove_dead()
        return Interpreted(graph)

    def load_built(self, program: Program, store: ConstantStore, threads: int) -> Executable:  # noqa: ARG002
        from targets.hls.fixed_point import Interpreted

        assert program.graph is not None
        return Interpreted(program.graph)

    def load(
        self,
        manifest: Mapping[str, Any],  # noqa: ARG002  (the contract's)
        sections: Mapping[str, memoryview],  # noqa: ARG002
        constants: Sequence[memoryview],  # noqa: ARG002
        threads: int,  # noqa: ARG002
    ) -> Executable:
        raise UnsupportedError(f"what the target {self.name} writes is not run as an artifact")
