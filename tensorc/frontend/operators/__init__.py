"""The rules for ONNX's operators, by theme. Importing this package registers them all."""

from tensorc.frontend.operators import (
    activations,
    arithmetic,
    constants,
    control,
    indexing,
    movement,
    normalization,
    products,
    recurrent,
    reductions,
    windows,
)
from tensorc.frontend.registry import find_rule, known_domains, supported_operators

__all__ = [
    "activations",
    "arithmetic",
    "constants",
    "control",
    "find_rule",
    "indexing",
    "known_domains",
    "movement",
    "normalization",
    "products",
    "recurrent",
    "reductions",
    "supported_operators",
    "windows",
]
