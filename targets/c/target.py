"""What the core asks of the C target."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from targets.hls.base import FixedPointTarget
from tensorc.errors import UserError
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions
from tensorc.search.choice import Choice
from tensorc.target import Executable, Program, Progress

#: What the last line begins with.
_MARK = "/* tensorc: "


class CTarget(FixedPointTarget):
    """`c` has no parts: the file is for whatever has a C compiler."""

    name = "c"
    suffix: ClassVar[str] = ".c"

    def build(
        self, graph: Graph, options: CompileOptions, schedules: Mapping[str, Choice], progress: Progress  # noqa: ARG002
    ) -> Program:  # fmt: skip
        from targets.c.build import build

        return build(graph)

    def write(self, out: Path, manifest: Mapping[str, Any], sections: Mapping[str, Iterable[Any]],
              _alignments: Mapping[str, int]) -> int:  # fmt: skip
        """The manifest is a comment in the last line."""
        from tensorc.runtime.artifact import replaced_file

        with replaced_file(out) as file:
            for chunk in sections["source"]:
                file.write(chunk)
            text = json.dumps(manifest).replace("*/", "*\\/")  # no name may end the comment
            file.write(f"{_MARK}{text} */\n".encode())
        return out.stat().st_size

    def manifest(self, out: Path) -> dict[str, Any]:
        try:
            last = out.read_text().rstrip().splitlines()[-1]
            found: dict[str, Any] = json.loads(last.removeprefix(_MARK).removesuffix(" */"))
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{out} is no C file that tensorc wrote: {error}") from error
        return found

    def open(self, out: Path) -> Executable:
        """Compiled by this machine's C compiler."""
        from targets.c.executable import CExecutable

        return CExecutable(out, self.manifest(out))

    @classmethod
    def describe(cls) -> list[tuple[str, str]]:
        return [("c", "one portable C99 file in fixed point")]
