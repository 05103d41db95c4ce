"""A target in fifty lines: an artifact holds the graph's text and weights, and running it is the numpy interpreter.

It lets the driver and the command line be tested without a compiler, and shows what a target of one's own takes. The
part `wrong` (target string `interpreter:wrong`) gives wrong results, `interrupt` is stopped while it writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tensorc.ir import evaluate, parse_graph, print_graph
from tensorc.ir.text import INLINE_ELEMENTS
from tensorc.ir.types import numpy_dtype
from tensorc.pipeline import Pass
from tensorc.target import Executable, Program, Target


@dataclass(frozen=True)
class Tidy(Pass):
    name = "tidy"

    def run(self, graph):
        return graph.remove_dead()


class Interpreted(Executable):
    def __init__(self, graph, error):
        self.graph = graph
        self.error = error

    def run(self, inputs):
        names = [value.name for value in self.graph.inputs]
        results = evaluate(self.graph, dict(zip(names, inputs, strict=True)))
        return [np.ascontiguousarray(result + np.asarray(self.error, result.dtype)) for result in results]

    def close(self):
        pass


class InterpreterTarget(Target):
    name = "interpreter"

    def passes(self, _options):
        return [Tidy()]

    def build(self, graph, _options, _schedules, progress):
        weights = {v.constant.label or v.name: v for v in graph.constants() if math.prod(v.shape) > INLINE_ELEMENTS}
        sections = {"graph": [print_graph(graph).encode()]}
        for done, (label, value) in enumerate(weights.items()):
            progress(done, len(weights), label)
            sections[label] = self.chunks(value)
        types = {label: [value.dtype, list(value.shape)] for label, value in weights.items()}
        steps = [{"kernel": node.op, "label": node.output.name} for node in graph.nodes]
        return Program(sections, {"weights": types, "steps": steps}, [("kernels", str(len(graph.nodes)))])

    def chunks(self, value):
        if self.part == "interrupt":
            raise KeyboardInterrupt
        yield value.constant.numpy()

    def load(self, manifest, sections, _constants, _threads):
        data = {
            label: np.frombuffer(sections[label], numpy_dtype(dtype)).reshape(shape)
            for label, (dtype, shape) in manifest["weights"].items()
        }
        return Interpreted(parse_graph(bytes(sections["graph"]).decode(), data), 0.5 if self.part == "wrong" else 0)

    @classmethod
    def describe(cls):
        return [("interpreter", "numpy, one operator at a time")]
