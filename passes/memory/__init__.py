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

__all__ = [
    "ALIGNMENT",
    "Buffer",
    "CarriedPointers",
    "InsertCopies",
    "LoopPlan",
    "MemoryPlan",
    "Place",
    "SlicePointer",
    "Space",
    "place_greedily",
    "plan_memory",
]
