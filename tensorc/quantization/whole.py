"""What fixed point costs, and the fewest bits that a bound on that allows.

All of such a model is in fixed point: no layer is left out. Where a bound is given, all tensors get another bit until
it holds; then each loses as many as it can, see `tensorc.quantization.widths`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tensorc.errors import TensorcWarning, UnsupportedError, UserError
from tensorc.ir.graph import Graph, clone
from tensorc.options import CompileOptions
from tensorc.quantization.accuracy import Judge, Noise, holds
from tensorc.quantization.assessment import Assessment
from tensorc.quantization.calibration import at_pass
from tensorc.quantization.data import Samples
from tensorc.quantization.gains import Choose
from tensorc.quantization.params import Widths
from tensorc.quantization.scheme import Quantization
from tensorc.quantization.widths import Proxy, Widened, WidthSearch
from tensorc.target import Progress, Target

#: Bits that a model is widened to, at most, for the sake of accuracy.
_MOST_BITS = 18
#: About so many samples tell how sensitive the outputs are to one tensor; bounds are held by all.
_ALONE = 32
#: A bound that allows less wrong classes than that is told by chance.
_FEW = 5


class WholeAssessment(Assessment):
    """Of a graph as the frontend gives it, for a target that computes in fixed point."""

    def __init__(self, graph: Graph, inputs: Sequence[Mapping[str, Any]], target: Target, options: CompileOptions,
                 samples: Samples, _choose: Choose, progress: Progress):  # fmt: skip
        assert options.quantize is not None
        self.names = [str(row["name"]) for row in inputs]
        self.how = options.quantize
        self.samples = samples
        self.judge = Judge(samples, self.how.metric)
        self.progress = progress
        self._reported = []
        self._target = target
        self._options = options
        self._graph = clone(graph)
        exact = target.executable(clone(graph), [], options)
        self._exact = [exact.run([feed[name] for name in self.names]) for feed in samples.feeds]

    def run(self) -> Quantization:
        """The quantization with each tensor's bits, if accuracy has a bound. Raises UserError where nothing tells how
        good a model is."""
        if self.how.max_drop is None:
            return self.how
        self._drop_of(self._exact)  # is there anything to tell it by?
        self._warn_of_few()
        found = at_pass(Widened, self._graph, self._target, self._options)  # type: ignore[type-abstract]
        if found is None:
            raise UserError(f"the target {self._options.target} does not quantize")
        start = found[0].asked(self._graph)
        while not self._holds_with(start):
            bits = self.how.fixed
            assert bits is not None
            if bits.values >= _MOST_BITS:
                return self.how  # it is said that the bound is not held
            wider = replace(bits, values=bits.values + 1, weights=min(bits.weights + 1, bits.values + 1))
            self.how = replace(self.how, scheme=wider.scheme)
            start = self._step(Widths()).asked(self._graph)
        proxy = Proxy.of(self._graph, start)
        before = self._run(start, "all tensors alike", self._some())
        widths = WidthSearch(start, proxy, self._holds_with, lambda tried: self._noise_of(tried, before)).run()
        costs = proxy.cost(start.by_name), proxy.cost(widths.by_name)
        self.how = replace(self.how, widths=replace(widths, proxy=costs))
        return self.how

    def _warn_of_few(self) -> None:
        """Where accuracy is a share of samples."""
        labels, outputs = self.samples.labels, self._exact
        rows = sum(labels.size for labels in labels) if labels is not None else sum(len(one[0]) for one in outputs)
        assert self.how.max_drop is not None
        if self.how.metric is None and 0 < self.how.max_drop * rows < _FEW:
            warnings.warn(
                f"{self.how.max_drop:.3g} of {rows} classes is less than {_FEW} of them: bits that are just enough "
                "here may lose more elsewhere; --evaluate takes more samples", TensorcWarning, stacklevel=2,
            )  # fmt: skip

    def give_up(self) -> Quantization | None:
        """Nothing more: what was found is what was measured."""
        return None

    def close(self) -> None:
        """Nothing is kept open."""

    def _step(self, widths: Widths) -> Widened:
        """The pass that gives tensors their bits."""
        options = replace(self._options, quantize=replace(self.how, widths=widths))
        return next(step for step in self._target.passes(options) if isinstance(step, Widened))

    def _some(self) -> Sequence[Mapping[str, np.ndarray]]:
        return self.samples.feeds[:: max(len(self.samples.feeds) // _ALONE, 1)]

    def _run(self, widths: Widths, text: str, feeds: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
        graph = clone(self._graph)
        self._step(widths).run(graph)
        program = self._target.executable(graph, [], self._options)
        outputs = []
        for number, feed in enumerate(feeds):
            self.progress(number, len(feeds), text)
            outputs.append(program.run([feed[name] for name in self.names]))
        return outputs

    def _holds_with(self, widths: Widths) -> bool:
        assert self.how.max_drop is not None
        try:
            outputs = self._run(widths, widths.described(), self.samples.feeds)
        except UnsupportedError:  # an integer algorithm that needs more bits
            return False
        return holds(self._drop_of(outputs), self.how.max_drop)

    def _noise_of(self, widths: Widths, before: Sequence[list[np.ndarray]]) -> float:
        try:
            outputs = self._run(widths, "one tensor alone", self._some())
        except UnsupportedError:
            return float("inf")
        noise = [Noise() for _ in before[0]]
        for got, wanted in zip(outputs, before, strict=True):
            for one, *pair in zip(noise, got, wanted, strict=True):
                one.add(*pair)
        return sum(one.ratio for one in noise)
