"""The rules for ONNX's operators, by theme. Importing this package registers them all."""

from tensorc.frontend.operators import (
    activations,
    arithmetic,
    casts,
    constants,
    control,
    host,
    indexing,
    movement,
    normalization,
    products,
    quantization,
    recurrent,
    reductions,
    sequences,
    windows,
)
from tensorc.frontend.registry import find_rule, known_domains

__all__ = [
    "activations",
    "arithmetic",
    "casts",
    "constants",
    "control",
    "find_rule",
    "host",
    "indexing",
    "known_domains",
    "movement",
    "normalization",
    "products",
    "quantization",
    "recurrent",
    "reductions",
    "sequences",
    "windows",
]
