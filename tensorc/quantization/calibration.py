"""Calibration: a model runs on samples in float32, and the ranges of what shall be quantized are read off."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tensorc.errors import TensorcWarning, UserError
from tensorc.ir.graph import Graph, Node, Value, clone
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass, run_passes
from tensorc.quantization.data import Samples
from tensorc.quantization.observers import METHODS, MOST_MOMENTS, Channels, Moments, Observer
from tensorc.quantization.params import QuantParams
from tensorc.quantization.ranges import Ranges
from tensorc.quantization.scheme import Quantization, is_ranges
from tensorc.sampling import Spec, random_inputs
from tensorc.target import Executable, Progress, Target

#: How many samples are drawn where there are none.
_RANDOM_SAMPLES = 32


Wanted = TypeVar("Wanted", bound=Pass)


@dataclass(frozen=True)
class Replacement:
    """Where any of `layers` is quantized, `old` is read as `new` by `readers`; by everybody (and it is what the layer
    gives) where they are None."""

    layers: tuple[str, ...]
    old: Value
    new: Value
    readers: tuple[Node, ...] | None = None

    def put(self, graph: Graph, value: Value) -> None:
        """`value` is read for `old`."""
        if self.readers is None:
            graph.replace(self.old, value)
        for user in self.readers or ():
            user.inputs = tuple(value if read is self.old else read for read in user.inputs)


class Calibrated(Pass):
    """A pass that asks for ranges of values of a canonical graph. What comes before it among a target's passes makes
    the graph canonical, what comes after it compiles a graph of floats, too."""

    @abc.abstractmethod
    def watched(self, graph: Graph) -> list[Value]:
        """The values whose ranges it asks for."""

    def channels(self, graph: Graph) -> dict[str, int]:  # noqa: ARG002  (a quantizer may have no use for them)
        """The watched values whose channels' means it asks for, and the axis that their channels are."""
        return {}

    def multiplied(self, graph: Graph) -> list[Value]:  # noqa: ARG002
        """The values the second moments of whose last axis it asks for."""
        return []


class Quantizer(Calibrated):
    """Quantizes layers, each by the name of what it gives."""

    @abc.abstractmethod
    def replacements(self, graph: Graph) -> list[Replacement]:
        """What is quantized, added to the graph, which reads it nowhere yet; those with readers first."""

    def run(self, graph: Graph) -> bool:
        replacements = self.replacements(graph)
        for replacement in replacements:
            replacement.put(graph, replacement.new)
        if replacements:
            graph.sort()
            graph.remove_dead()
        return bool(replacements)


class Preparation(Pass):
    """A pass before the one that quantizes which makes ranges better, from what samples tell of channels."""

    @abc.abstractmethod
    def watched(self, graph: Graph) -> list[Value]:
        """The values the largest magnitude of each of whose channels, along the last axis, it asks for."""


def at_quantizer(graph: Graph, target: Target, options: CompileOptions) -> tuple[Quantizer, list[Pass]]:
    """The pass that quantizes layers and those behind it; `graph` is as the former gets it. Raises UserError."""
    found = at_pass(Quantizer, graph, target, options)  # type: ignore[type-abstract]
    if found is None:
        raise UserError(f"the target {options.target} does not quantize")
    return found


def at_pass(
    kind: type[Wanted], graph: Graph, target: Target, options: CompileOptions
) -> tuple[Wanted, list[Pass]] | None:
    """The first pass of a kind and those behind it, if there is one; `graph` becomes what it gets."""
    passes = list(target.passes(options))
    for place, step in enumerate(passes):
        if isinstance(step, kind):
            run_passes(graph, passes[:place])
            return step, passes[place + 1 :]
    return None


def calibration_samples(how: Quantization, inputs: Sequence[Mapping[str, Any]]) -> Samples | None:
    """None where ranges are known already, or found in every run. Raises UserError."""
    if how.calibration is None and how.fixed is not None:
        warnings.warn("ranges are those of random inputs: --calibration DATA.npz gives the model's own", TensorcWarning,
                      stacklevel=2)  # fmt: skip
        return Samples([random_inputs(Spec.of_manifest(inputs), seed) for seed in range(_RANDOM_SAMPLES)])
    if how.calibration is None or is_ranges(how.calibration):
        return None
    return Samples.read(how.calibration, inputs)


