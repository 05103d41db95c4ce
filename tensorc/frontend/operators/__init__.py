"""The rules for ONNX's operators, by theme. Importing this package registers them all."""

from tensorc.frontend.operators import (
    activations,
    arithmetic,
    constants,
    einsum,
    indexing,
    movement,
    normalization,
    products,
    reductions,
    regions,
    resize,
    sampling,
    signal,
    transposed,
    windows,
)
from tensorc.frontend.registry import find_rule, known_domains, supported_operators

__all__ = [
    "activations",
    "arithmetic",
    "constants",
    "einsum",
    "find_rule",
    "indexing",
    "known_domains",
    "movement",
    "normalization",
    "products",
    "reductions",
    "regions",
    "resize",
    "sampling",
    "signal",
    "supported_operators",
    "transposed",
    "windows",
]
