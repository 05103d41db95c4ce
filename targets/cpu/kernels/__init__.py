"""The CPU's kernels: for each kind of fused group, the loops around its expressions.

`lower` is the door. `elementwise`, `reduction`, `matmul`, `conv`, `depthwise`, `pool`, `attention`, `det`, `selection`,
`scan` and `scatter` each write one kind; `group` has what they share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from targets.cpu.kernels.attention import lower_attention
from targets.cpu.kernels.coded_choice import lower_coded
from targets.cpu.kernels.conv import lower_conv
from targets.cpu.kernels.det import lower_det
from targets.cpu.kernels.elementwise import lower_elementwise
from targets.cpu.kernels.group import Kernel
from targets.cpu.kernels.matmul import lower_matmul, lower_matmul_packed
from targets.cpu.kernels.pool import lower_pool
from targets.cpu.kernels.reduction import lower_reduction
from targets.cpu.kernels.scan import lower_scan
from targets.cpu.kernels.scatter import lower_scatter
from targets.cpu.kernels.selection import lower_arg, lower_top_k
from targets.cpu.machine import Machine
from targets.cpu.schedules import parse_schedule
from targets.packing import Packing
from tensorc.ir import OPS, Graph, Kind, Node

#: Those that have nothing to choose.
_FIXED: dict[str, Callable[[Graph, Node, Machine], Kernel]] = {
    "arg_max": lower_arg,
    "arg_min": lower_arg,
    "avg_pool": lower_pool,
    "cumprod": lower_scan,
    "cumsum": lower_scan,
    "det": lower_det,
    "max_pool": lower_pool,
    "scatter": lower_scatter,
    "top_k": lower_top_k,
}
#: Those that follow a schedule.
_SCHEDULED: dict[str, Callable[[Graph, Node, Machine, Any], Kernel]] = {
    "attention": lower_attention,
    "conv_blocked": lower_conv,
    "matmul": lower_matmul,
    "matmul_coded": lower_coded,
    "matmul_packed": lower_matmul_packed,
}

__all__ = ["Kernel", "Packing", "head", "lower", "lowered_anchors"]


def lowered_anchors() -> frozenset[str]:
    """The anchors that have a kernel."""
    return frozenset(_FIXED | _SCHEDULED)


def lower(body: Graph, machine: Machine, schedule: Mapping[str, Any] | None = None) -> Kernel:
    """The kernel of a fused group's body, by the rules where no schedule is given.

    Raises UnsupportedError for what has no kernel, ValueError for a schedule that is not one of this body's.
    """
    node = head(body)
    if node is not None and node.op in _SCHEDULED:
        return _SCHEDULED[node.op](body, node, machine, parse_schedule(schedule) if schedule else None)
    if schedule:
        raise ValueError(f"this kernel has nothing to choose, but was given {schedule}")
    if node is None:
        return lower_elementwise(body, machine)
    return _FIXED[node.op](body, node, machine) if node.op in _FIXED else lower_reduction(body, node, machine)


def head(body: Graph) -> Node | None:
    """The anchor or reduction of a group, if it has one."""
    return next((node for node in body.nodes if OPS[node.op].kind in (Kind.ANCHOR, Kind.REDUCTION)), None)
