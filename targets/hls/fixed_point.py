"""The passes to fixed point, and graphs that are interpreted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from passes.canonical import canonical_passes
from passes.cse import EliminateCommonSubexpressions
from passes.exact import ComputeExactly
from passes.fixed_point import FixedPoint
from passes.fold import FoldConstants
from passes.fusion import FuseGroups
from passes.recognize import RecognizeExperts
from passes.simplify import Simplify
from tensorc.ir.graph import Graph
from tensorc.ir.interpreter import evaluate
from tensorc.ir.types import numpy_dtype
from tensorc.options import CompileOptions
from tensorc.pipeline import Pass
from tensorc.target import Executable


def fixed_point_passes(options: CompileOptions) -> list[Pass]:
    """From the frontend's graph to fused groups of fixed-point arithmetic."""
    bits = options.quantize.fixed if options.quantize is not None else None
    passes: list[Pass] = [*canonical_passes(), RecognizeExperts(), Simplify(), ComputeExactly()]
    if options.quantize is not None and bits is not None:
        how = options.quantize
        passes.append(FixedPoint(bits.values, bits.weights, how.ranges, how.widths, bits.lmul))
    return [*passes, Simplify(), FoldConstants(), EliminateCommonSubexpressions(), FuseGroups(moves=False)]


class Interpreted(Executable):
    """A graph that is run by the meanings of its operators: in fixed point, the reference that hardware must equal."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        fed = {
            value.name: np.asarray(array).astype(numpy_dtype(value.dtype))
            for value, array in zip(self.graph.inputs, inputs, strict=True)
        }
        # Who asked for float32 gets it; the graph computes in float64.
        return [
            np.ascontiguousarray(array, np.float32 if array.dtype == np.float64 else array.dtype)
            for array in evaluate(self.graph, fed)
        ]

    def close(self) -> None:
        """Nothing is kept open."""
