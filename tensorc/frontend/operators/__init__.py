"""The rules for ONNX's operators, by theme. Importing this package registers them all."""

from tensorc.frontend.operators import (
    activations,
    arithmetic,
    constants,
    control,
    host,
    indexing,
    movement,
    normalization,
    products,
    recurrent,
    reductions,
    sequences,
    windows,
)
from tensorc.frontend.registry import find_rule, known_domains, supported_operators

__all__ = [
    "activations",
    "arithmetic",
    "constants",
    "control",
    "find_rule",
    "host",
    "indexing",
    "known_domains",
    "movement",
    "normalization",
    "products",
    "recurrent",
    "reductions",
    "sequences",
    "supported_operators",
    "windows",
]