def calibrated(graph: Graph, given: Samples | None, inputs: Sequence[Mapping[str, Any]], target: Target,
               options: CompileOptions, progress: Progress) -> Quantization:  # fmt: skip
    """The quantization that is asked for with its parameters, for `graph` as the frontend gives it, whose `inputs` are
    described as in a manifest. Raises UserError where the samples, or a file of ranges, are wrong."""
    how = options.quantize
    assert how is not None
    names = [str(row["name"]) for row in inputs]
    ranges = None
    if given is None:
        assert isinstance(how.calibration, Path)
        ranges = Ranges.load(how.calibration)
        how = ranges.prepared(how)
    elif how.smooth:
        how = replace(how, largest=_largest(graph, given, names, target, options, progress))
    options = replace(options, quantize=how)
    graph = clone(graph)
    found = at_pass(Calibrated, graph, target, options)  # type: ignore[type-abstract]
    if found is None:
        raise UserError(f"the target {options.target} does not quantize")
    step, later = found
    axes = step.channels(graph)
    watched = _Watched(graph, step.watched(graph), later, target, options)
    if given is None:
        assert ranges is not None
        if unknown := sorted(watched.names - ranges.ranges.keys()):
            raise UserError(f"{how.calibration} is of another model: it has no range of %{unknown[0]}")
    else:
        total = len(given.feeds)
        ranges = observe(watched.run, given.feeds, names, how.method, lambda done: progress(done, total, ""), axes)
        ranges = replace(ranges, largest=how.largest, equalise=how.equalises, smooth=how.smooth)
    if how.save is not None:
        ranges.save(how.save)
    params = {}
    for name in sorted(watched.names):
        range = ranges.ranges[name]
        if how.fixed is not None:
            continue
        if range.low == range.high:
            warnings.warn(f"calibration: %{name} is 0 in all samples; what multiplies it stays in float32",
                          TensorcWarning, stacklevel=2)  # fmt: skip
        else:
            params[name] = QuantParams.of(range)
    origin = f"{ranges.method} of {ranges.samples} samples"
    return replace(how, params=params, ranges=ranges.ranges, means=ranges.means, origin=origin)


def compensating(graph: Graph, given: Samples, names: Sequence[str], target: Target, options: CompileOptions,
                 progress: Progress) -> Quantization:  # fmt: skip
    """The quantization with the moments of what weights are multiplied with, as `calibrated`."""
    how = options.quantize
    assert how is not None
    graph = clone(graph)
    quantizer, later = at_quantizer(graph, target, options)
    values = [value for value in quantizer.multiplied(graph) if value.shape[-1] <= MOST_MOMENTS]
    observers = {value.name: Moments() for value in values}
    watched = _Watched(graph, values, later, target, options)
    for done, feed in enumerate(given.feeds):
        for name, array in watched.run([feed[name] for name in names]).items():
            if not np.isfinite(array).all():
                raise UserError(f"calibration, sample {done}: in %{name} there are values that are not finite")
            observers[name].update(array)
        progress(done + 1, len(given.feeds), "")
    moments = {name: observer.sums for name, observer in observers.items()}
    return replace(how, moments=moments, origin=f"for what {len(given.feeds)} samples multiply them with")


def _largest(graph: Graph, given: Samples, names: Sequence[str], target: Target, options: CompileOptions,
             progress: Progress) -> dict[str, tuple[float, ...]]:  # fmt: skip
    """What the preparation asks for."""
    graph = clone(graph)
    found = at_pass(Preparation, graph, target, options)  # type: ignore[type-abstract]
    values = [] if found is None else found[0].watched(graph)
    if found is None or not values:
        return {}
    watched = _Watched(graph, values, found[1], target, options)
    channels = {value.name: Channels(value.type.rank - 1) for value in values}
    for done, feed in enumerate(given.feeds):
        for name, array in watched.run([feed[name] for name in names]).items():
            channels[name].update(array)
        progress(done + 1, len(given.feeds), "channels")
    return {name: tuple(observed.largest.tolist()) for name, observed in channels.items()}


def observe(run: Callable[[Sequence[np.ndarray]], Mapping[str, np.ndarray]], feeds: Iterable[Mapping[str, np.ndarray]],
            inputs: Sequence[str], method: str, progress: Callable[[int], None],
            axes: Mapping[str, int] | None = None) -> Ranges:  # fmt: skip
    """`run` gives values by name; `progress` is told the number of samples done. The means of channels are kept of
    values that have one of the `axes`. Raises UserError where a value is not finite."""
    observers: dict[str, Observer] = {}
    channels = {name: Channels(axis) for name, axis in (axes or {}).items()}
    done = 0
    for feed in feeds:
        for name, values in run([feed[name] for name in inputs]).items():
            try:
                observers.setdefault(name, Observer()).update(values)
            except UserError as error:
                raise UserError(f"calibration, sample {done}: in %{name} {error}") from error
            if name in channels:
                channels[name].update(values)
        done += 1
        progress(done)
    if not done:
        raise UserError("calibration: there are no samples")
    choose = METHODS[method]
    means = {name: tuple(observed.means.tolist()) for name, observed in channels.items()}
    return Ranges({name: choose(observer) for name, observer in observers.items()}, method, done, means)


class _Watched:
    """A model in float32 whose results are `values`, by their names; `later` are the passes that compile it."""

    def __init__(self, graph: Graph, values: Sequence[Value], later: Sequence[Pass], target: Target,
                 options: CompileOptions):  # fmt: skip
        self.graph = graph
        self.later = [step for step in later if not isinstance(step, (Preparation, Calibrated))]
        self.target = target
        self.options = options
        self.names = {value.name for value in values}
        self.inputs = [value.name for value in self.graph.inputs]
        self.fed = [value.name for value in values if value.producer is None]
        self.made = [value.name for value in values if value.producer is not None]
        self.graph.outputs = [value for value in values if value.producer is not None]
        self._executable: Executable | None = None

    def run(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        given = dict(zip(self.inputs, arrays, strict=True))
        seen = {name: given[name] for name in self.fed}
        if self.made:
            if self._executable is None:
                self._executable = self.target.executable(self.graph, self.later, self.options)
            seen |= dict(zip(self.made, self._executable.run(list(arrays)), strict=True))
        return seen
