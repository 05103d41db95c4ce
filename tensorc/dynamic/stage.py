"""One stage of a model: what the frontend makes, and what a run goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tensorc.dynamic.kinds import Binding, Kind
from tensorc.ir.graph import Graph


@dataclass(frozen=True)
class HostCall:
    """An operator of `tensorc.dynamic.host`, done between two stages. `outputs` are the names of what it gives."""

    op: str
    inputs: tuple[Binding, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    label: str


@dataclass(frozen=True)
class Stage:
    """First the graph is run, from the data named `inputs` to those named `outputs`; then the calls are made; then what
    stands in `results`, if it is there, is what the model gives. Else the next stage follows from the kinds of what
    the calls gave and from the values of `demands`.

    With `by_numpy`, the graph is so small that numpy does it sooner than a compiler.
    """

    graph: Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    by_numpy: bool
    calls: tuple[HostCall, ...]
    demands: tuple[str, ...]
    results: tuple[Binding, ...] | None


class StageSource(Protocol):
    """What can tell the next stage: the frontend, at some point of the model."""

    stage: Stage

    def next(self, kinds: Sequence[Kind], values: Sequence[np.ndarray]) -> StageSource:
        """`kinds` of what the calls gave, in order; `values` of the demands."""
        ...
