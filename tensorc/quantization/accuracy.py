"""What quantization costs: errors of layers and outputs, and how many samples a model still gets right.

Noise is the difference to float32, over all samples; a signal-to-noise ratio is that of their sums of squares, in
decibels: 20 more are one decimal digit more. It is infinite where nothing differs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tensorc.errors import UserError
from tensorc.quantization.data import LABELS, Samples

#: Sums of squares that float32 may have lost digits of.
_SMALL = 1e-25

#: What a user's measure of quality is called with for each sample: the outputs, and the sample itself (with its
#: labels, where they are given). Greater is better; the model's is the mean.
Metric = Callable[[list[np.ndarray], dict[str, np.ndarray]], float]


class Noise:
    """Sums over pairs of arrays, one of them exact."""

    def __init__(self) -> None:
        self.signal = self.noise = self.dot = self.squares = 0.0
        self.largest = self.worst = 0.0

    def add(self, got: np.ndarray, exact: np.ndarray) -> None:
        got, exact = got.reshape(-1), exact.reshape(-1)
        with np.errstate(all="ignore"):
            sums = _sums(got, exact)
            # In float32 these are four passes over what is large; where that does not hold them, it is done with care.
            if not np.isfinite(sums).all() or min(sums[:2]) < _SMALL:
                sums = _sums(*_finite_pair(got, exact))
        noise, signal, dot, squares, worst, largest = sums
        self.noise += noise
        self.signal += signal
        self.dot += dot
        self.squares += squares
        self.worst = max(self.worst, worst)
        self.largest = max(self.largest, largest)

    @property
    def ratio(self) -> float:
        """Noise by signal; infinite where it is not even a number."""
        if self.noise == 0:
            return 0.0
        ratio = self.noise / self.signal if self.signal else math.inf
        return math.inf if math.isnan(ratio) else ratio

    @property
    def decibels(self) -> float:
        return decibels(self.ratio)

    @property
    def relative(self) -> float:
        """The largest error by the largest exact value."""
        return self.worst / self.largest if self.largest else (0.0 if self.worst == 0 else math.inf)

    @property
    def cosine(self) -> float:
        norms = math.sqrt(self.signal * self.squares)
        return self.dot / norms if norms else float(self.noise == 0)


def _sums(got: np.ndarray, exact: np.ndarray) -> tuple[float, ...]:
    """Squares of the difference and of what is exact, the product, squares of what was got; and the largest of the
    difference and of what is exact."""
    if got.dtype.kind != "f":
        got, exact = got.astype(np.float64), exact.astype(np.float64)
    difference = got - exact
    products = ((difference, difference), (exact, exact), (got, exact), (got, got))
    return (*(float(np.dot(*pair)) for pair in products), *(_largest(array) for array in (difference, exact)))


def _largest(array: np.ndarray) -> float:
    return max(float(array.max(initial=0)), -float(array.min(initial=0)))


def _finite_pair(got: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In float64. Where both are the same infinity, or no number, nothing is lost; where one is, everything."""
    got, exact = got.astype(np.float64), exact.astype(np.float64)
    same = (got == exact) | (np.isnan(got) & np.isnan(exact))
    exact = np.where(np.isfinite(exact), exact, 0)
    return np.where(same, exact, np.where(np.isfinite(got), got, np.inf)), exact


def decibels(ratio: float) -> float:
    if ratio == 0:
        return math.inf
    return -10 * math.log10(ratio) if math.isfinite(ratio) else -math.inf


@dataclass(frozen=True)
class LayerAccuracy:
    """`alone`: its ratio with exact inputs; `together`: with everything before it as it is compiled. `why`: what it
    became, and for what reason. Seconds are those that the cost model predicts, or that were measured in tuning."""

    layer: str
    op: str
    alone: float
    together: float
    quantized: bool = True
    why: str = "quantized"
    float_seconds: float | None = None
    quantized_seconds: float | None = None


@dataclass(frozen=True)
class Quality:
    """How good a model is, of 1 for shares: `name` says what is counted."""

    name: str
    exact: float
    quantized: float

    @property
    def drop(self) -> float:
        return self.exact - self.quantized

    def described(self) -> str:
        if self.name == "metric":
            return f"metric {self.quantized:.4g} (float32 {self.exact:.4g})"
        if self.name == "agreement":
            return f"same class as float32 {self.quantized:.1%}"
        return f"{self.name} {self.quantized:.1%} (float32 {self.exact:.1%})"


