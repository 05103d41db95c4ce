"""Ranges of a model's values, in a file that can be used again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tensorc.errors import UserError
from tensorc.quantization.params import Range
from tensorc.quantization.scheme import Quantization

_FORMAT = 2
#: Without anything of channels, of a model whose layers were left as they are.
_BARE = 1


@dataclass(frozen=True)
class Ranges:
    """Of values by their names in the canonical graph, found by `method` from so many samples.

    `means` are those of channels. What was done to the model before: whether its layers were equalised, and how
    smoothly its activations were made, with the `largest` magnitudes of channels that decided it.
    """

    ranges: Mapping[str, Range]
    method: str
    samples: int
    means: Mapping[str, Sequence[float]] = field(default_factory=dict)
    largest: Mapping[str, Sequence[float]] = field(default_factory=dict)
    equalise: bool = False
    smooth: float = 0.0

    def prepared(self, how: Quantization) -> Quantization:
        """`how` with the same done to the model as when the ranges were found. Raises UserError where it is to be
        something else."""
        if self.equalise != how.equalises:
            raise UserError(
                f"{how.calibration} has ranges of layers that were {'' if self.equalise else 'not '}equalised: give "
                f"--{'' if self.equalise else 'no-'}equalise, or calibrate again"
            )
        # Of channels that nothing is known of, nothing is smoothed.
        if self.largest and self.smooth != how.smooth:
            raise UserError(f"{how.calibration} is for --smooth {self.smooth:g}: give that, or calibrate again")
        return replace(how, largest=self.largest)

    def save(self, path: Path) -> None:
        """As JSON. Raises UserError."""
        whole = {
            "format": _FORMAT,
            "method": self.method,
            "samples": self.samples,
            "equalise": self.equalise,
            "smooth": self.smooth,
            "ranges": {name: range.to_json() for name, range in self.ranges.items()},
            "means": {name: list(values) for name, values in self.means.items()},
            "largest": {name: list(values) for name, values in self.largest.items()},
        }
        try:
            path.write_text(json.dumps(whole, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """What `save` wrote, or an earlier version's. Raises UserError."""
        try:
            whole = json.loads(path.read_text())
            if whole["format"] not in (_BARE, _FORMAT):
                raise ValueError(f"its format is {whole['format']}, not {_FORMAT}")
            ranges = {str(name): Range(*row) for name, row in whole["ranges"].items()}
            found = cls(ranges, str(whole["method"]), int(whole["samples"]))
            if whole["format"] == _BARE:
                return found
            return replace(
                found, means=_channels(whole["means"]), largest=_channels(whole["largest"]),
                equalise=bool(whole["equalise"]), smooth=float(whole["smooth"]),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no file of ranges that an earlier calibration kept: {error}") from error


def _channels(rows: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {str(name): tuple(map(float, row)) for name, row in rows.items()}
