"""The rules for ONNX's operators, by theme. Importing this package registers them all."""

from tensorc.frontend.operators import (
    activations,
    arithmetic,
    casts,
    constants,
    indexing,
    movement,
    normalization,
    products,
    quantization,
    reductions,
    windows,
)
from tensorc.frontend.registry import find_rule, known_domains, supported_operators

__all__ = [
    "activations",
    "arithmetic",
    "casts",
    "constants",
    "find_rule",
    "indexing",
    "known_domains",
    "movement",
    "normalization",
    "products",
    "quantization",
    "reductions",
    "supported_operators",
    "windows",
]
