"""Every operator of the graph IR. Importing this package fills the table."""

from tensorc.ir.ops import control, elementwise, layout, nn, reduction, shape
from tensorc.ir.ops.table import OPS, REQUIRED, Kind, Op, register

__all__ = ["OPS", "REQUIRED", "Kind", "Op", "control", "elementwise", "layout", "nn", "reduction", "register", "shape"]
