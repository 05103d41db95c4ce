"""The rules for ONNX's operators, by theme. Importing this package registers them all."""

from tensorc.frontend.operators import (
    activations,
    arithmetic,
    constants,
    indexing,
    movement,
    normalization,
    products,
    random,
    reductions,
    scatter,
    selection,
    traditional,
    training,
    trigonometry,
    windows,
)
from tensorc.frontend.registry import find_rule, known_domains, supported_operators

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
    "random",
    "reductions",
    "scatter",
    "selection",
    "supported_operators",
    "traditional",
    "training",
    "trigonometry",
    "windows",
]
