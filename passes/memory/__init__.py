"""Memory mapping: where every value of a graph lives, and the planners that decide it.

- `passes.memory.graph`: the pass; from a graph's values to buffers, and back from offsets to places.
- `passes.memory.problem`: buffers, memory spaces, problems and plans; `minimalloc` is their CSV form.
- `passes.memory.spilling`: a smaller arena, by computing again and by a file; `streaming`: weights that come and go.
- `passes.memory.check`: whether a plan is valid; `bounds`: what none can be lower than.
- `passes.memory.order`: the pass that chooses the order of nodes; `dataflow` and `ordering` are what it searches.
- `passes.memory.replacement`: a fast memory that is smaller than what a graph needs.
- `passes.memory.greedy`, `exact`, `cpsat`, `game`: planners; `portfolio` runs them by name, or in turns.
"""

from passes.memory.graph import (
    ALIGNMENT,
    CarriedPointers,
    InsertCopies,
    LoopPlan,
    MemoryPlan,
    Place,
    SlicePointer,
    Space,
    plan_memory,
)
from passes.memory.order import OrderNodes
from passes.memory.problem import Buffer

__all__ = [
    "ALIGNMENT",
    "Buffer",
    "CarriedPointers",
    "InsertCopies",
    "LoopPlan",
    "MemoryPlan",
    "OrderNodes",
    "Place",
    "SlicePointer",
    "Space",
    "plan_memory",
]
