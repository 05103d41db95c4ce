"""The rules for ONNX's operators, by theme. Importing this package registers them all."""

from tensorc.frontend.operators import (
    activations,
    arithmetic,
    constants,
    indexing,
    movement,
    normalization,
    products,
    reductions,
    windows,
)
from tensorc.frontend.registry import find_rule, known_domains

__all__ = [
    "activations",
    "arithmetic",
    "constants",
    "find_rule",
    "indexing",
    "known_domains",
    "movement",
    "normalization",
    "products",
    "reductions",
    "windows",
]
