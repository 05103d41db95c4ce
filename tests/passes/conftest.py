"""Fixtures of the pass tests: a graph before, the graph after, and that both mean the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from tensorc.ir import Graph, clone, evaluate, parse_graph, print_graph
from tensorc.ir.types import numpy_dtype
from tensorc.pipeline import Pass, run_passes

Check = Callable[..., Graph]


def renamed(graph: Graph) -> str:
    """The text of `graph` with names that depend on its structure only."""
    copy = clone(graph)
    copy.name = "main"
    for index, value in enumerate([*copy.values(), *copy.constants()]):
        value.name = f"v{index}"
    return print_graph(copy)


def random_inputs(graph: Graph, positive: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20)
    arrays = {}
    for value in graph.inputs:
        if "float" in value.dtype:
            data = rng.uniform(0.25, 2, value.shape) if positive else rng.standard_normal(value.shape)
        else:
            data = rng.integers(0, 2, value.shape)
        arrays[value.name] = data.astype(numpy_dtype(value.dtype))
    return arrays


def assert_same_meaning(before: Graph, after: Graph, positive: bool = False, tolerance: float = 2e-5) -> None:
    arrays = random_inputs(before, positive)
    for expected, got in zip(evaluate(before, arrays), evaluate(after, arrays), strict=True):
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def becomes() -> Check:
    """becomes(passes, before, after): `passes` make `after` of `before`, and it means the same."""

    def check(
        passes: Sequence[Pass],
        before: str,
        after: str,
        data: Mapping[str, np.ndarray] | None = None,
        positive: bool = False,
        tolerance: float = 2e-5,
    ) -> Graph:
        graph = parse_graph(before, data)
        original = clone(graph)
        run_passes(graph, passes)
        assert renamed(graph) == renamed(parse_graph(after, data))
        assert_same_meaning(original, graph, positive, tolerance)
        return graph

    return check


@pytest.fixture
def keeps(becomes: Check) -> Check:
    """keeps(passes, text): `passes` leave the graph alone."""

    def check(passes: Sequence[Pass], text: str) -> Graph:
        return becomes(passes, text, text)

    return check


@pytest.fixture
def transforms() -> Check:
    """transforms(passes, text): the graph after `passes`, checked to mean the same."""

    def check(
        passes: Sequence[Pass], text: str, data: Mapping[str, np.ndarray] | None = None, positive: bool = False
    ) -> Graph:
        graph = parse_graph(text, data)
        original = clone(graph)
        run_passes(graph, passes)
        assert_same_meaning(original, graph, positive)
        return graph

    return check
