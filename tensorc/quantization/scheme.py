"""How a model is to be quantized."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tensorc.errors import UserError
from tensorc.formats import Format, find_format
from tensorc.formats.integers import Integers
from tensorc.quantization.params import Widths

if TYPE_CHECKING:
    from tensorc.quantization.accuracy import Metric
    from tensorc.quantization.data import Reader
    from tensorc.quantization.params import QuantParams, Range

#: What `--quantize` takes -> what it is; it also takes the name of a format (`tensorc.formats`), which is of weights.
SCHEMES = {
    "int8": "weights and inputs of products in 8 bits, ranges of the inputs from calibration",
    "int8-dynamic": "weights and inputs of matrix products in 8 bits, ranges of the inputs found in every run",
}
#: `fixed8`, or `fixed8w4` where weights have other bits than what they are multiplied with; `fixed8:lmul`.
_FIXED = re.compile(r"fixed([0-9]+)(?:w([0-9]+))?(:lmul)?")
#: Of fixed-point numbers.
FIXED_BITS = range(2, 25)


@dataclass(frozen=True)
class FixedBits:
    """Bits of fixed-point tensors: of what is computed, and of weights. With `lmul` products by weights are L-Mul's."""

    values: int
    weights: int
    lmul: bool = False

    @property
    def scheme(self) -> str:
        return (
            f"fixed{self.values}"
            + (f"w{self.weights}" if self.weights != self.values else "")
            + (":lmul" if self.lmul else "")
        )


#: How ranges are chosen -> what that is.
METHODS = {
    "minmax": "all values that were seen",
    "percentile": "all but a ten-thousandth of them",
    "entropy": "what changes the distribution least",
    "mse": "what rounds least, in squares",
}


@dataclass(frozen=True)
class Quantization:
    """`calibration` has samples (a file or a reader) or is a file of ranges; where they were found, `save` keeps them.

    `params` and `ranges` of values by name are what calibration makes of it; `origin` says where they are from. Layers
    in `skipped` (by the names of what they give) stay in float32. Accuracy is measured on the samples of `evaluate`, of
    the calibration where that is None; by `metric`, if there is one. So many layers stay in float32 that it is at most
    `max_drop` (of 1, or in the metric's unit) below that of float32.

    What makes it better: `equalise` layers (None: where a tensor of weights has one scale), `smooth` activations of
    transformers (so much of their differences between channels is left to the weights, of 1; 0 for nothing) and
    `correct_bias`. `means` and `largest` magnitudes of channels and `moments` (the
    second ones) of rows, by the names of values, are what samples tell. `widths` of single tensors are what the search
    for the fewest bits found.
    """

    scheme: str
    calibration: Path | Reader | None = None
    method: str = "mse"
    per_channel: bool = True
    save: Path | None = None
    params: Mapping[str, QuantParams] = field(default_factory=dict)
    origin: str = ""
    skipped: frozenset[str] = frozenset()
    evaluate: Path | Reader | None = None
    max_drop: float | None = None
    metric: Metric | None = None
    equalise: bool | None = None
    smooth: float = 0.5
    correct_bias: bool = True
    means: Mapping[str, Sequence[float]] = field(default_factory=dict)
    largest: Mapping[str, Sequence[float]] = field(default_factory=dict)
    moments: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    widths: Widths = field(default_factory=Widths)

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES and self.fixed is None:
            self._check_format()
        if not 0 <= self.smooth < 1:
            raise UserError(f"{self.smooth:g} is no share of the differences between channels, from 0 to 1")
        if self.method not in METHODS:
            raise UserError(f"no calibration method {self.method!r}; legal: {', '.join(METHODS)}")
        if self.scheme == "int8" and self.calibration is None:
            raise UserError(
                f"--quantize {self.scheme} needs --calibration: samples, or ranges that an earlier one kept"
            )
        if self.format is None and not self.is_static and self.calibration is not None:
            raise UserError(f"--quantize {self.scheme} finds its ranges in every run: --calibration is for int8")

    def _check_format(self) -> None:
        try:
            find_format(self.scheme)
        except UserError as error:
            raise UserError(
                f"no quantization {self.scheme!r}; legal: {', '.join(SCHEMES)}, fixed{FIXED_BITS[0]} to "
                f"fixed{FIXED_BITS[-1]} (fixed8w4: weights of 4 bits; fixed8:lmul: products by L-Mul), and "
                f"formats of weights: {error}"
            ) from error
        given = {"--save-ranges": self.save is not None, "--per-tensor": not self.per_channel}
        for option in (name for name, is_given in given.items() if is_given):
            raise UserError(f"--quantize {self.scheme} is of weights alone: {option} is for int8")
        if self.calibration is not None:
            if not isinstance(self.format, Integers) or not self.format.symmetric:
                raise UserError(
                    f"--quantize {self.scheme} rounds each weight to what is nearest: --calibration is for int8, and "
                    "for integers without zero points such as int4 (--evaluate measures accuracy)"
                )
            if is_ranges(self.calibration):
                raise UserError(f"--quantize {self.scheme} has no ranges: --calibration takes samples, a DATA.npz")

    @property
    def format(self) -> Format | None:
        """Of weights, where what they are multiplied with stays float32."""
        return None if self.scheme in SCHEMES or self.fixed is not None else find_format(self.scheme)

    @property
    def fixed(self) -> FixedBits | None:
        """Where every tensor is of fixed-point numbers."""
        found = _FIXED.fullmatch(self.scheme)
        if found is None:
            return None
        bits = FixedBits(int(found[1]), int(found[2] or found[1]), found[3] is not None)
        return bits if bits.values in FIXED_BITS and bits.weights in FIXED_BITS else None

    def described(self) -> str:
        """For a summary."""
        if self.format is not None:
            return f"weights of matrix products in {self.scheme}{', rounded ' + self.origin if self.origin else ''}"
        if self.fixed is not None:
            bits = self.widths.described() or f"{self.fixed.values} bits, weights of {self.fixed.weights}"
            return f"fixed point, {bits}; ranges by {self.origin}"
        weights = "a scale for each channel" if self.per_channel else "one scale for each tensor"
        found = f", {len(self.params)} inputs by {self.origin}" if self.is_static else ""
        return f"{self.scheme}, {weights} of weights{found}"

    @property
    def equalises(self) -> bool:
        return not self.per_channel if self.equalise is None else self.equalise

    @property
    def has_samples(self) -> bool:
        """Whether there is anything to measure accuracy on."""
        return self.evaluate is not None or (self.calibration is not None and not is_ranges(self.calibration))

    @property
    def is_static(self) -> bool:
        """Whether ranges are known before the model runs."""
        return self.scheme == "int8" or self.fixed is not None


def is_ranges(source: Path | Reader) -> bool:
    """Whether it is a file of ranges, not of samples."""
    return isinstance(source, Path) and source.suffix == ".json"


def parse_drop(text: str | float) -> float:
    """`0.5%` or `0.005`. Raises UserError."""
    whole = str(text).strip()
    try:
        value = float(whole.removesuffix("%")) / (100 if whole.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"{text!r} is no share that accuracy may drop by, such as 0.5% or 0.005")
    return value
