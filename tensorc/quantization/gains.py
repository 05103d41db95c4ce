"""What quantizing each layer gains in time, as the cost model predicts it, or as tuning has measured it.

Kernels are told apart by the weights that they read. Where a target has no cost model, or a kernel leaves nothing to
choose, a layer's gain is not known; where all weights end up as floats, there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from tensorc.ir.graph import Graph, clone
from tensorc.ir.types import is_float
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.quantization.trial import Layer
from tensorc.search.choice import Choice
from tensorc.search.context import TuningContext
from tensorc.target import Target

#: Fused groups -> how they are to be computed, and what that takes.
Choose = Callable[[Graph], Mapping[str, Choice]]


@dataclass(frozen=True)
class Gain:
    """Seconds of a layer's kernel; None where they are not known. `in_integers`: whether that is what it multiplies
    where it is quantized, and not floats that stand for them, as on a machine that has no instructions for bytes."""

    exact: float | None
    quantized: float | None
    in_integers: bool = True

    @property
    def is_none(self) -> bool:
        """Whether the quantized kernel is known to be no faster."""
        if not self.in_integers:
            return True
        return self.exact is not None and self.quantized is not None and self.quantized >= self.exact


def gains(graph: Graph, layers: Collection[Layer], target: Target, options: CompileOptions,
          choose: Choose) -> dict[str, Gain]:  # fmt: skip
    """By the layers' names; `graph` is as the frontend gives it."""
    context = target.tuning(options)
    if context is None:
        return {layer.name: Gain(None, None) for layer in layers}
    assert options.quantize is not None
    exact = replace(options, quantize=replace(options.quantize, skipped=frozenset(layer.name for layer in layers)))
    before, _ = _choices(graph, target, exact, context, choose)
    after, in_integers = _choices(graph, target, options, context, choose)
    if not in_integers:
        return {layer.name: Gain(None, None, in_integers=False) for layer in layers}
    return {layer.name: _gain(before.get(layer.label), after.get(layer.label)) for layer in layers}


def _gain(exact: Choice | None, quantized: Choice | None) -> Gain:
    """What was measured is compared with what was measured."""
    if exact is None or quantized is None:
        return Gain(None, None)
    if exact.measured_seconds is not None and quantized.measured_seconds is not None:
        return Gain(exact.measured_seconds, quantized.measured_seconds)
    return Gain(exact.predicted_seconds, quantized.predicted_seconds)


def _choices(graph: Graph, target: Target, options: CompileOptions, context: TuningContext,
             choose: Choose) -> tuple[dict[str, Choice], bool]:  # fmt: skip
    """Of kernels by the label of the weights that they alone read; and whether any weights are integers."""
    graph = clone(graph)
    run_passes(graph, target.passes(options))
    choices = choose(graph)
    found: dict[str, Choice] = {}
    bodies = [node for node in graph.nodes if node.body is not None]
    read = [(node, _labels(value.constant.label for value in node.inputs if value.constant)) for node in bodies]
    counts = Counter(label for _, labels in read for label in labels)
    for node, labels in read:
        assert node.body is not None
        choice = choices.get(context.key(node.body).workload)
        if choice is not None:
            found.update((label, choice) for label in labels if counts[label] == 1)
    constants = [value.type for node in bodies for value in node.inputs if value.constant is not None]
    return found, any(type.rank > 1 and not is_float(type.dtype) for type in constants)


def _labels(labels: Iterable[str]) -> set[str]:
    return {label for label in labels if label}
