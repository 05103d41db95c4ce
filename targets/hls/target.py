"""What the core asks of the FPGA target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from targets.hls.base import FixedPointTarget
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass
from tensorc.search.choice import Choice
from tensorc.target import Check, Executable, Program, Progress

DEFAULT_PART = "xczu7ev"


class HlsTarget(FixedPointTarget):
    """`hls:PART` writes a project for that FPGA; `hls` alone takes a common one."""

    name = "hls"
    suffix: ClassVar[str] = ""
    has_objectives: ClassVar[bool] = True

    def passes(self, options: CompileOptions) -> Sequence[Pass]:
        from targets.hls.hardware.clock import check_clock
        from targets.hls.parts import find_part

        find_part(self.part or DEFAULT_PART)
        if options.clock is not None:
            check_clock(options.clock)
        return super().passes(options)

    def build(
        self, graph: Graph, options: CompileOptions, schedules: Mapping[str, Choice], progress: Progress  # noqa: ARG002
    ) -> Program:  # fmt: skip
        from targets.hls.build import build
        from targets.hls.parts import find_part

        return build(graph, find_part(self.part or DEFAULT_PART), options, progress)

    def obstacle(self, out: Path) -> str:
        from targets.hls.project import obstacle

        return obstacle(out)

    def write(self, out: Path, manifest: Mapping[str, Any], sections: Mapping[str, Iterable[Any]],
              alignments: Mapping[str, int]) -> int:  # noqa: ARG002  # fmt: skip
        from targets.hls.project import write

        return write(out, manifest, sections)

    def open(self, out: Path) -> Executable:
        """The fixed-point graph, which computes what the hardware does."""
        from targets.hls.fixed_point import Interpreted
        from targets.hls.project import read_graph

        return Interpreted(read_graph(out))

    def check(self, out: Path, reference: Path | None, samples: Path | None, progress: Progress) -> list[Check]:
        from targets.hls.verification import check

        return check(out, reference, samples, progress)

    @classmethod
    def describe(cls) -> list[tuple[str, str]]:
        from targets.hls.parts import PARTS

        rows = [("hls", f"an HLS C++ project for {DEFAULT_PART}")]
        return rows + [(f"hls:{part.name.lower()}", f"{part.dsp} DSP, {part.bram18} BRAM18") for part in PARTS]
