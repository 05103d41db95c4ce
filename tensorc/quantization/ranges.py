"""Ranges of a model's values, in a file that can be used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tensorc.errors import UserError
from tensorc.quantization.params import Range

_FORMAT = 1


@dataclass(frozen=True)
class Ranges:
    """Of values by their names in the canonical graph, found by `method` from so many samples."""

    ranges: Mapping[str, Range]
    method: str
    samples: int

    def save(self, path: Path) -> None:
        """As JSON. Raises UserError."""
        rows = {name: range.to_json() for name, range in self.ranges.items()}
        whole = {"format": _FORMAT, "method": self.method, "samples": self.samples, "ranges": rows}
        try:
            path.write_text(json.dumps(whole, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """What `save` wrote. Raises UserError."""
        try:
            whole = json.loads(path.read_text())
            if whole["format"] != _FORMAT:
                raise ValueError(f"its format is {whole['format']}, not {_FORMAT}")
            ranges = {str(name): Range(*row) for name, row in whole["ranges"].items()}
            return cls(ranges, str(whole["method"]), int(whole["samples"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no file of ranges that an earlier calibration kept: {error}") from error
