"""Every operator of the graph IR. Importing this package fills the table."""

from tensorc.ir.ops import elementwise, layout, nn, random, reduction, selection, shape
from tensorc.ir.ops.table import OPS, REQUIRED, Kind, Op, register

__all__ = [
    "OPS",
    "REQUIRED",
    "Kind",
    "Op",
    "elementwise",
    "layout",
    "nn",
    "random",
    "reduction",
    "register",
    "selection",
    "shape",
]
