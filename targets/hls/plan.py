"""A plan of cores: which layers run side by side and on how many cores each, and what waits outside the chip between.

See `exploration.intar`, which finds them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from targets.hls.layers.layer import Unroll
from targets.hls.layers.network import Network
from targets.hls.layers.split import split, waiting_outside

Mode = Literal["sequential", "dataflow", "mix"]


@dataclass(frozen=True)
class Stage:
    """A layer on `count` cores, each part of it unrolled by `unroll`."""

    layer: str
    count: int
    unroll: Unroll


@dataclass(frozen=True)
class Plan:
    """`segments` in order. `beyond`: inputs that wait outside the chip, by a layer's name and the input's number."""

    mode: Mode
    segments: tuple[tuple[Stage, ...], ...]
    beyond: frozenset[tuple[str, int]] = frozenset()

    @property
    def stages(self) -> dict[str, Stage]:
        """By their layers' names."""
        return {stage.layer: stage for segment in self.segments for stage in segment}

    def cores(self) -> dict[str, list[str]]:
        """The stages of each core, by their processes' names."""
        found: dict[str, list[str]] = {}
        for segment in self.segments:
            numbers = itertools.count()
            for stage in segment:
                for which in range(stage.count):
                    name = f"{stage.layer}_{which}" if stage.count > 1 else stage.layer
                    found.setdefault(f"core{next(numbers)}", []).append(name)
        return {core: stages for core, stages in found.items() if len(stages) > 1}

    def arranged(self, network: Network, port: int) -> Network:
        """The network with layers split for the cores that work on them, and what waits outside the chip, by ports of
        so many bytes."""
        outside = waiting_outside(network, self.beyond, port)
        return split(outside, {layer: stage.count for layer, stage in self.stages.items()})

    def __str__(self) -> str:
        """For people."""
        turns = "; then ".join(
            " and ".join(
                f"{stage.layer} on {stage.count} cores" if stage.count > 1 else stage.layer for stage in segment
            )
            for segment in self.segments
        )
        waiting = ", ".join(f"input {number + 1} of {layer}" for layer, number in sorted(self.beyond))
        return turns + (f"; outside the chip waits {waiting}" if waiting else "")
