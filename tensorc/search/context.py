"""What the search asks of a target: the spaces of its kernels, candidates' features, and somebody to time them."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tensorc.errors import UnsupportedError
from tensorc.ir.graph import Graph
from tensorc.search.measure import Measurer
from tensorc.search.model import CostModel
from tensorc.search.records import Key
from tensorc.search.space import ScheduleJson, Space
from tensorc.workload import workload_key

if TYPE_CHECKING:
    from tensorc.search.bundle import BundleResults, BundleTask


class TuningContext(abc.ABC):
    """A target, as far as tuning goes. What it measures counts for one machine, compiler and number of threads."""

    #: The machine that measurements are of, in words that tell machines apart.
    machine: str
    #: What generated the code: measurements of another generator are not comparable.
    compiler: str
    threads: int
    #: To measure a bundle.
    bundle_needs = "Python and numpy"

    def key(self, body: Graph) -> Key:
        return Key(workload_key(body), self.machine, self.compiler, self.threads)

    @abc.abstractmethod
    def space(self, body: Graph) -> Space | None:
        """The schedules of a fused group's body; None where there is nothing to choose."""

    @abc.abstractmethod
    def features(self, body: Graph, schedules: Sequence[ScheduleJson]) -> np.ndarray:
        """[schedules, features] for the cost model."""

    def packing(
        self,
        body: Graph,  # noqa: ARG002  (the contract's)
        schedule: ScheduleJson,  # noqa: ARG002
    ) -> Hashable:
        """In which order a kernel of that schedule reads the constants; None where every schedule has them alike."""
        return None

    @abc.abstractmethod
    def pretrained(self, seed: int = 0) -> CostModel | None:
        """The model that ships with the target, None where none does. Raises UserError where it cannot be read."""

    @abc.abstractmethod
    def untrained(self, seed: int = 0) -> CostModel:
        """A model that knows only the analytic estimate, and learns from measurements."""

    def cores(self) -> Sequence[int]:
        """One processor of each core that may be measured on here: what processes that share the machine deal out."""
        return sorted(os.sched_getaffinity(0))

    def export_bundle(
        self,
        folder: Path,  # noqa: ARG002  (the contract's)
        tasks: Sequence[BundleTask],  # noqa: ARG002
        progress: Callable[[int, int], None] | None = None,  # noqa: ARG002
    ) -> None:
        """Build candidates into the new `folder`, to be timed where there is no compiler. `progress` is called with
        candidates done and in all. Raises UserError where that cannot be, as with a target that has no bundles."""
        raise UnsupportedError(f"the target of {self.machine} makes no bundles")

    def import_bundle(self, folder: Path) -> BundleResults:
        """What was measured of the bundle in `folder`. Raises UserError where it is none or was not measured."""
        raise UnsupportedError(f"the target of {self.machine} makes no bundles, such as {folder}")

    @abc.abstractmethod
    def measurer(self) -> Measurer:
        """Workers that build and time candidates on this machine."""
