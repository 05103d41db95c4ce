"""What the search asks of a target: the spaces of its kernels, candidates' features, and somebody to time them."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np

from tensorc.ir.graph import Graph
from tensorc.search.measure import Measurer
from tensorc.search.model import CostModel
from tensorc.search.records import Key
from tensorc.search.space import ScheduleJson, Space
from tensorc.workload import workload_key


class TuningContext(abc.ABC):
    """A target, as far as tuning goes. What it measures counts for one machine, compiler and number of threads."""

    #: The machine that measurements are of, in words that tell machines apart.
    machine: str
    #: What generated the code: measurements of another generator are not comparable.
    compiler: str
    threads: int

    def key(self, body: Graph) -> Key:
        return Key(workload_key(body), self.machine, self.compiler, self.threads)

    @abc.abstractmethod
    def space(self, body: Graph) -> Space | None:
        """The schedules of a fused group's body; None where there is nothing to choose."""

    @abc.abstractmethod
    def features(self, body: Graph, schedules: Sequence[ScheduleJson]) -> np.ndarray:
        """[schedules, features] for the cost model."""

    @abc.abstractmethod
    def pretrained(self, seed: int = 0) -> CostModel | None:
        """The model that ships with the target, None where none does. Raises UserError where it cannot be read."""

    @abc.abstractmethod
    def untrained(self, seed: int = 0) -> CostModel:
        """A model that knows only the analytic estimate, and learns from measurements."""

    @abc.abstractmethod
    def measurer(self) -> Measurer:
        """Workers that build and time candidates on this machine."""