@dataclass(frozen=True)
class Accuracy:
    """Of a quantized model on samples; `bound` is the drop that was allowed, None where none was asked for. What is
    said of outputs is of the program as it is compiled."""

    samples: int
    decibels: float
    relative_error: float
    cosine: float
    quality: Quality | None
    layers: Sequence[LayerAccuracy] = field(default_factory=list)
    bound: float | None = None

    @classmethod
    def of(cls, outputs: Sequence[Noise], samples: int, quality: Quality | None, layers: Sequence[LayerAccuracy],
           bound: float | None) -> Accuracy:  # fmt: skip
        """The worst of the outputs' numbers."""
        return cls(
            samples, min((noise.decibels for noise in outputs), default=math.inf),
            max((noise.relative for noise in outputs), default=0.0),
            min((noise.cosine for noise in outputs), default=1.0), quality, layers, bound,
        )  # fmt: skip

    @property
    def is_held(self) -> bool:
        """Whether the drop is no larger than was allowed."""
        return self.bound is None or self.quality is None or holds(self.quality.drop, self.bound)

    def described(self) -> str:
        """For a summary."""
        text = f"outputs {written(self.decibels)}"
        counted = [row for row in self.layers if row.quantized]
        if counted:
            worst = min(counted, key=lambda row: row.together)
            text += f", worst layer {worst.layer} {written(worst.together)}"
        if self.quality is not None:
            text += f"; {self.quality.described()}"
        left = Counter(row.why for row in self.layers if not row.quantized)
        if not left:
            return text
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(left.items()))
        return f"{text}; {left.total()} of {len(self.layers)} layers in float32 ({reasons})"

    def to_json(self) -> dict[str, Any]:
        """What is not finite (a ratio where nothing differs) is null."""
        return {
            "samples": self.samples,
            "outputs": {
                "snr_db": _finite(self.decibels),
                "max_rel_error": _finite(self.relative_error),
                "cosine": _finite(self.cosine),
            },
            "quality": None if self.quality is None else {**asdict(self.quality), "drop": self.quality.drop},
            "max_accuracy_drop": self.bound,
            "layers": [
                {
                    "layer": row.layer, "op": row.op, "quantized": row.quantized, "why": row.why,
                    "snr_db_alone": _finite(row.alone), "snr_db": _finite(row.together),
                    "predicted_seconds": {"float32": row.float_seconds, "quantized": row.quantized_seconds},
                }
                for row in self.layers
            ],
        }  # fmt: skip


def holds(drop: float, bound: float) -> bool:
    """Up to what the rounding of shares makes of it."""
    return drop <= bound + 1e-9


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def written(value: float) -> str:
    """Decibels for a person."""
    if math.isfinite(value):
        return f"{value:.1f} dB"
    return "exact" if value > 0 else "lost"


class Judge:
    """Counts how well outputs do on samples. Without labels and a metric, classes are compared with float32's, if the
    first output has a row of scores for each sample; else nothing is counted. Raises UserError where labels are not as
    many as rows of scores."""

    def __init__(self, samples: Samples, metric: Metric | None):
        self.samples = samples
        self.metric = metric

    def quality(self, exact: Sequence[list[np.ndarray]], got: Sequence[list[np.ndarray]]) -> Quality | None:
        """Of outputs of all samples in order."""
        if self.metric is not None:
            return Quality("metric", self._measured(exact), self._measured(got))
        if self.samples.labels is not None:
            return Quality("top-1", *(self._right(outputs, self.samples.labels) for outputs in (exact, got)))
        if exact and exact[0] and is_scores(exact[0][0]):
            return Quality("agreement", 1.0, self._right(got, [classes(outputs[0]) for outputs in exact]))
        return None

    def _measured(self, outputs: Iterable[list[np.ndarray]]) -> float:
        assert self.metric is not None
        labels = self.samples.labels
        total = 0.0
        for number, (feed, arrays) in enumerate(zip(self.samples.feeds, outputs, strict=True)):
            value = self.metric(arrays, feed if labels is None else {**feed, LABELS: labels[number]})
            if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise UserError(f"the metric must be a number, not {value!r} as for sample {number}")
            total += float(value)
        return total / len(self.samples.feeds)

    def _right(self, outputs: Iterable[list[np.ndarray]], labels: Sequence[np.ndarray]) -> float:
        right = total = 0
        for arrays, wanted in zip(outputs, labels, strict=True):
            if not arrays or not arrays[0].ndim or not arrays[0].shape[-1]:
                raise UserError("labels are for a model whose first output has scores of classes along its last axis")
            found = classes(arrays[0])
            if found.shape != wanted.shape:
                raise UserError(f"there are {wanted.size} labels for a sample, and {found.size} rows of scores")
            right += int((found == wanted).sum())
            total += wanted.size
        return right / total


def is_scores(output: np.ndarray) -> bool:
    """Whether an output may be one row of classes' scores for each element of a batch."""
    return output.ndim == 2 and output.shape[-1] > 1 and output.dtype.kind == "f"


def classes(output: np.ndarray) -> np.ndarray:
    return np.asarray(output.reshape(-1, output.shape[-1]).argmax(-1))
