"""Memory mapping: where every value of a graph lives, and the planners that decide it."""

from passes.memory.graph import (
    ALIGNMENT,
    Buffer,
    CarriedPointers,
    InsertCopies,
    LoopPlan,
    MemoryPlan,
    Place,
    SlicePointer,
    Space,
    place_greedily,
    plan_memory,
)
from passes.memory.order import OrderNodes

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
    "place_greedily",
    "plan_memory",
]
