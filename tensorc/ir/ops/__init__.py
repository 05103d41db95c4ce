"""Every operator of the graph IR. Importing this package fills the table."""

from tensorc.ir.ops import (
    coded,
    control,
    conversion,
    elementwise,
    experts,
    fixed,
    fixed_rows,
    layout,
    linalg,
    nn,
    quantization,
    reduction,
    selection,
    shape,
    trigonometry,
)
from tensorc.ir.ops.table import OPS, REQUIRED, Kind, Op, register

__all__ = [
    "OPS",
    "REQUIRED",
    "Kind",
    "Op",
    "coded",
    "control",
    "conversion",
    "elementwise",
    "experts",
    "fixed",
    "fixed_rows",
    "layout",
    "linalg",
    "nn",
    "quantization",
    "reduction",
    "register",
    "selection",
    "shape",
    "trigonometry",
]
