"""Calibration: a model runs on samples in float32, and the ranges of what shall be quantized are read off."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tensorc.errors import TensorcWarning, UserError
from tensorc.ir.graph import Graph, Node, Value, clone
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass, run_passes
from tensorc.quantization.data import Samples
from tensorc.quantization.observers import METHODS, Observer
from tensorc.quantization.params import QuantParams
from tensorc.quantization.ranges import Ranges
from tensorc.quantization.scheme import Quantization, is_ranges
from tensorc.runtime.constants import ConstantStore
from tensorc.target import Executable, Progress, Target


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


class Quantizer(Pass):
    """A pass that quantizes layers of a canonical graph, each by the name of what it gives. What comes before it among
    a target's passes makes the graph canonical, what comes after it compiles a graph of floats, too."""

    @abc.abstractmethod
    def watched(self, graph: Graph) -> list[Value]:
        """The values whose ranges it asks for."""

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


def at_quantizer(graph: Graph, target: Target, options: CompileOptions) -> tuple[Quantizer, list[Pass]]:
    """The pass that quantizes and those behind it; `graph` is as the former gets it. Raises UserError."""
    passes = list(target.passes(options))
    place = next((at for at, step in enumerate(passes) if isinstance(step, Quantizer)), None)
    if place is None:
        raise UserError(f"the target {options.target} does not quantize")
    quantizer = passes[place]
    assert isinstance(quantizer, Quantizer)
    run_passes(graph, passes[:place])
    return quantizer, passes[place + 1 :]


def executable(graph: Graph, later: Sequence[Pass], target: Target, options: CompileOptions) -> Executable:
    """`graph` and the passes `later`, in memory; the schedules are the rules' own."""
    graph.remove_dead()
    run_passes(graph, later)
    options = replace(options, memory_budget=None)
    program = target.build(graph, options, {}, lambda *_: None)
    return target.load_built(program, ConstantStore(), options.threads)


def calibration_samples(how: Quantization, inputs: Sequence[Mapping[str, Any]]) -> Samples | None:
    """None where ranges are known already, or found in every run. Raises UserError."""
    if how.calibration is None or is_ranges(how.calibration):
        return None
    return Samples.read(how.calibration, inputs)


def calibrated(graph: Graph, given: Samples | None, inputs: Sequence[Mapping[str, Any]], target: Target,
               options: CompileOptions, progress: Progress) -> Quantization:  # fmt: skip
    """The quantization that is asked for with its parameters, for `graph` as the frontend gives it, whose `inputs` are
    described as in a manifest. Raises UserError where the samples, or a file of ranges, are wrong."""
    how = options.quantize
    assert how is not None
    watched = _Watched(graph, target, options)
    if given is None:
        assert isinstance(how.calibration, Path)
        ranges = Ranges.load(how.calibration)
        if unknown := sorted(watched.names - ranges.ranges.keys()):
            raise UserError(f"{how.calibration} is of another model: it has no range of %{unknown[0]}")
    else:
        total = len(given.feeds)
        ranges = observe(watched.run, given.feeds, [row["name"] for row in inputs], how.method,
                         lambda done: progress(done, total, ""))  # fmt: skip
    if how.save is not None:
        ranges.save(how.save)
    params = {}
    for name in sorted(watched.names):
        range = ranges.ranges[name]
        if range.low == range.high:
            warnings.warn(f"calibration: %{name} is 0 in all samples; what multiplies it stays in float32",
                          TensorcWarning, stacklevel=2)  # fmt: skip
        else:
            params[name] = QuantParams.of(range)
    return replace(how, params=params, origin=f"{ranges.method} of {ranges.samples} samples")


def observe(run: Callable[[Sequence[np.ndarray]], Mapping[str, np.ndarray]], feeds: Iterable[Mapping[str, np.ndarray]],
            inputs: Sequence[str], method: str, progress: Callable[[int], None]) -> Ranges:  # fmt: skip
    """`run` gives values by name; `progress` is told the number of samples done. Raises UserError where a value is not
    finite."""
    observers: dict[str, Observer] = {}
    done = 0
    for feed in feeds:
        for name, values in run([feed[name] for name in inputs]).items():
            try:
                observers.setdefault(name, Observer()).update(values)
            except UserError as error:
                raise UserError(f"calibration, sample {done}: in %{name} {error}") from error
        done += 1
        progress(done)
    if not done:
        raise UserError("calibration: there are no samples")
    choose = METHODS[method]
    return Ranges({name: choose(observer) for name, observer in observers.items()}, method, done)


class _Watched:
    """A model in float32 whose results are the values that are to be quantized, by their names."""

    def __init__(self, graph: Graph, target: Target, options: CompileOptions):
        self.graph = clone(graph)
        self.target = target
        self.options = options
        quantizer, self.later = at_quantizer(self.graph, target, options)
        values = quantizer.watched(self.graph)
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
                self._executable = executable(self.graph, self.later, self.target, self.options)
            seen |= dict(zip(self.made, self._executable.run(list(arrays)), strict=True))
        return seen
