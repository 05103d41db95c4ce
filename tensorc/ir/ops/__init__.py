"""Every operator of the graph IR. Importing this package fills the table."""

from tensorc.ir.ops import elementwise, layout, nn, reduction, selection, shape, trigonometry
from tensorc.ir.ops.table import OPS, REQUIRED, Kind, Op, register

__all__ = [
    "OPS",
    "REQUIRED",
    "Kind",
    "Op",
    "elementwise",
    "layout",
    "nn",
    "reduction",
    "register",
    "selection",
    "shape",
    "trigonometry",
]
