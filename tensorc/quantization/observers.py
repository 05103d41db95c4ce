"""What is learned of a tensor's values from samples, and the range that is made of it.

Values are counted in bins of equal width around zero. When values beyond the bins arrive, neighbouring bins are merged
in pairs: the counts stay exact, and any number of samples takes the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tensorc.errors import UserError
from tensorc.quantization.params import Range

_BINS = 4096
#: Codes of the type that ranges are chosen for.
_LEVELS = 256
#: Shares of the whole range that are tried, for either end in turn so many times.
_SHARES = np.linspace(0.05, 1, 96).tolist()
_ROUNDS = 2
DEFAULT_PERCENTILE = 99.99
#: Of longer rows no moments are taken: they would not fit into memory for a model of many layers.
MOST_MOMENTS = 4096


class Observer:
    """Least, greatest and a histogram of the values of one tensor."""

    def __init__(self) -> None:
        self.low = 0.0
        self.high = 0.0
        #: Bins reach from -limit to limit, a power of two; 0 before the first value that is not zero.
        self.limit = 0.0
        self.counts = np.zeros(_BINS, np.int64)

    def update(self, values: np.ndarray) -> None:
        """Raises UserError where values are not finite: no range holds them."""
        flat = np.asarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UserError("there are values that are not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest > 0:
            self._reach(largest)
        # Before there is a limit there are zeros only, and their bin stays the first above the middle.
        places = np.floor(flat.astype(np.float64) * (_BINS / 2 / (self.limit or 1))).astype(np.int64) + _BINS // 2
        self.counts += np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)

    def _reach(self, largest: float) -> None:
        needed = 2.0 ** math.ceil(math.log2(largest))
        if self.limit == 0:
            self.limit = needed
        while self.limit < needed:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([np.zeros(_BINS // 4, np.int64), pairs, np.zeros(_BINS // 4, np.int64)])
            self.limit *= 2

    @property
    def whole(self) -> Range:
        """From the least to the greatest value."""
        return Range.of(self.low, self.high)

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin."""
        edges = np.linspace(-self.limit, self.limit, _BINS + 1)
        return np.asarray((edges[1:] + edges[:-1]) / 2)


class Moments:
    """Sums of products of the elements of a tensor's rows, two by two: [length, length] of its last axis."""

    def __init__(self) -> None:
        self.sums = np.zeros((), np.float32)

    def update(self, values: np.ndarray) -> None:
        rows = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
        self.sums = self.sums + rows.T @ rows


class Channels:
    """Means and largest magnitudes of a tensor's channels, along one axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.sums = np.zeros(0)
        self.largest = np.zeros(0)
        self.count = 0

    def update(self, values: np.ndarray) -> None:
        rows = np.moveaxis(values, self.axis, 0).reshape(values.shape[self.axis], -1)
        if not self.count:
            self.sums = np.zeros(len(rows))
            self.largest = np.zeros(len(rows))
        self.sums += rows.sum(1, dtype=np.float64)
        self.largest = np.maximum(self.largest, np.abs(rows).max(1, initial=0))
        self.count += rows.shape[1]

    @property
    def means(self) -> np.ndarray:
        return self.sums / max(self.count, 1)


def min_max(observer: Observer) -> Range:
    return observer.whole


def percentile(observer: Observer, percent: float = DEFAULT_PERCENTILE) -> Range:
    """As many values are cut off at either end as are beyond `percent` of all, taken together half each."""
    total = observer.counts.sum()
    if total == 0:
        return observer.whole
    outside = total * (1 - percent / 100) / 2
    edges = np.linspace(-observer.limit, observer.limit, _BINS + 1)
    below = np.concatenate([[0], np.cumsum(observer.counts)])
    low = edges[np.searchsorted(below, outside, "right") - 1]
    high = edges[np.searchsorted(below, total - outside, "left")]
    return Range.of(max(low, observer.low), min(high, observer.high))


def mean_square_error(observer: Observer) -> Range:
    """The range whose quantization is nearest to the values, in squares, as their histogram has them."""

    def error(tried: Range) -> float:
        values, counts = observer.centres, observer.counts
        step = (tried.high - tried.low) / (_LEVELS - 1)
        nearest = np.round((np.clip(values, tried.low, tried.high) - tried.low) / step) * step + tried.low
        return float((counts * (values - nearest) ** 2).sum())

    return _best(observer, error)


def entropy(observer: Observer) -> Range:
    """The range whose codes tell most of the distribution: the least Kullback-Leibler divergence of what is quantized
    from what was, as TensorRT's calibrator has it (Migacz, "8-bit Inference with TensorRT", 2017)."""

    def divergence(tried: Range) -> float:
        centres = observer.centres
        inside = (centres >= tried.low) & (centres <= tried.high)
        counts = observer.counts.astype(np.float64)
        reference = counts[inside]
        if reference.size < _LEVELS:
            return math.inf  # codes finer than the bins tell nothing
        reference[0] += counts[centres < tried.low].sum()
        reference[-1] += counts[centres > tried.high].sum()
        code = np.arange(reference.size) * _LEVELS // reference.size
        held = counts[inside] > 0
        totals = np.bincount(code, counts[inside], _LEVELS)
        used = np.bincount(code, held, _LEVELS)
        spread = np.where(held, (totals / np.maximum(used, 1))[code], 0)
        p, q = reference / reference.sum(), spread / max(spread.sum(), 1e-300)
        both = (p > 0) & (q > 0)
        lost = p[(p > 0) & (q == 0)].sum()
        # Smoothed, for the bins at the ends that hold what was cut off and nothing of their own.
        return float((p[both] * np.log(p[both] / q[both])).sum() + lost * math.log(1e4))

    return _best(observer, divergence)


def _best(observer: Observer, loss: Callable[[Range], float]) -> Range:
    """Of the shares of the whole range, one end after the other: outliers are often on one side only."""
    whole = best = observer.whole
    if whole.low == whole.high:
        return whole
    widest_first = _SHARES[::-1]  # of equal ones the widest is taken: nothing is cut off for nothing
    for _ in range(_ROUNDS):
        best = min((Range(best.low, whole.high * share) for share in widest_first), key=loss)
        best = min((Range(whole.low * share, best.high) for share in widest_first), key=loss)
    return best


METHODS: dict[str, Callable[[Observer], Range]] = {
    "minmax": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mean_square_error,
}
