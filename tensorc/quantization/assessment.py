"""From samples to a quantization that is known: its ranges, the layers that it leaves out, and what it costs.

The samples are those of the calibration, unless there are others to evaluate with.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tensorc.errors import TensorcWarning, UserError
from tensorc.ir.graph import Graph, clone
from tensorc.options import CompileOptions
from tensorc.quantization.accuracy import Accuracy, Judge, LayerAccuracy, Noise, Quality, holds
from tensorc.quantization.data import Samples
from tensorc.quantization.gains import Choose, Gain, gains
from tensorc.quantization.mixed import QUANTIZED, SENSITIVE, Search
from tensorc.quantization.scheme import Quantization
from tensorc.quantization.trial import Trial
from tensorc.sampling import Statistics
from tensorc.target import Executable, Progress, Target

#: Bits that a fixed-point model is widened to, at most, for the sake of accuracy.
_MOST_BITS = 18
#: About so many samples tell how sensitive the outputs are to one layer; bounds are held by all.
_ALONE = 32


def evaluation_samples(how: Quantization, inputs: Sequence[Mapping[str, Any]],
                       calibration: Samples | None) -> Samples | None:  # fmt: skip
    """What accuracy is measured on; None where there is nothing. Raises UserError."""
    found = calibration if how.evaluate is None else Samples.read(how.evaluate, inputs)
    if found is not None and not found.feeds:
        raise UserError("there are no samples to measure accuracy on")
    if found is None and (how.max_drop is not None or how.metric is not None):
        raise UserError("an accuracy is measured on samples: --evaluate DATA.npz has them")
    return found


class Assessment:
    """Of a graph as the frontend gives it, quantized as `options` say, on samples. `choose` gives schedules."""

    def __init__(self, graph: Graph, inputs: Sequence[Mapping[str, Any]], target: Target, options: CompileOptions,
                 samples: Samples, choose: Choose, progress: Progress):  # fmt: skip
        assert options.quantize is not None
        self.names = [str(row["name"]) for row in inputs]
        self.how = options.quantize
        self.samples = samples
        self.judge = Judge(samples, self.how.metric)
        self.progress = progress
        progress(0, 0, "build a model to measure on")
        self.trial = Trial(graph, self.names, target, options)
        self.layers = self.trial.layers
        self.gains = {layer.name: Gain(None, None) for layer in self.layers}
        self._seconds: Callable[[], dict[str, Gain]] = partial(gains, graph, self.layers, target, options, choose)
        self._exact: list[list[np.ndarray]] = []
        self._alone = [Noise() for _ in self.layers]
        self.reasons = {layer.name: QUANTIZED for layer in self.layers}
        self._reported: list[LayerAccuracy] = []

    def run(self) -> Quantization:
        """The quantization with what it is to leave out. Raises UserError where nothing tells how good a model is."""
        if not self.layers:
            warnings.warn(f"no layer of the model is one that {self.how.scheme} quantizes: it stays in float32",
                          TensorcWarning, stacklevel=2)  # fmt: skip
            return self.how
        self._measure_exact()
        if self.how.max_drop is not None:
            self._drop_of(self._exact)  # before hours of search: is there anything to tell it by?
            self.progress(0, 0, "predict times")
            if self.how.format is None:  # weights in few bits are for their size, whatever they take
                self.gains = self._seconds()
            self.reasons = Search(self.layers, self.gains, self._holds, self._noise).run()
            if QUANTIZED not in self.reasons.values():
                why = ", ".join(f"{count} {why}" for why, count in sorted(Counter(self.reasons.values()).items()))
                warnings.warn(f"no layer is quantized within the bound on accuracy, all stay in float32: {why}",
                              TensorcWarning, stacklevel=2)  # fmt: skip
        self._report()
        return self._chosen_quantization()

    def give_up(self) -> Quantization | None:
        """One layer less: that with the most noise. None where none is left."""
        left = [
            (noise.ratio, layer.name) for noise, layer in zip(self._alone, self.layers, strict=True)
            if self.reasons[layer.name] == QUANTIZED
        ]  # fmt: skip
        if not left:
            return None
        self.reasons[max(left)[1]] = SENSITIVE
        self._report()
        return self._chosen_quantization()

    def accuracy(self, program: Executable | None) -> Accuracy:
        """Of the program that was built in the end; of the layers chosen where there is none to be run."""
        if program is None:
            outputs = self._outputs(self._chosen(), "the chosen layers")
        else:
            outputs = []
            for number, feed in enumerate(self.samples.feeds):
                self.progress(number, len(self.samples.feeds), "the compiled model")
                outputs.append(program.run([feed[name] for name in self.names]))
        if not self._exact:
            self._exact = outputs  # nothing is quantized
        noise = [Noise() for _ in outputs[0]]
        for got, exact in zip(outputs, self._exact, strict=True):
            for one, *pair in zip(noise, got, exact, strict=True):
                one.add(*pair)
        quality = self.judge.quality(self._exact, outputs)
        return Accuracy.of(noise, len(outputs), quality, self._reported, self.how.max_drop)

    def inputs(self) -> dict[str, Statistics]:
        """What the samples' floats are like."""
        feeds = self.samples.feeds
        return {
            name: Statistics.of([feed[name] for feed in feeds])
            for name in self.names if feeds[0][name].dtype.kind == "f" and feeds[0][name].size
        }  # fmt: skip

    def close(self) -> None:
        self.trial.close()

    def _chosen(self) -> set[str]:
        return {name for name, why in self.reasons.items() if why == QUANTIZED}

    def _chosen_quantization(self) -> Quantization:
        return replace(self.how, skipped=self.how.skipped | (self.reasons.keys() - self._chosen()))

    def _outputs(self, quantized: Collection[str], text: str, step: int = 1) -> list[list[np.ndarray]]:
        found = []
        feeds = self.samples.feeds[::step]
        for number, feed in enumerate(feeds):
            self.progress(number, len(feeds), text)
            found.append(self.trial.run(feed, quantized).outputs)
        return found

    def _measure_exact(self) -> None:
        for number, feed in enumerate(self.samples.feeds):
            self.progress(number, len(self.samples.feeds), "float32")
            run = self.trial.run(feed, ())
            self._exact.append(run.outputs)
            for noise, got, exact in zip(self._alone, run.quantized, run.layers, strict=True):
                noise.add(got, exact)

    def _report(self) -> None:
        chosen = self._chosen()
        together = [Noise() for _ in self.layers]
        for number, feed in enumerate(self.samples.feeds):
            self.progress(number, len(self.samples.feeds), "layers")
            exact, got = self.trial.run(feed, ()).layers, self.trial.run(feed, chosen).layers
            for noise, *pair in zip(together, got, exact, strict=True):
                noise.add(*pair)
        self._reported = [
            LayerAccuracy(layer.title, layer.op, alone.decibels, noise.decibels, layer.name in chosen,
                          self.reasons[layer.name], self.gains[layer.name].exact, self.gains[layer.name].quantized)
            for layer, alone, noise in zip(self.layers, self._alone, together, strict=True)
        ]  # fmt: skip

    # The search ---------------------------------------------------------------------------------------------

    def _drop_of(self, outputs: Sequence[list[np.ndarray]]) -> float:
        quality: Quality | None = self.judge.quality(self._exact, outputs)
        if quality is None:
            raise UserError(
                "the model's first output is no row of classes' scores: --max-accuracy-drop needs labels, or a metric "
                "(metric= in Python)"
            )
        return quality.drop

    def _holds(self, quantized: Collection[str]) -> bool:
        assert self.how.max_drop is not None
        return holds(self._drop_of(self._outputs(quantized, f"{len(quantized)} layers quantized")), self.how.max_drop)

    def _noise(self, layer: str) -> float:
        noise = [Noise() for _ in self._exact[0]]
        step = max(len(self._exact) // _ALONE, 1)
        for got, exact in zip(self._outputs([layer], f"{layer} alone", step), self._exact[::step], strict=True):
            for one, *pair in zip(noise, got, exact, strict=True):
                one.add(*pair)
        return sum(one.ratio for one in noise)


class WholeAssessment(Assessment):
    """Of a model all of which is in fixed point: no layer is left out, all get another bit where accuracy asks for
    it."""

    def __init__(self, graph: Graph, inputs: Sequence[Mapping[str, Any]], target: Target, options: CompileOptions,
                 samples: Samples, _choose: Choose, progress: Progress):  # fmt: skip
        assert options.quantize is not None
        self.names = [str(row["name"]) for row in inputs]
        self.how = options.quantize
        self.samples = samples
        self.judge = Judge(samples, self.how.metric)
        self.progress = progress
        self._reported = []
        exact = target.executable(clone(graph), [], options)
        self._exact = [exact.run([feed[name] for name in self.names]) for feed in samples.feeds]

    def run(self) -> Quantization:
        if self.how.max_drop is not None:
            self._drop_of(self._exact)  # is there anything to tell it by?
        return self.how

    def give_up(self) -> Quantization | None:
        """One bit more for everything; None where there are many already."""
        bits = self.how.fixed
        assert bits is not None
        if bits.values >= _MOST_BITS:
            return None
        wider = replace(bits, values=bits.values + 1, weights=max(bits.weights, min(bits.weights + 1, bits.values + 1)))
        self.how = replace(self.how, scheme=wider.scheme)
        return self.how

    def close(self) -> None:
        """Nothing is kept open."""
