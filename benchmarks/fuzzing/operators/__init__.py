"""How to place each operator in a random graph: a function each, or one for all that differ in their name only.

A generator chooses inputs and attributes within what the operator's specification allows. What the specification leaves
open (a division of integers by zero, a cast of what does not fit, a shift too far) is not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from benchmarks.fuzzing.graphs import Graph
from benchmarks.fuzzing.operators import (  # noqa: F401  (importing them is what adds to PLACES)
    attention,
    constants,
    control,
    elementwise,
    indices,
    movement,
    normalizations,
    products,
    quantization,
    random,
    recurrent,
    reductions,
    sampling,
    sequences,
    signal,
    traditional,
    training,
    windows,
)
from benchmarks.fuzzing.operators.registry import PLACES, fill

__all__ = ["PLACES", "random_graph"]


def random_graph(rng: np.random.Generator, names: Sequence[str], most_nodes: int = 12) -> Graph:
    """A graph of 1 to `most_nodes` nodes (few more often than many) of the operators `names`."""
    newest = onnx.defs.onnx_opset_version()
    # ONNX Runtime reads up to 26.
    opset = int(rng.choice([13, 15, 17, 18, 19, 20, 21, 22, 23, 24, 24, 25, 26, 26, 28]))
    g = Graph(rng, min(opset, newest))
    wanted = min(1 + int(rng.geometric(0.3)) - 1, most_nodes) or 1
    fill(g, names, wanted)
    return g
