"""A model run stage by stage, each stage by numpy: what the frontend and the executable do, without a compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from tensorc.dynamic.executable import DynamicExecutable
from tensorc.frontend.importer import open_model
from tensorc.ir import Graph, evaluate
from tensorc.target import Executable

Run = Callable[[Mapping[str, Any]], list[Any]]


class ByNumpy(Executable):
    def __init__(self, graph: Graph):
        self.graph = graph

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        names = [value.name for value in self.graph.inputs]
        return evaluate(self.graph, dict(zip(names, inputs, strict=True)))

    def close(self) -> None:
        pass


class Staged:
    """`graphs` are those that a compiler would have got."""

    def __init__(self, model: onnx.ModelProto, fallback: bool = False):
        opened = open_model(model, fallback=fallback)
        self.names = [declared.name for declared in opened.inputs]
        self.graphs: list[Graph] = []

        def build(graph: Graph) -> Executable:
            self.graphs.append(graph)
            return ByNumpy(graph)

        self.executable = DynamicExecutable(
            [(declared.name, declared.dtype) for declared in opened.inputs],
            lambda kinds: opened.start(dict(zip(self.names, kinds, strict=True))),
            build,
            threads=1,
        )

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        return self.executable.run([feed[name] for name in self.names])


@pytest.fixture
def staged() -> Callable[[onnx.ModelProto], Staged]:
    return Staged
