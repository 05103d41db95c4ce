"""Axes that are sliced and then split are split first: a slice of a view instead of a view of a slice.

Exporters make queries, keys and values by one product, slice its columns apart and view each part as heads. A view
stands between kernels, so the slices would be copies; behind the view, they are moves that attention's kernel reads
through. For targets whose kernels do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from passes.rules.matching import private
from passes.rules.movement import view
from tensorc.ir import Graph, Node, Value
from tensorc.ir.rewriter import Builder, producer, rewrite
from tensorc.pipeline import Pass


@dataclass(frozen=True)
class SplitAxes(Pass):
    name: ClassVar[str] = "split-axes"

    def run(self, graph: Graph) -> bool:
        return rewrite(graph, {"reshape": [_split_before_slice]})


def _split_before_slice(node: Node, build: Builder) -> Value | None:
    part, shape = node.inputs[0], node.output.shape
    node_of_part = producer(part, "slice")
    last = part.type.rank - 1
    if node_of_part is None or not private(part, build.graph) or len(shape) <= last + 1 or last < 0:
        return None
    whole = node_of_part.inputs[0]
    each = math.prod(shape[last + 1 :]) if all(isinstance(dim, int) for dim in shape[last + 1 :]) else 0
    starts, steps = node_of_part.attrs["starts"], node_of_part.attrs["steps"]
    extent = whole.shape[last]
    if shape[:last] != part.shape[:last] or steps[last] != 1 or not isinstance(extent, int) or each < 1:
        return None
    if starts[last] % each or extent % each:
        return None
    split = view(build, whole, (*whole.shape[:last], extent // each, *shape[last + 1 :]))
    behind = (0,) * (len(shape) - last - 1)
    return build(
        "slice", split, starts=(*starts[:last], starts[last] // each, *behind), sizes=shape,
        steps=(*steps, *(1 for _ in behind)),
    )  # fmt: skip
