"""What the core asks of the C target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from targets.hls.base import FixedPointTarget
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions
from tensorc.search.choice import Choice
from tensorc.target import Program, Progress


class CTarget(FixedPointTarget):
    """`c` has no parts: the file is for whatever has a C compiler."""

    name = "c"
    suffix: ClassVar[str] = ".c"

    def build(
        self, graph: Graph, options: CompileOptions, schedules: Mapping[str, Choice], progress: Progress  # noqa: ARG002
    ) -> Program:  # fmt: skip
        from targets.c.build import build

        return build(graph)

    def write(self, out: Path, _manifest: Mapping[str, Any], sections: Mapping[str, Iterable[Any]],
              _alignments: Mapping[str, int]) -> int:  # fmt: skip
        from tensorc.runtime.artifact import replaced_file

        with replaced_file(out) as file:
            for chunk in sections["source"]:
                file.write(chunk)
        return out.stat().st_size

    @classmethod
    def describe(cls) -> list[tuple[str, str]]:
        return [("c", "one portable C99 file in fixed point")]
