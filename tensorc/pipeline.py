"""Passes, and how a list of them is run.

A pass is a frozen dataclass whose fields are its options. It changes the graph in place and says whether it did. It
need not know of regions: it is run on a graph, then on the regions of its nodes as on other graphs.
Verifying, timing and printing happen around it, never in it.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tensorc.errors import IRError
from tensorc.ir.graph import Graph, nested
from tensorc.ir.verifier import verify


@dataclass(frozen=True)
class Pass(abc.ABC):
    """Graph in, graph out; a valid graph stays valid."""

    name: ClassVar[str]

    @abc.abstractmethod
    def run(self, graph: Graph) -> bool:
        """Change `graph` in place; True if anything changed."""

    def note(self) -> str:
        """After it has run, what a user should be told of it; "" for nothing."""
        return ""


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: its time in seconds and the number of nodes before and after, those of regions included, and
    its note."""

    name: str
    seconds: float
    nodes_before: int
    nodes_after: int
    note: str = ""


def run_passes(
    graph: Graph, passes: Sequence[Pass], after: Callable[[str, Graph], None] | None = None
) -> list[PassRecord]:
    """Run `passes` in order, verifying after each; `after` is called with each pass's name and the graph."""
    verify(graph)
    records = []
    for step in passes:
        before, start = _node_count(graph), time.perf_counter()
        for part in nested(graph):
            step.run(part)
        try:
            verify(graph)
        except IRError as error:
            raise IRError(f"after pass {step.name}: {error}") from error
        seconds = time.perf_counter() - start
        records.append(PassRecord(step.name, seconds, before, _node_count(graph), step.note()))
        if after is not None:
            after(step.name, graph)
    return records


def _node_count(graph: Graph) -> int:
    return sum(len(part.nodes) for part in nested(graph))
