"""Mixed precision: the layers that are quantized such that a model is fast and still as good as it has to be.

What is not faster quantized stays in float32. If the model with all others quantized is too bad, each of them is
quantized alone: how much noise that makes in the outputs, by the seconds that it saves, is the order in which they are
given up. How many are is found by bisection, each time with the whole model on all samples; then those that were given
up are tried again one by one, the most gainful first, since what was given up later may be what was needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from tensorc.quantization.gains import Gain
from tensorc.quantization.trial import Layer

#: Seconds that one multiplication is taken to save where the cost model says nothing: only the order counts.
_SAVED = 1e-11
#: Layers that were given up and are tried again.
_RETRIED = 24

NOT_FASTER = "not faster"
SENSITIVE = "sensitive"
QUANTIZED = "quantized"


@dataclass(frozen=True)
class Search:
    """`layers` that may be quantized, with their `gains`; `holds` says whether a model of those quantized layers is
    good enough, `noise` what one alone does to the outputs."""

    layers: Sequence[Layer]
    gains: Mapping[str, Gain]
    holds: Callable[[Collection[str]], bool]
    noise: Callable[[str], float]

    def run(self) -> dict[str, str]:
        """What becomes of each layer, and why."""
        useful = [layer for layer in self.layers if not self.gains[layer.name].is_none]
        chosen = {layer.name for layer in useful}
        if useful and not self.holds(chosen):
            order = sorted(useful, key=self._cost, reverse=True)
            chosen = self._again(order, self._bisected(order))
        return {
            layer.name: QUANTIZED if layer.name in chosen
            else NOT_FASTER if self.gains[layer.name].is_none else SENSITIVE
            for layer in self.layers
        }  # fmt: skip

    def _saved(self, layer: Layer) -> float:
        gain = self.gains[layer.name]
        if gain.exact is None or gain.quantized is None:
            return max(layer.multiplications, 1) * _SAVED
        return gain.exact - gain.quantized

    def _cost(self, layer: Layer) -> float:
        noise = self.noise(layer.name)
        return noise / self._saved(layer) if math.isfinite(noise) else math.inf

    def _bisected(self, order: Sequence[Layer]) -> int:
        """So many of the first layers are enough to be given up, and one less are not (where that is monotonic)."""
        few, enough = 0, len(order)
        while enough - few > 1:
            middle = (few + enough) // 2
            if self.holds({layer.name for layer in order[middle:]}):
                enough = middle
            else:
                few = middle
        return enough

    def _again(self, order: Sequence[Layer], given_up: int) -> set[str]:
        chosen = {layer.name for layer in order[given_up:]}
        # The last one is what the bisection was decided by.
        retried = sorted(order[: max(given_up - 1, 0)], key=self._saved, reverse=True)[:_RETRIED]
        for layer in retried:
            if self.holds(chosen | {layer.name}):
                chosen.add(layer.name)
        return chosen
